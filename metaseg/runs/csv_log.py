"""Tables that grow by a row at a time and can be cut back to the step from which a run goes on."""

from __future__ import annotations

import contextlib
import csv
import io
import math
import numbers
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from metaseg.checked_files import FileKind, read_rows, read_text
from metaseg.errors import RunError, warn_user
from metaseg.written_files import write_text, writing

LOG_KIND = FileKind("a log of a metaseg run", "start the run again with --overwrite")


class CsvLog:
    """A CSV file with a ``step`` column, written a row at a time.

    Rows reach the file at once, so that a killed run keeps them, and the disk with :meth:`sync`. A run that goes on
    from an earlier step drops the rows beyond it, and what a kill or a power cut has left of others; the file then
    grows as if the run had never stopped. Where rows up to that step are missing, it is said.

    Args:
        path: The file.
        columns: Names of the columns; the first is ``"step"``.
        resume_step: The last step whose rows are kept; None begins the file anew.
        expected: How many rows there were up to that step; None if that is not known.

    Raises:
        RunError: The file to go on with has other columns.
    """

    def __init__(
        self, path: Path, columns: Sequence[str], resume_step: int | None = None, expected: int | None = None
    ) -> None:
        self.columns = tuple(columns)
        kept = [] if resume_step is None else _rows_up_to(path, self.columns, resume_step)
        if resume_step and (len(kept) < expected if expected is not None else not path.exists()):
            lost = "the rows" if expected is None else f"{expected - len(kept)} of {expected} rows"
            warn_user(
                f"{lost} of {path.name} up to step {resume_step} are lost; the run goes on, its history has a gap",
                where=path,
                remedy="copy the file back and resume again, or start the run again with --overwrite",
            )
        self.rows = max(len(kept), expected or 0)
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.columns, *kept])
        write_text(path, text.getvalue())
        self._path = path
        with writing(path):
            self._open()

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows; a missing column and NaN become an empty cell, floats keep all their digits.

        Raises:
            ValueError: A row has a column that the table lacks.
        """
        for row in rows:
            unknown = set(row) - set(self.columns)
            if unknown:
                raise ValueError(f"no such column: {', '.join(sorted(unknown))}")
        with writing(self._path):
            self._writer.writerows([cell(row.get(column)) for column in self.columns] for row in rows)
            self._stream.flush()
        self.rows += len(rows)

    def sync(self) -> int:
        """Bring all rows to the disk, where a power cut leaves them; gives how many there should be.

        A file that somebody has deleted meanwhile is written again.
        """
        with writing(self._path):
            self._stream.flush()
            if not self._path.exists():
                self._stream.seek(0)
                warn_user(f"{self._path.name} was deleted while the run wrote it: written again", where=self._path)
                write_text(self._path, self._stream.read())
                self._stream.close()
                self._open()
            os.fsync(self._stream.fileno())
        return self.rows

    def _open(self) -> None:
        self._stream: IO[str] = self._path.open("a+", encoding="utf-8", newline="")
        self._writer = csv.writer(self._stream, lineterminator="\n")

    def close(self) -> None:
        """Close the file; what a full disk has no room for is lost."""
        with contextlib.suppress(OSError):
            self._stream.close()


def cell(value: Any) -> str:
    """A value as a cell: the shortest text that gives the same number back; empty for None and NaN."""
    if isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral):
        # numpy's numbers as well: a float32 is written as the float that it is.
        return "" if math.isnan(value) else repr(float(value))
    return "" if value is None else str(value)


def read_log(
    path: Path, text: Sequence[str] = (), whole: Sequence[str] = (), numbers: Sequence[str] = ()
) -> list[dict[str, str]]:
    """Read a log as :func:`~metaseg.checked_files.read_rows` does; empty if there is no such file.

    Raises:
        RunError: The file is damaged.
    """
    return read_rows(path, LOG_KIND, text, whole, numbers, growing=True) if path.exists() else []


def _rows_up_to(path: Path, columns: tuple[str, ...], step: int) -> list[list[str]]:
    if not path.exists():
        return []
    text = read_text(path, LOG_KIND, nulls=True)
    # A last line without its end was cut off by a kill, and a power cut leaves zeros where nothing was on the disk yet.
    lines = [line for line in text[: text.rfind("\n") + 1].splitlines(keepends=True) if "\0" not in line]
    rows = list(csv.reader(io.StringIO("".join(lines))))
    if rows and tuple(rows[0]) != columns:
        raise RunError(
            "the table has other columns than this version of metaseg writes",
            where=path,
            expected=", ".join(columns),
            remedy="continue the run with the version that began it, or start again with --overwrite",
        )
    return [row for row in rows[1:] if len(row) == len(columns) and row[0].isdigit() and int(row[0]) <= step]
