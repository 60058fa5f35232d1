"""Files: read and checked in one way, and written whole or not at all.

A file may be missing, a folder, a pipe, empty, cut off, full of zeros after a power cut, in another encoding, nested
beyond all depth, or hold values of another type than its readers count on. All of that is settled here: whatever is
wrong becomes one error that names the file. What is written takes the place of another file only where that is asked
for.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import glob
import io
import json
import math
import os
import platform
import shutil
import tempfile
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from metaseg.errors import DataError, ExistsError, MetasegError, RunError, UsageError, WriteError

if TYPE_CHECKING:
    import pandas as pd


FORMER_KEYS = {"figure": "metric", "figures": "metrics"}
"""Keys of files by metaseg before 0.2, and what they are called today."""
_PROBE_BYTES = 1 << 16
_ANOTHER_PLACE = "choose another place, or ask who runs the machine"
_ROOM = "make room there, then give the command again"
# What the system's refusals mean to the user, and what to do about them.
_REFUSALS: dict[int | None, tuple[str, str]] = {
    errno.ENOSPC: ("the disk is full", _ROOM),
    errno.EDQUOT: ("the disk quota is used up", _ROOM),
    errno.EFBIG: ("the file would be larger than the system allows", "raise the limit with 'ulimit -f'"),
    errno.EROFS: ("the disk can only be read", _ANOTHER_PLACE),
    errno.EACCES: ("permission is denied", _ANOTHER_PLACE),
    errno.EPERM: ("permission is denied", _ANOTHER_PLACE),
    errno.EIO: ("the disk reports an error", "check the disk, or choose another place"),
    errno.EMFILE: ("too many files are open", "raise the limit with 'ulimit -n', or use fewer --jobs"),
    errno.ENFILE: ("too many files are open", "end other programs, or use fewer --jobs"),
    errno.ENAMETOOLONG: ("the name is too long", "choose a shorter one"),
    errno.ELOOP: ("its links lead in a circle", "mend the links, or choose another place"),
    errno.ENOTDIR: ("a file stands where a folder should be", "choose another name"),
    errno.EEXIST: ("a file stands where a folder should be", "choose another name"),
    errno.EISDIR: ("a folder stands where a file should be", "choose another name"),
}


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

    def refuse(self, found: str, path: Path, remedy: str | None = None) -> MetasegError:
        """The error about a file, with a remedy of its own or the usual one."""
        return self.error(found, where=path, expected=self.expected, remedy=remedy or self.remedy)


TABLE = FileKind("a CSV file in UTF-8", error=DataError)


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
            f"{'.'.join(map(str, problem['loc'])) or 'the whole'}: {problem['msg'].partition(' or an instance of')[0]}"
            for problem in problems[:3]
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
    later: Sequence[str] = (),
    growing: bool = False,
) -> list[dict[str, str]]:
    """Read a table: comma, semicolon or tab between the cells, as its first line has them.

    Args:
        path: The file.
        kind: What it should be.
        text: Columns that it must have.
        whole: Columns that it must have, of whole numbers.
        numbers: Columns that it must have, of finite numbers or empty.
        later: As ``numbers``, but a table of an earlier version lacks them: all their cells are empty then.
        growing: It is a log: a last line without its end was cut off by a kill and is dropped, and every other has all
            its cells.

    Returns:
        Rows as texts by column; those of nothing but empty cells are left out.

    Raises:
        MetasegError: ``kind.error``: it is unreadable, lacks a column or has one twice, or a cell is no such number.
    """
    needed = (*text, *whole, *numbers)
    rows = _table(path, kind, needed, whole, (*numbers, *later), growing)[1]
    return [dict.fromkeys(later, "") | row for row in rows]


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
            if not _is_number(row.get(name, ""), name in whole):
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
    names = [FORMER_KEYS.get(name, name) for name, _ in pairs]
    found = dict(zip(names, (value for _, value in pairs), strict=True))
    if len(found) < len(pairs):
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


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the system's refusal to write ``path`` into an error that says why and what to do.

    Raises:
        WriteError: The block raised an ``OSError``.
    """
    try:
        yield
    except OSError as error:
        reason, remedy = explain_refusal(error)
        raise WriteError(f"this cannot be written: {reason}", where=path, remedy=remedy) from error


def explain_refusal(error: OSError) -> tuple[str, str]:
    """What a refusal of the system means, and what to do about it."""
    # numpy reports a full disk without a number.
    number = errno.ENOSPC if "requested and" in str(error) else error.errno
    return _REFUSALS.get(number, (error.strerror or str(error) or type(error).__name__, _ANOTHER_PLACE))


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file that takes the place of ``path`` when the block ends without an error.

    The content is on the disk before the name changes, so that a power cut leaves the old or the new file.

    Raises:
        WriteError: The system refuses; ``path`` is then as it was.
    """
    temporary = path.with_name(f".{path.name}.{_writer()}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_of_dead(path.parent, f".{glob.escape(path.name)}.*.tmp")
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        try:
            with temporary.open("wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def link_or_copy(source: Path, path: Path) -> None:
    """Give a file a second name, in the place of what has it: one file on the disk where the system lets it be one.

    Files are replaced and never written into (:func:`replacing`), so that each name keeps its content.

    Raises:
        WriteError: The system refuses.
        OSError: The file cannot be read.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
    try:
        os.link(source, path)
        sync_folder(path.parent)
    except OSError:  # another disk, or one without such links
        with replacing(path) as stream:
            stream.write(source.read_bytes())


def _writer() -> str:
    """Machine and process, as names of unfinished files have them."""
    return f"{zlib.crc32(platform.node().encode()):08x}-{os.getpid()}"


def _remove_of_dead(folder: Path, pattern: str) -> None:
    """Delete unfinished files and folders of processes of this machine that have ended."""
    here = _writer().partition("-")[0]
    for path in folder.glob(pattern):
        machine, _, process = path.suffixes[-2].lstrip(".").rpartition("-") if len(path.suffixes) > 1 else ("", "", "")
        # Names of an earlier version lack the machine.
        if machine in ("", here) and process.isdigit() and not _is_alive(int(process)):
            with contextlib.suppress(OSError):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _is_alive(process: int) -> bool:
    if os.name == "nt":
        # There os.kill would end the process.
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the system lets folders be brought there."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_unfinished(folder: Path) -> None:
    """Delete what writers that were killed have left behind in a folder and below; only for who holds its lock."""
    for file in folder.rglob(".*.tmp"):
        file.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace a text file (UTF-8)."""
    with replacing(path) as stream:
        stream.write(text.encode("utf-8"))


def finite_metrics(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """Metrics as JSON has them: None for one that is not finite."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


def write_json(path: Path, content: Any) -> None:
    """Replace a JSON file; numbers that are not finite are refused, since JSON has none."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def require_writable(folder: Path) -> None:
    """Make sure, before work that takes long, that files can be written to a folder; it is not made.

    Raises:
        WriteError: It or the folder in which it would be made cannot be written, or a file has its name.
    """
    with writing(folder):
        with contextlib.suppress(FileNotFoundError):
            # A name that is too long shows here already.
            folder.lstat()
        existing = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
        if not existing.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        with tempfile.TemporaryFile(dir=existing) as probe:
            probe.write(bytes(_PROBE_BYTES))
            probe.flush()
            os.fsync(probe.fileno())


def refuse_existing(outputs: Iterable[Path], overwrite: bool = False, inputs: Iterable[Path] = ()) -> None:
    """Make sure that nothing is replaced without being asked for, and an input not even then.

    Args:
        outputs: What would be written. A link counts as what it leads to, and as there if it leads to nowhere.
        overwrite: Whether the user gave ``--overwrite``.
        inputs: Files that are read for it.

    Raises:
        ExistsError: An output is there without ``overwrite``.
        UsageError: It is one of the inputs.
    """
    existing = [path for path in outputs if os.path.lexists(path)]
    if not existing:
        return
    read = {path.resolve() for path in inputs}
    for path in existing:
        if path.resolve() in read:
            raise UsageError(
                "the output would replace a file that is read",
                where=path,
                expected="a file that does not belong to the data",
                remedy="choose another --out",
            )
    if not overwrite:
        others = f" (and {len(existing) - 1} more)" if len(existing) > 1 else ""
        raise ExistsError(
            f"the output exists already{others}",
            where=existing[0],
            expected="a new name",
            remedy="replace it with --overwrite, or choose another",
        )


@contextlib.contextmanager
def making_folder(folder: Path) -> Iterator[Path]:
    """A new folder that takes the name ``folder``, if that is not there, when the block ends without an error.

    Raises:
        WriteError: The system refuses; nothing is left behind then.
    """
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.{_writer()}.part")
    with writing(folder):
        temporary.mkdir(parents=True)
        _remove_of_dead(folder.parent, ".*.part")
        try:
            yield temporary
            try:
                os.rename(temporary, folder)
            except OSError:
                # Another process finished the same folder first.
                if not folder.exists():
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
