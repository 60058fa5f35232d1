"""Tell the label scheme from the label names of a ``dataset.json``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from metaseg.cases.labels import LABEL_SCHEMES, SUBREGIONS, WHOLE_LESION, LabelScheme
from metaseg.errors import DataError

_WHOLE = {
    "wt",
    "tumor",
    "tumour",
    "lesion",
    "lesions",
    "metastasis",
    "metastases",
    "met",
    "mets",
    "gtv",
    "cancer",
    "mass",
}
_BACKGROUND = {"background", "bg", "backgrd", "clear label", "unlabelled", "unlabeled"}


def scheme_from_names(labels: Mapping[str, object], where: Path) -> LabelScheme:
    """Choose the label scheme whose values mean what the names say.

    Args:
        labels: The entry ``labels`` of a ``dataset.json``: value to name (Medical Segmentation Decathlon), name to
            value (nnU-Net), or name to list of values (nnU-Net's regions).
        where: The file, for the message.

    Raises:
        DataError: The names are not understood, or no scheme has this meaning.
    """
    named = _values_by_name(labels)
    meanings: dict[str, frozenset[int]] = {}
    for name, values in named.items():
        meaning = _meaning(name)
        if meaning is None or meaning in meanings:
            raise _cannot_tell(labels, where)
        meanings[meaning] = values
    classes = _classes(meanings)
    if classes is None:
        raise _cannot_tell(labels, where)
    space = WHOLE_LESION if set(classes.values()) == {1} and set(meanings) == {"WT"} else SUBREGIONS
    for scheme in LABEL_SCHEMES.values():
        if scheme.space is space and dict(scheme.values) == {0: 0, **classes}:
            return scheme
    raise _cannot_tell(labels, where)


def _values_by_name(labels: Mapping[str, object]) -> dict[str, frozenset[int]]:
    """Foreground names to their values, whichever way round the file lists them."""
    named: dict[str, frozenset[int]] = {}
    for key, entry in labels.items():
        by_value = isinstance(entry, str) and key.strip().isdecimal()
        name = str(entry) if by_value else key
        values = [key] if by_value else entry if isinstance(entry, list) else [entry]
        numbers = frozenset(int(str(value)) for value in values if str(value).strip().isdecimal())
        if name.strip().lower() not in _BACKGROUND and name.strip().lower() != "ignore" and numbers - {0}:
            named[name] = numbers - {0}
    return named


def _meaning(name: str) -> str | None:
    """Class (NCR, ED, ET) or region (WT, TC) that a name stands for."""
    plain = re.sub(r"[^a-z]", "", name.lower())
    if plain in _WHOLE or "whole" in plain:
        return "WT"
    if plain in {"tc", "core"} or "tumorcore" in plain or "tumourcore" in plain:
        return "NCR" if "nec" in plain or "non" in plain else "TC"
    if plain in {"ncr", "net", "netc", "ncrnet"} or "necro" in plain or ("non" in plain and "enhanc" in plain):
        return "NCR"
    if plain in {"ed", "snfh"} or "edema" in plain or "flairhyper" in plain:
        return "ED"
    if plain in {"et", "at"} or "enhanc" in plain:
        return "ET"
    return None


def _classes(meanings: Mapping[str, frozenset[int]]) -> dict[int, int] | None:
    """File value to class of the label space, or None if the meanings do not give it."""
    if set(meanings) == {"WT"} and len(meanings["WT"]) == 1:
        return dict.fromkeys(meanings["WT"], 1)
    if set(meanings) == {"WT", "TC", "ET"}:
        whole, core, enhancing = meanings["WT"], meanings["TC"], meanings["ET"]
        if not enhancing < core < whole:
            return None
        parts = {1: core - enhancing, 2: whole - core, 3: enhancing}
    elif set(meanings) == {"NCR", "ED", "ET"}:
        parts = {position: meanings[SUBREGIONS.classes[position]] for position in (1, 2, 3)}
    else:
        return None
    return {value: position for position, values in parts.items() for value in values}


def _cannot_tell(labels: Mapping[str, object], where: Path) -> DataError:
    return DataError(
        f"cannot tell what the labels mean: {dict(labels)}",
        where=where,
        expected="necrotic core, edema, enhancing tumour; or nnU-Net's three regions; or one label, the whole lesion",
        remedy="name the convention with --label-scheme, one of: "
        + ", ".join(f"{scheme.name} {_describe(scheme)}" for scheme in LABEL_SCHEMES.values()),
    )


def _describe(scheme: LabelScheme) -> str:
    meanings = (f"{value} {scheme.space.classes[position]}" for value, position in scheme.values.items() if value)
    return f"({', '.join(meanings)})"
