"""Errors and warnings that a user can mend: each says what was found, where, what was expected and what to do."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator, Sequence
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
        self, found: str, *, where: str | Path | None = None, expected: str | None = None, remedy: str | None = None
    ) -> None:
        self.found, self.where, self.expected, self.remedy = found, where, expected, remedy
        super().__init__(found, where, expected, remedy)

    def __reduce__(self) -> tuple[Any, ...]:
        # Keyword-only arguments do not survive the default pickling, and worker processes hand errors back.
        return _rebuild, (type(self), self.found, self.where, self.expected, self.remedy)

    def __str__(self) -> str:
        return _message(self.found, self.where, self.expected, self.remedy)


def _rebuild(
    kind: type[MetasegError], found: str, where: str | Path | None, expected: str | None, remedy: str | None
) -> MetasegError:
    return kind(found, where=where, expected=expected, remedy=remedy)


class UsageError(MetasegError):
    """A wrong argument or config value."""

    exit_code = 2


class ExistsError(UsageError):
    """Something is there already that is not replaced unasked."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The one of the known names that was probably meant; None if none is near.

    Capitals count for nothing, and the first letters of a name's words stand for it: ``lr`` for ``learning-rate``.

    Examples:
        >>> nearest("unett", ["unet", "segresnet"])
        'unet'
        >>> nearest("--lr", ["--epochs", "--learning-rate"])
        '--learning-rate'
    """
    import difflib
    import re

    by_folded = {other.casefold(): other for other in known}
    by_letters = {"".join(word[0] for word in re.findall(r"[^\W_]+", folded)): folded for folded in by_folded}
    text = name.casefold()
    if text.lstrip("-") in by_letters:
        return by_folded[by_letters[text.lstrip("-")]]
    near = difflib.get_close_matches(text, by_folded, n=1)
    return by_folded[near[0]] if near else None


def unknown_name(what: str, name: str, known: Iterable[str], where: str | Path | None = None) -> UsageError:
    """The error for a name that is not one of those there are; it names the nearest.

    Args:
        what: What it should be a name of, such as ``"order"``.
        name: As given.
        known: The names there are.
        where: The file that gives or lacks it.
    """
    known = list(known)
    near = nearest(name, known)
    return UsageError(
        f"unknown {what} '{name}'",
        where=where,
        expected="one of " + ", ".join(known),
        remedy=f"did you mean '{near}'?" if near else None,
    )


class DataError(MetasegError):
    """Files that cannot be used as they are: unreadable, inconsistent, with unexpected labels or missing modalities."""


class WriteError(MetasegError):
    """A file that cannot be written: the disk is full or read-only, or permission is denied."""


class RunError(MetasegError):
    """A run folder or checkpoint that cannot be used, resumed or overwritten."""


class TrainingError(MetasegError):
    """A training that had to stop, or a network that it left: a loss, a weight or an output is not finite."""


class DataWarning(UserWarning):
    """Something that a verb leaves out, assumes or doubts, and that does not stop it."""


def warn_user(
    found: str, *, where: str | Path | None = None, expected: str | None = None, remedy: str | None = None
) -> None:
    """Issue a :class:`DataWarning`: shown once by the command line, and kept with the results of the verb.

    Args:
        found: What was found and what is done about it, as one sentence without a full stop.
        where: The file or folder in which it was found.
        expected: What should have been there.
        remedy: What to do about it.
    """
    text = _message(found, where, expected, remedy)
    for heard in _heard:
        if text not in heard:
            heard.append(text)
    warnings.warn(text, DataWarning, stacklevel=2)


def some(names: Sequence[str], shown: int = 5) -> str:
    """The first few names, and how many more there are."""
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of any library means that memory is short."""
    # By name: torch is not imported for a message.
    named = type(error).__name__ in ("OutOfMemoryError", "MemoryError", "_ArrayMemoryError")
    return named or (isinstance(error, RuntimeError) and "not enough memory" in str(error).lower())


_heard: list[list[str]] = []


@contextlib.contextmanager
def recorded_warnings() -> Iterator[list[str]]:
    """Collect what :func:`warn_user` says inside a block or a decorated function, in threads too, each text once."""
    heard: list[str] = []
    _heard.append(heard)
    try:
        yield heard
    finally:
        # By identity: two blocks that have heard the same are equal lists.
        _heard[:] = [other for other in _heard if other is not heard]


def warnings_so_far() -> list[str]:
    """What the verb that runs now has warned of, for its manifest or JSON file."""
    return list(_heard[-1]) if _heard else []


def _message(found: str, where: str | Path | None, expected: str | None, remedy: str | None) -> str:
    named = (("in:", where), ("expected:", expected), ("to do:", remedy))
    return "\n".join([found, *(f"  {name:<9} {text}" for name, text in named if text is not None)])
