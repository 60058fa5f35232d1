"""Tell the label scheme from the label names of a ``dataset.json``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from metaseg.cases.labels import CAVITY, LABEL_SCHEMES, SUBREGIONS, WHOLE_LESION, LabelScheme, label_scheme
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
_NO_CLASS = {"background", "bg", "backgrd", "clear label", "unlabelled", "unlabeled", "ignore"}


def scheme_from_names(labels: Mapping[str, object], where: Path) -> LabelScheme:
    """Choose the label scheme whose values mean what the names say.

    Args:
        labels: The entry ``labels`` of a ``dataset.json``: value to name (Medical Segmentation Decathlon), name to
            value (nnU-Net), or name to list of values (nnU-Net's regions).
        where: The file, for the message.

    Returns:
        The scheme. Where the names are not understood, one that writes as ``brats2023`` does and refuses to read.
    """
    scheme = _known_scheme({name: values for name, values in _named(labels) if name not in _NO_CLASS})
    if scheme is None:
        return replace(LABEL_SCHEMES["brats2023"], unclear=_cannot_tell(labels, where))
    # The names have said what each value means, so that no other edition is in question.
    instead = ("any-lesion",) if scheme.space is WHOLE_LESION else ()
    return replace(scheme, instead=instead, ignore=ignored_value(labels))


def ignored_value(labels: Mapping[str, object]) -> int | None:
    """The value that nnU-Net's label ``ignore`` has, or None."""
    return next((max(values) for name, values in _named(labels) if name == "ignore"), None)


def _named(labels: Mapping[str, object]) -> Iterator[tuple[str, frozenset[int]]]:
    """Names in lower case and their values above 0, whichever way round the file lists them."""
    for key, entry in labels.items():
        by_value = isinstance(entry, str) and key.strip().isdecimal()
        values = [key] if by_value else entry if isinstance(entry, list) else [entry]
        numbers = frozenset(int(str(value)) for value in values if str(value).strip().isdecimal()) - {0}
        if numbers:
            yield (str(entry) if by_value else key).strip().lower(), numbers


def _known_scheme(named: Mapping[str, frozenset[int]]) -> LabelScheme | None:
    meanings: dict[str, frozenset[int]] = {}
    for name, values in named.items():
        meaning = _meaning(name)
        # Necrosis, cysts and other core that does not enhance are one class here.
        if meaning is None or (meaning in meanings and meaning != "NCR"):
            return None
        meanings[meaning] = meanings.get(meaning, frozenset()) | values
    classes = _classes(meanings)
    if classes is None or max(classes) > 255:
        return None
    space = WHOLE_LESION if set(meanings) == {"WT"} else CAVITY if "RC" in meanings else SUBREGIONS
    known = (scheme for scheme in LABEL_SCHEMES.values() if scheme.space is space and scheme.others is None)
    spelled = label_scheme(",".join(f"{value}={space.classes[number]}" for value, number in classes.items()))
    return next((scheme for scheme in known if scheme.values == spelled.values), spelled)


def _meaning(name: str) -> str | None:
    """Class (NCR, ED, ET) or region (WT, TC) that a name stands for."""
    plain = re.sub(r"[^a-z]", "", name)
    if plain == "rc" or "cavity" in plain:
        return "RC"
    if plain in _WHOLE or "whole" in plain:
        return "WT"
    if plain in {"tc", "core"} or "tumorcore" in plain or "tumourcore" in plain:
        return "NCR" if "nec" in plain or "non" in plain else "TC"
    if (
        plain in {"ncr", "net", "netc", "ncrnet", "cc"}
        or "necro" in plain
        or "cyst" in plain
        or ("non" in plain and "enhanc" in plain)
    ):
        return "NCR"
    if plain in {"ed", "snfh"} or "edema" in plain or "flairhyper" in plain:
        return "ED"
    if plain in {"et", "at"} or "enhanc" in plain:
        return "ET"
    return None


def _classes(meanings: Mapping[str, frozenset[int]]) -> dict[int, int] | None:
    """File value to class of the label space, or None if the meanings do not give it."""
    cavity = meanings.get("RC", frozenset())
    told = set(meanings) - {"RC"}
    if set(meanings) == {"WT"}:
        return dict.fromkeys(meanings["WT"], 1)
    if told == {"WT", "TC", "ET"}:
        whole, core, enhancing = meanings["WT"], meanings["TC"], meanings["ET"]
        if not enhancing < core < whole or cavity & whole:
            return None
        parts = {1: core - enhancing, 2: whole - core, 3: enhancing}
    elif told == {"NCR", "ED", "ET"}:
        parts = {position: meanings[SUBREGIONS.classes[position]] for position in (1, 2, 3)}
    else:
        return None
    pairs = [(value, position) for position, values in {**parts, 4: cavity}.items() for value in values]
    return dict(sorted(pairs)) if len(dict(pairs)) == len(pairs) else None


def _cannot_tell(labels: Mapping[str, object], where: Path) -> DataError:
    values = sorted(value for name, numbers in _named(labels) if name not in _NO_CLASS for value in numbers)
    return DataError(
        f"cannot tell what the labels mean: {dict(labels)}",
        where=where,
        expected="necrotic core, edema, enhancing tumour; or nnU-Net's three regions; or one label, the whole lesion",
        remedy=f"say what each value means: --label-scheme {','.join(f'{value}=?' for value in dict.fromkeys(values))} "
        "with NCR, ED, ET, RC, background, or lesion for each ?; or name the convention: "
        + ", ".join(f"{scheme.name} ({scheme.meaning})" for scheme in LABEL_SCHEMES.values()),
    )
