"""Cases that fail while others go on: each is named, and the verb that met one ends with an error."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from metaseg.errors import DataError, MetasegError, is_out_of_memory
from metaseg.written_files import write_json

FAILED_NAME = "metaseg-failed.json"
_SHOWN = 20


@dataclass(frozen=True)
class FailedCase:
    """A case that could not be done.

    Attributes:
        case: Its id.
        error: Why.
    """

    case: str
    error: MetasegError

    def to_json(self) -> dict[str, str | None]:
        """Case, what was found and where, as JSON values."""
        where = self.error.where
        return {"case": self.case, "found": self.error.found, "where": None if where is None else str(where)}


@contextlib.contextmanager
def one_case(case: str, failed: list[FailedCase] | None = None) -> Iterator[None]:
    """Do something with a case; name it where memory is short, and go on with others where that is asked for.

    Args:
        case: Its id.
        failed: Takes the case if it fails; None raises the error.

    Raises:
        DataError: The case cannot be read or does not fit into memory.
    """
    try:
        yield
    except DataError as error:
        if failed is None:
            raise
        failed.append(FailedCase(case, error))
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        short = DataError(f"case {case}: out of memory", remedy="end other programs, or leave the case out")
        if failed is None:
            raise short from error
        failed.append(FailedCase(case, short))


def record_failed(folder: Path, failed: Sequence[FailedCase]) -> None:
    """Keep in ``metaseg-failed.json`` which cases the last call did not do; without any, the file goes."""
    file = folder / FAILED_NAME
    if failed:
        write_json(file, {"failed": [one.to_json() for one in failed]})
    elif file.exists():
        file.unlink()


def raise_failed(failed: Sequence[FailedCase], total: int, done: str) -> None:
    """Raise if any case failed, after the others are done.

    Args:
        failed: The cases that failed.
        total: Number of all cases.
        done: What was done to the others, such as ``"predicted"``.

    Raises:
        MetasegError: Its own error for a single case, otherwise one that names all.
    """
    if total == 1 and failed:
        raise failed[0].error
    if failed:
        named = [f"{one.case} ({one.error.found})" for one in failed[:_SHOWN]]
        more = [f"and {len(failed) - _SHOWN} more"] if len(failed) > _SHOWN else []
        raise DataError(
            f"{len(failed)} of {total} cases could not be {done}: " + "; ".join(named + more),
            where=failed[0].error.where if len(failed) == 1 else None,
            remedy="mend them or leave them out ('metaseg data check' tells more); the others are done",
        )
