"""Settings that a method has its own defaults for."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from metaseg.adapt.methods import find_method
from metaseg.adapt.methods.registry import Family
from metaseg.config import MetatuneConfig, NaivetuneConfig

C = TypeVar("C", NaivetuneConfig, MetatuneConfig)


def resolve_defaults(config: C) -> C:
    """The settings with the method's defaults where nothing was given; those that are given stand.

    Raises:
        UsageError: There is no such method in the verb's family.
    """
    family: Family = "plain" if isinstance(config, NaivetuneConfig) else "meta"
    defaults = find_method(config.method, family).build.defaults
    return replace(config, **{name: value for name, value in defaults.items() if getattr(config, name) is None})
