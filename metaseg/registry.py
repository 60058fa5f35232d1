"""Registries: named things of one kind, to which installed plug-ins add their own by an entry point.

metaseg's methods, orders, strategies, networks and readers each have a registry. Ours enter themselves by a decorator;
those of other packages are found by the entry points of the registry's group, and imported only when asked for:

.. code-block:: toml

    [project.entry-points."metaseg.orders"]
    my-order = "my_package.orders"

Importing the object that the entry point names must enter something under the entry point's name, or the object itself
must be an entry of the registry. Only the standard library is imported here.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from functools import cached_property, lru_cache
from glob import escape, glob
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from metaseg.errors import MetasegError, UsageError, unknown_name, warn_user

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

T = TypeVar("T")

_BY_GROUP: dict[str, Registry[Any]] = {}
"""The registries that plug-ins can add to, by their group."""

_loading: list[str] = []
"""The plug-ins that are being imported: what is entered into any registry meanwhile is theirs."""


class PluginError(UsageError):
    """An installed plug-in that cannot be used."""


class Registry(Generic[T]):
    """Named entries of one kind; ours and those of plug-ins.

    Args:
        what: What an entry is, for messages, such as ``"order"``.
        group: The entry-point group in which plug-ins are looked for; None where none can be added.
        kind: The class of an entry. An entry point may name an instance of it.

    Examples:
        >>> shapes = Registry[type]("shape")
        >>> @shapes.register("circle")
        ... class Circle:
        ...     pass
        >>> shapes.names()
        ('circle',)
        >>> shapes.get("circle").__name__
        'Circle'
    """

    def __init__(self, what: str, group: str | None = None, kind: type[T] | None = None) -> None:
        self.what, self.group, self.kind = what, group, kind
        self._entries: dict[str, T] = {}
        self._origins: dict[str, str] = {}
        if group is not None:
            _BY_GROUP[group] = self

    def register(self, name: str) -> Callable[[T], T]:
        """Decorate what is to be an entry; see :meth:`add`."""

        def enter(entry: T) -> T:
            return self.add(name, entry)

        return enter

    def add(self, name: str, entry: T) -> T:
        """Enter something under a name, and give it back.

        Raises:
            ValueError: The name is taken.
        """
        if name in self._entries:
            raise ValueError(f"there is already a registered {self.what} '{name}'")
        self._entries[name] = entry
        if _loading:
            self._origins[name] = _loading[-1]
        return entry

    def names(self) -> tuple[str, ...]:
        """All names: ours as they were entered, then those of plug-ins by name. Nothing is imported for it."""
        return (*self._entries, *(name for name in self._plugins if name not in self._entries))

    def __contains__(self, name: object) -> bool:
        return name in self._entries or name in self._plugins

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self.names())

    def get(self, name: str, *, where: str | Path | None = None, plugin: str | None = None) -> T:
        """Look an entry up; that of a plug-in is imported.

        Args:
            name: Its name.
            where: The file that gives the name, for the message.
            plugin: The plug-in that the name is known to be from, as :meth:`origin` gave it, for the message.

        Raises:
            UsageError: There is none of that name; the message names the nearest, or the plug-in to install.
            PluginError: The plug-in that it is from cannot be used.
        """
        if name not in self._entries and name in self._plugins:
            self._load(name)
        if name in self._entries:
            return self._entries[name]
        error = unknown_name(self.what, name, self.names(), where)
        if plugin is not None:
            remedy = f"install the plug-in that it is from: {plugin}"
            raise UsageError(error.found, where=where, expected=error.expected, remedy=remedy)
        raise error

    def entries(self) -> dict[str, T]:
        """All entries by name, plug-ins imported; of those that cannot be used the user is warned."""
        for name in self._plugins:
            if name not in self._entries:
                try:
                    self._load(name)
                except PluginError as error:
                    warn_user(f"{error.found}; it is left out", where=error.where, remedy=error.remedy)
        return dict(self._entries)

    def origin(self, name: str) -> str | None:
        """The plug-in that an entry is from, such as ``"my-package 1.2"``; None for one of ours."""
        if name in self._entries:
            return self._origins.get(name)
        return _distribution(self._plugins[name][0]) if name in self._plugins else None

    @cached_property
    def _plugins(self) -> dict[str, list[EntryPoint]]:
        """The entry points of the group by name; a name may be claimed by several distributions."""
        found: dict[str, list[EntryPoint]] = {}
        for point in _entry_points(self.group) if self.group else ():
            found.setdefault(point.name, []).append(point)
        return found

    def _load(self, name: str) -> None:
        point, *others = self._plugins[name]
        origin = _distribution(point)
        if others:
            both = " and ".join(_distribution(other) for other in (point, *others))
            raise PluginError(
                f"several installed plug-ins offer a {self.what} '{name}': {both}", remedy="uninstall all but one"
            )
        _loading.append(origin)
        try:
            found = point.load()
        except Exception as error:
            raise PluginError(
                f"the {self.what} '{name}' of the plug-in {origin} cannot be imported ({_in_words(error)})",
                where=point.value,
                remedy="update the plug-in, or uninstall it",
            ) from error
        finally:
            _loading.pop()
        if name not in self._entries and self.kind is not None and isinstance(found, self.kind):
            self._entries[name], self._origins[name] = found, origin
        if name not in self._entries:
            raise PluginError(
                f"the plug-in {origin} promises a {self.what} '{name}' and registers none",
                where=point.value,
                expected=f"an entry point of {self.group} whose object registers the {self.what} '{name}'",
                remedy="update the plug-in, or uninstall it",
            )


def plugin_names(group: str) -> tuple[str, ...]:
    """Names in an entry-point group, sorted: of installed plug-ins, and of what was entered in this process.

    Nothing is imported for it, so that the entries of metaseg itself may be missing.
    """
    entered = _BY_GROUP[group].names() if group in _BY_GROUP else ()
    return tuple(sorted({*entered, *(point.name for point in _entry_points(group))}))


def plugin_of(group: str, name: str) -> str | None:
    """The installed plug-in that offers a name in an entry-point group, such as ``"my-package 1.2"``."""
    return next((_distribution(point) for point in _entry_points(group) if point.name == name), None)


def is_installed(plugin: str) -> bool:
    """Whether a plug-in is there, in whatever version; its name is as :func:`plugin_of` gives it."""
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        distribution(plugin.partition(" ")[0])
    except PackageNotFoundError:
        return False
    return True


def import_object(reference: str, what: str) -> Any:
    """Import what a reference such as ``package.module:name`` names; modules of the working folder are found too.

    Args:
        reference: Module and, after a colon, a name in it, which may have dots.
        what: What it should be, for messages, such as ``"network"``.

    Raises:
        UsageError: There is no such module, or no such name in it.
        MetasegError: Importing the module failed.
    """
    module_name, _, path = reference.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), *path.split("."))):
        raise UsageError(f"'{reference}' names no {what}", expected="package.module:name")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise _cannot_import(reference, what, error) from error
        raise UsageError(
            f"there is no module '{error.name}' for the {what} '{reference}'",
            expected="an installed module, or one in the working folder",
        ) from error
    except Exception as error:
        raise _cannot_import(reference, what, error) from error
    for part in path.split("."):
        if not hasattr(found, part):
            raise unknown_name(what, part, [name for name in dir(found) if not name.startswith("_")], module_name)
        found = getattr(found, part)
    return found


def _cannot_import(reference: str, what: str, error: Exception) -> MetasegError:
    return MetasegError(
        f"the {what} '{reference}' cannot be imported ({_in_words(error)})", remedy="mend the module, then try again"
    )


def _entry_points(group: str) -> list[EntryPoint]:
    """The group's entry points by name."""
    if not _is_named_in(group, tuple(sys.path)):
        return []
    # Here, since ``--help`` must answer at once.
    from importlib.metadata import entry_points

    return sorted(entry_points(group=group), key=lambda point: point.name)


@lru_cache
def _is_named_in(group: str, folders: tuple[str, ...]) -> bool:
    """Whether a distribution in the folders may have entry points of the group, which is quick to see."""
    files = [file for folder in folders for file in glob(f"{escape(folder) or '.'}/*-info/entry_points.txt")]
    return any(os.path.isfile(folder) for folder in folders) or any(
        f"[{group}]" in Path(file).read_text(encoding="utf-8", errors="replace") for file in files
    )


def _distribution(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "of unknown name"


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
