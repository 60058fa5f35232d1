"""The sizes of a study: one settings file for the whole study, a reduced one, and one of minutes that shows it runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metaseg.errors import UsageError

SIZES = ("smoke", "small", "full")
OVERLAYS = "sizes"
"""Key of a settings file under which the settings of its sizes stand."""


def of_size(content: Mapping[str, Any], size: str | None, file: Path) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """The settings of a file in one of its sizes.

    The overlay of the size is merged over the file (:func:`merged`). The study folder gets the size as a suffix, so
    that sizes never mix in a study; an overlay may name another.

    Args:
        content: The settings as the file holds them, with or without ``sizes``.
        size: ``smoke``, ``small`` or ``full``; None where none is asked for.
        file: The file, for messages.

    Returns:
        The settings without ``sizes``, and the overlay that was merged over them; it is empty for ``full``.

    Raises:
        UsageError: The file has no such size, or an overlay is no mapping or removes what is not there.
    """
    plain = {key: value for key, value in content.items() if key != OVERLAYS}
    overlays = content.get(OVERLAYS) or {}
    if not isinstance(overlays, Mapping) or (strange := [name for name in overlays if name not in SIZES[:-1]]):
        found = f"a size '{strange[0]}'" if isinstance(overlays, Mapping) else f"'{overlays}'"
        raise UsageError(
            f"'{OVERLAYS}' holds {found}", where=file, expected="settings under smoke, under small, or both"
        )
    if size is None or size not in SIZES[:-1]:
        return plain, {}
    overlay = overlays.get(size)
    if not isinstance(overlay, Mapping):
        raise UsageError(
            f"the settings file has no size '{size}'",
            where=file,
            expected=f"'{OVERLAYS}: {{{size}: ...}}' with the settings that differ in it",
            remedy=f"make '{size}' a mapping" if size in overlays else f"it has {', '.join([*overlays, 'full'])}",
        )
    settings = merged(plain, overlay, overlay_place(file, size))
    if "out" in plain and "out" not in overlay:
        settings["out"] = f"{plain['out']}-{size}"
    return {**settings, "size": size}, overlay


def overlay_place(file: Path, size: str) -> str:
    """A place in a file for messages: the overlay of a size."""
    return f"{file}, {OVERLAYS}: {size}"


def merged(
    below: Mapping[str, Any], above: Mapping[str, Any], place: str | None = None, path: str = ""
) -> dict[str, Any]:
    """Settings merged over others: mappings key by key at every depth, all else, lists too, in whole.

    A key whose value is null above is removed.

    Args:
        below: The settings that others are merged over.
        above: The others.
        place: Where those stand, for the message where a key is to be removed that is not there. None keeps its null.
        path: Keys on the way to them, for the message.

    Raises:
        UsageError: A key is to be removed that is not there.
    """
    result = dict(below)
    for key, value in above.items():
        if value is None and key in result:
            del result[key]
        elif value is None and place is not None:
            raise UsageError(
                f"'{path}{key}' is to be removed and is not there", where=place, remedy="correct its name, or omit it"
            )
        elif isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
            result[key] = merged(result[key], value, place, f"{path}{key}: ")
        else:
            result[key] = value
    return result
