"""Errors that a user can mend: each says what was found, where, what was expected and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class MetasegError(Exception):
    """A problem that the user can mend; the command line prints it as one message, without a traceback.

    Args:
        found: What is wrong, as one sentence without a full stop.
        where: The file or folder in which it was found.
        expected: What should have been there.
        remedy: What to do about it.
    """

    exit_code = 1

    def __init__(
        self,
        found: str,
        *,
        where: str | Path | None = None,
        expected: str | None = None,
        remedy: str | None = None,
    ) -> None:
        self.found, self.where, self.expected, self.remedy = found, where, expected, remedy
        super().__init__(found, where, expected, remedy)

    def __reduce__(self) -> tuple[Any, ...]:
        # Keyword-only arguments do not survive the default pickling, and worker processes hand errors back.
        return _rebuild, (type(self), self.found, self.where, self.expected, self.remedy)

    def __str__(self) -> str:
        lines = [self.found]
        if self.where is not None:
            lines.append(f"  in:       {self.where}")
        if self.expected is not None:
            lines.append(f"  expected: {self.expected}")
        if self.remedy is not None:
            lines.append(f"  to do:    {self.remedy}")
        return "\n".join(lines)


def _rebuild(
    kind: type[MetasegError], found: str, where: str | Path | None, expected: str | None, remedy: str | None
) -> MetasegError:
    return kind(found, where=where, expected=expected, remedy=remedy)


class UsageError(MetasegError):
    """A wrong argument or config value."""

    exit_code = 2


class DataError(MetasegError):
    """Files that cannot be used as they are: unreadable, inconsistent, with unexpected labels or missing modalities."""


class RunError(MetasegError):
    """A run folder or checkpoint that cannot be used, resumed or overwritten."""


class TrainingError(MetasegError):
    """A training that had to stop, such as one whose loss became non-finite."""
