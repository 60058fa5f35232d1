"""The one reader of JSON, YAML and CSV files: whatever is wrong with a file becomes one error that names it.

A file may be missing, a folder, a pipe, empty, cut off, full of zeros after a power cut, in another encoding, nested
beyond all depth, or hold values of another type than its readers count on. All of that is settled here, so that no
reader of a value needs to ask.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metaseg.errors import DataError, MetasegError, RunError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class FileKind:
    """What a file should be, for the message where it is something else.

    Attributes:
        expected: Such as ``"the state of a metaseg run"``.
        remedy: What to do about a damaged one.
        error: The error to raise.
    """

    expected: str
    remedy: str | None = None
    error: type[MetasegError] = RunError

    def refuse(self, found: str, path: Path) -> MetasegError:
        """The error about a file."""
        return self.error(found, where=path, expected=self.expected, remedy=self.remedy)


def read_text(path: Path, kind: FileKind, *, nulls: bool = False) -> str:
    """Read a text in UTF-8, with or without a byte-order mark.

    Args:
        path: The file.
        kind: What it should be.
        nulls: Its reader knows what to do about null bytes.

    Raises:
        MetasegError: ``kind.error``: the file cannot be read, is no file, or holds something else than text.
    """
    try:
        # Opening a named pipe would wait for ever; the shell's own, as in ``--config <(...)``, are read at once.
        if path.is_fifo() and path.parent != Path("/dev/fd"):
            raise kind.refuse("this is a pipe, not a file", path)
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise kind.refuse(f"the file cannot be read: {error.strerror or error}", path) from error
    except UnicodeDecodeError as error:
        raise kind.refuse(f"the file cannot be read: it is no text in UTF-8 (byte {error.start})", path) from error
    except ValueError as error:  # a null byte in the name itself
        raise kind.refuse(f"the file cannot be read: {error}", path) from error
    if "\0" in text and not nulls:
        raise kind.refuse("the file cannot be read: it holds null bytes, as after a power cut", path)
    return text


def read_json(path: Path, kind: FileKind, shape: Any = dict[str, Any]) -> Any:
    """Read a JSON file and check it.

    Args:
        path: The file.
        kind: What it should be.
        shape: Type of its content, as pydantic checks it: a dataclass, a ``TypedDict``, ``dict[str, float]``.

    Returns:
        The content, as ``shape``.

    Raises:
        MetasegError: ``kind.error``: it is unreadable, no JSON, names a key twice, holds a number that is not finite,
            or has another shape.
    """
    text = read_text(path, kind)
    try:
        content = json.loads(text, object_pairs_hook=_once, parse_float=_finite, parse_constant=_finite)
        if "\\u" in text:
            _require_text(json.dumps(content, ensure_ascii=False))
    except (ValueError, RecursionError) as error:
        raise kind.refuse(f"the file is no JSON: {_reason(error)}", path) from error
    return check_shape(content, shape, partial(kind.refuse, path=path))


def check_shape(content: Any, shape: Any, refuse: Callable[[str], MetasegError]) -> Any:
    """Bring plain values to the type that a reader counts on.

    Args:
        content: Values as JSON or YAML give them.
        shape: As for :func:`read_json`.
        refuse: Makes the error from what was found.
    """
    from pydantic import ValidationError

    try:
        return _adapter(shape).validate_python(content)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        first = "; ".join(
            f"{'.'.join(map(str, one['loc'])) or 'the whole'}: {one['msg'].partition(' or an instance of')[0]}"
            for one in problems[:3]
        )
        raise refuse(f"the content is damaged or of another shape: {first}") from error


def read_yaml(path: Path, kind: FileKind) -> Any:
    """Read a YAML file; None if it is empty.

    Raises:
        MetasegError: ``kind.error``: it is unreadable, no YAML, or names a key twice.
    """
    import yaml

    class OnceLoader(yaml.SafeLoader):
        """A loader that refuses a key given twice; YAML's own takes the last without a word."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            for key in keys:
                if keys.count(key) > 1:
                    raise yaml.YAMLError(f"line {node.start_mark.line + 1}: the key '{key}' stands there twice")
            return super().construct_mapping(node, deep=deep)

        def construct_scalar(self, node: Any) -> Any:
            value = super().construct_scalar(node)
            _require_text(value)
            return value

    try:
        return yaml.load(read_text(path, kind), Loader=OnceLoader)
    except (yaml.YAMLError, TypeError, ValueError, ArithmeticError, AttributeError, RecursionError) as error:
        raise kind.refuse(f"the file is no YAML: {_reason(error)}", path) from error


def read_rows(
    path: Path,
    kind: FileKind,
    text: Sequence[str] = (),
    whole: Sequence[str] = (),
    numbers: Sequence[str] = (),
    *,
    growing: bool = False,
) -> list[dict[str, str]]:
    """Read a table: comma, semicolon or tab between the cells, as its first line has them.

    Args:
        path: The file.
        kind: What it should be.
        text: Columns that it must have.
        whole: Columns that it must have, of whole numbers.
        numbers: Columns that it must have, of finite numbers or empty.
        growing: It is a log: a last line without its end was cut off by a kill and is dropped, and every other has all
            its cells.

    Returns:
        Rows as texts by column; those of nothing but empty cells are left out.

    Raises:
        MetasegError: ``kind.error``: it is unreadable, lacks a column or has one twice, or a cell is no such number.
    """
    needed = (*text, *whole, *numbers)
    return _table(path, kind, needed, whole, numbers, growing)[1]


def read_frame(
    path: Path, kind: FileKind, text: Sequence[str] = (), whole: Sequence[str] = (), numbers: Sequence[str] = ()
) -> pd.DataFrame:
    """A table as :func:`read_rows` checks it, as a data frame.

    An empty cell of ``numbers`` is NaN. Columns that are not named are text: a patient may be called 007 or NA.
    """
    import pandas as pd

    columns, rows = _table(path, kind, (*text, *whole, *numbers), whole, numbers, growing=False)
    frame = pd.DataFrame(rows, columns=columns, dtype=str)
    values = {name: pd.to_numeric(frame[name].where(frame[name].str.strip() != "")) for name in numbers}
    return frame.astype(dict.fromkeys(whole, "int64")).assign(**values)


def _table(
    path: Path, kind: FileKind, needed: Sequence[str], whole: Sequence[str], numbers: Sequence[str], growing: bool
) -> tuple[list[str], list[dict[str, str]]]:
    """Columns and checked rows."""
    content = read_text(path, kind)
    if growing:
        content = content[: content.rfind("\n") + 1]
    first = content.partition("\n")[0]
    try:
        lines = list(csv.reader(io.StringIO(content), delimiter=max(",;\t", key=first.count)))
    except csv.Error as error:
        raise kind.refuse(f"the table cannot be read: {error}", path) from error
    columns = [name.strip() for name in lines[0]] if lines else []
    if missing := [name for name in needed if name not in columns]:
        there = ", ".join(columns) or "(none)"
        raise kind.refuse(f"the table lacks the column {', '.join(missing)}; it has {there}", path)
    if doubled := {name for name in columns if name and columns.count(name) > 1}:
        raise kind.refuse(f"the table has the column {', '.join(sorted(doubled))} twice", path)
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        if not any(cell.strip() for cell in line):
            continue
        if any(cell.strip() for cell in line[len(columns) :]) or (growing and len(line) != len(columns)):
            raise kind.refuse(f"line {number} of the table has {len(line)} cells for {len(columns)} columns", path)
        row = dict(zip(columns, [*line, *[""] * len(columns)], strict=False))
        for name in (*whole, *numbers):
            if not _is_number(row[name], name in whole):
                wanted = "no whole number" if name in whole else "no finite number"
                raise kind.refuse(f"line {number}: {name} is '{row[name][:40]}', which is {wanted}", path)
        rows.append(row)
    return columns, rows


def _is_number(cell: str, whole: bool) -> bool:
    try:
        return abs(int(cell)) < 2**63 if whole else not cell.strip() or math.isfinite(float(cell))
    except ValueError:
        return False


@lru_cache(maxsize=64)
def _adapter(shape: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(shape)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key '{next(name for name in names if names.count(name) > 1)}' stands there twice")
    return found


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"the number {number} is not finite")
    return value


def _require_text(value: Any) -> None:
    """Raise ValueError for halves of characters, which no file could be written with."""
    if isinstance(value, str):
        value.encode("utf-8")


def _reason(error: Exception) -> str:
    """One line on what is wrong with a text."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is not None and problem:
        return f"line {mark.line + 1}, column {mark.column + 1}: {problem}"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeEncodeError):
        return "it holds half a character (a lone surrogate)"
    return " ".join(str(error).split()) or type(error).__name__


TABLE = FileKind("a CSV file in UTF-8", error=DataError)
