"""Let an option take several values in a row: ``--data A B C`` as well as ``--data A --data B --data C``."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def expand_lists(arguments: Sequence[str], flags: Collection[str]) -> list[str]:
    """Write an option's name before each of its values.

    Args:
        arguments: The command line after the verb.
        flags: Options that take several values. Values end at the next word that begins with ``-``; ``--`` ends them
            where a positional argument follows.

    Returns:
        The command line in which each such option has one value.
    """
    expanded: list[str] = []
    flag: str | None = None
    waiting = False
    for position, word in enumerate(arguments):
        if word == "--":
            return [*expanded, *arguments[position:]]
        if word.startswith("-") and word != "-":
            flag = word if word in flags else None
            waiting = flag is not None
            expanded.append(word)
        elif flag is None or waiting:
            waiting = False
            expanded.append(word)
        else:
            expanded += [flag, word]
    return expanded
