"""Cases: patients' scans on disk, their labels and geometry, readers for each file convention, and splits.

Names are imported when first used, so that ``import metaseg.cases`` costs nothing; ``__init__.pyi`` lists them for type
checkers and editors.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "case": ("MODALITIES", "Case", "Volume"),
    "geometry": ("Geometry",),
    "labels": ("LABEL_SCHEMES", "LabelScheme", "LabelSpace", "label_scheme"),
    "readers": ("READERS", "Reader", "give_cases", "read_case_files", "read_cases", "register_reader"),
    "splits": ("MissingStratum", "Split", "make_split", "missing_strata", "read_split"),
    "summary": ("Summary", "summarise"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted((*globals(), *__all__))
