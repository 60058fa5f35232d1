"""What happens in a run: scalars, pictures and choices, for TensorBoard, for tables and for an audit.

Tables grow by a row at a time and can be cut back to the step from which a run continues. The rule of all logs here:
write what belongs to step *n* before the training state of step *n* is saved. A run that continues from that state
then drops only what it will write again.
"""

from __future__ import annotations

import contextlib
import csv
import io
import math
import numbers
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, Self

from metaseg.errors import RunError, warn_user
from metaseg.files import FileKind, read_rows, read_text, write_text, writing
from metaseg.runs.folder import RunFolder

if TYPE_CHECKING:
    import numpy as np

METRICS_NAME = "metrics.csv"
METRICS_COLUMNS = ("step", "epoch", "name", "value")
SELECTION_NAME = "selection.csv"

Curve = tuple[list[int], list[float]]
"""Steps and values of a metric."""
LOG_KIND = FileKind("a log of a metaseg run", "start the run again with --overwrite")


class CsvLog:
    """A CSV file with a ``step`` column, written a row at a time.

    Rows reach the file at once, so that a killed run keeps them, and the disk with :meth:`sync`. A run that continues
    from an earlier step drops the rows beyond it, and what a kill or a power cut has left of others; the file then
    grows as if the run had never stopped. Where rows up to that step are missing, it is said.

    Args:
        path: The file.
        columns: Names of the columns; the first is ``"step"``.
        resume_step: The last step whose rows are kept; None begins the file anew.
        expected: How many rows there were up to that step; None if that is not known.

    Raises:
        RunError: The file to continue with has other columns.
    """

    def __init__(
        self, path: Path, columns: Sequence[str], resume_step: int | None = None, expected: int | None = None
    ) -> None:
        self.columns = tuple(columns)
        kept = [] if resume_step is None else _rows_up_to(path, self.columns, resume_step)
        if resume_step and (len(kept) < expected if expected is not None else not path.exists()):
            lost = "the rows" if expected is None else f"{expected - len(kept)} of {expected} rows"
            warn_user(
                f"{lost} of {path.name} up to step {resume_step} are lost; the run continues, its history has a gap",
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def cell(value: Any) -> str:
    """A value as a cell: the shortest text that gives the same number back; empty for None and NaN."""
    if isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral):
        # numpy's numbers as well: a float32 is written as the float that it is.
        return "" if math.isnan(value) else repr(float(value))
    return "" if value is None else str(value)


def read_log(
    path: Path,
    text: Sequence[str] = (),
    whole: Sequence[str] = (),
    numbers: Sequence[str] = (),
    later: Sequence[str] = (),
) -> list[dict[str, str]]:
    """Read a log as :func:`~metaseg.files.read_rows` does; empty if there is no such file.

    Raises:
        RunError: The file is damaged.
    """
    return read_rows(path, LOG_KIND, text, whole, numbers, later=later, growing=True) if path.exists() else []


def _rows_up_to(path: Path, columns: tuple[str, ...], step: int) -> list[list[str]]:
    if not path.exists():
        return []
    text = read_text(path, LOG_KIND, nulls=True)
    # A last line without its end was cut off by a kill, and a power cut leaves zeros where nothing was on the disk yet.
    lines = [line for line in text[: text.rfind("\n") + 1].splitlines(keepends=True) if "\0" not in line]
    rows = list(csv.reader(io.StringIO("".join(lines))))
    header = rows[0] if rows else list(columns)
    if header[0] != columns[0] or not set(header) <= set(columns):
        raise RunError(
            "the table has other columns than this version of metaseg writes",
            where=path,
            expected=", ".join(columns),
            remedy="continue the run with the version that began it, or start again with --overwrite",
        )
    kept = [row for row in rows[1:] if len(row) == len(header) and row[0].isdigit() and int(row[0]) <= step]
    # The table of an earlier version lacks the columns that came later: their cells stay empty.
    return [
        [cells.get(column, "") for column in columns] for cells in (dict(zip(header, row, strict=True)) for row in kept)
    ]


def read_curves(folder: Path) -> dict[str, Curve]:
    """Name to (steps, values) of every metric in a run's ``metrics.csv``; empty cells are left out."""
    curves: dict[str, Curve] = {}
    for row in read_log(folder / METRICS_NAME, ("name",), ("step",), ("value",)):
        if row["value"]:
            steps, values = curves.setdefault(row["name"], ([], []))
            steps.append(int(row["step"]))
            values.append(float(row["value"]))
    return curves


class EventLog(CsvLog):
    """Scalars in ``metrics.csv`` and TensorBoard, pictures in TensorBoard.

    ``metrics.csv`` has one row a metric: step, epoch, name, value. It holds no times, so that a run which was
    interrupted and continued has the same file as one which was not.

    Args:
        run: The run folder.
        resume_step: The step of the training state from which the run continues; None for a run that begins, or that
            was cut off before it had saved one and begins anew.
        expected: How many rows ``metrics.csv`` had at that step, as :meth:`sync` gave it; None if that is not known.
    """

    def __init__(self, run: RunFolder, resume_step: int | None = None, expected: int | None = None) -> None:
        super().__init__(run.path / METRICS_NAME, METRICS_COLUMNS, resume_step, expected)
        if resume_step is None:
            for file in run.path.glob("events.out.tfevents.*"):
                file.unlink()
        self._events = _EventFile(run.path, resume_step)

    def scalars(self, values: Mapping[str, float], step: int, epoch: int | None = None) -> None:
        """Record metrics of one step, under names such as ``"train/loss"`` or ``"val/dice/ET"``.

        Args:
            values: Name to metric; NaN leaves the cell empty and TensorBoard out.
            step: Counted from 0 and never falling.
            epoch: The epoch, where there is one.
        """
        rows = [{"step": step, "epoch": epoch, "name": name, "value": float(value)} for name, value in values.items()]
        self.append(rows)
        from torch.utils.tensorboard import summary

        for row in rows:
            if row["value"] == row["value"]:
                self._events.add(summary.scalar(row["name"], row["value"]), step)

    def image(self, name: str, picture: np.ndarray, step: int) -> None:
        """Record a picture.

        Args:
            name: Its name.
            picture: ``(height, width, 3)``, ``uint8``.
            step: The step that it belongs to.
        """
        from torch.utils.tensorboard import summary

        self._events.add(summary.image(name, picture, dataformats="HWC"), step)

    def sync(self) -> int:
        """Bring everything to the disk, where a power cut leaves it; gives the rows of ``metrics.csv``."""
        self._events.sync()
        return super().sync()

    def close(self) -> None:
        """Close the files; what a full disk has no room for is lost."""
        super().close()
        self._events.close()


class _EventFile:
    """A file of events for TensorBoard, written where it is called.

    TensorBoard's own writer works in a thread, which ends with a traceback on a full disk.

    Args:
        folder: The run folder.
        resume_step: As for :class:`EventLog`.
    """

    def __init__(self, folder: Path, resume_step: int | None) -> None:
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        unique = f"{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        self._path = folder / f"events.out.tfevents.{unique}"
        with writing(self._path):
            self._stream = self._path.open("xb")
        self._records = RecordWriter(self._stream)
        self._write(file_version="brain.Event:2")
        if resume_step is not None:
            # Otherwise TensorBoard would draw the steps between the saved state and the interruption twice.
            self._write(step=resume_step + 1, session_log=SessionLog(status=SessionLog.START))
        self.sync()

    def add(self, summary: Any, step: int) -> None:
        """Write a summary of a step."""
        self._write(step=step, summary=summary)

    def _write(self, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        with writing(self._path):
            self._records.write(Event(wall_time=time.time(), **content).SerializeToString())

    def sync(self) -> None:
        """Bring everything to the disk."""
        with writing(self._path):
            self._stream.flush()
            os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Close the file; what a full disk has no room for is lost."""
        with contextlib.suppress(OSError):
            self._stream.close()


@dataclass(frozen=True)
class Selection:
    """One slice that was chosen.

    Attributes:
        step: The meta-step, or the step of the optimiser.
        case: Id of the case.
        patient: Its patient.
        slice: Index of the slice in the case.
        task: ``learned`` or ``unlearned``; ``source`` for slices of the source disease; ``plain`` where slices are not
            parted.
        role: ``support`` (inner loop), ``query`` (outer loop), or ``batch``.
        position: Number of the slice's task within the step, or its place in the batch, from 0.
        dice: Its Dice under the network that chose it; NaN where none was computed.
        threshold: The Dice that parted learned from unlearned; NaN where none did.
        rule: Where that Dice came from: a rule such as ``median``, or the number that was asked for.
    """

    step: int
    case: str
    patient: str
    slice: int
    task: Literal["learned", "unlearned", "source", "plain"]
    role: Literal["support", "query", "batch"]
    position: int
    dice: float = float("nan")
    threshold: float = float("nan")
    rule: str = ""


SELECTION_COLUMNS = tuple(Selection.__dataclass_fields__)


def read_selection(run: Path) -> list[dict[str, str]]:
    """Rows of a run's ``selection.csv``; none if there is no such file.

    Raises:
        RunError: The file is damaged.
    """
    whole, numbers = ("step", "slice", "position"), ("dice", "threshold")
    return read_log(run / SELECTION_NAME, ("case", "patient", "task", "role"), whole, numbers)


class SelectionLog(CsvLog):
    """``selection.csv``: which slice was chosen when, for what and why, so that an order can be audited and replayed.

    Args:
        run: The run folder.
        resume_step: As for :class:`EventLog`.
        expected: As for :class:`EventLog`.
    """

    def __init__(self, run: RunFolder, resume_step: int | None = None, expected: int | None = None) -> None:
        super().__init__(run.path / SELECTION_NAME, SELECTION_COLUMNS, resume_step, expected)

    def add(self, selections: Sequence[Selection]) -> None:
        """Record the slices of a step."""
        self.append([asdict(selection) for selection in selections])
