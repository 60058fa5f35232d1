"""Label conventions: what the numbers in a label file mean, and the one set of classes they are brought to.

Inside metaseg a label map has either the *subregions* classes (0 background, 1 necrotic core, 2 edema, 3 enhancing
tumour; Menze et al. 2015), these and 4 for the *resection cavity* of treated tumours, or the *whole-lesion* classes
(0 background, 1 lesion). Metrics are given for the nested regions WT = {1, 2, 3}, TC = {1, 3} and ET = {3}, for the
cavity RC = {4} where it is outlined, or for WT alone where only the whole lesion was outlined. Voxels that nobody
outlined are :data:`IGNORED`, which is no class.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from metaseg.errors import DataError, UsageError, unknown_name


@dataclass(frozen=True)
class LabelSpace:
    """The classes of a label map inside metaseg.

    Attributes:
        name: ``"subregions"``, ``"subregions-cavity"`` or ``"whole-lesion"``.
        classes: Class names; the position is the value in the map, 0 is the background.
        regions: Region name to the class values that it unites.
    """

    name: str
    classes: tuple[str, ...]
    regions: Mapping[str, tuple[int, ...]]

    @property
    def num_classes(self) -> int:
        """Number of classes with the background."""
        return len(self.classes)


SUBREGIONS = LabelSpace("subregions", ("background", "NCR", "ED", "ET"), {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)})
CAVITY = LabelSpace("subregions-cavity", (*SUBREGIONS.classes, "RC"), {**SUBREGIONS.regions, "RC": (4,)})
WHOLE_LESION = LabelSpace("whole-lesion", ("background", "lesion"), {"WT": (1,)})
LABEL_SPACES: Mapping[str, LabelSpace] = {space.name: space for space in (SUBREGIONS, CAVITY, WHOLE_LESION)}
_MAX_VALUE = 255
IGNORED = 255
"""In place of a class: nobody outlined this voxel, so that it is not even known to be background."""
_IGNORE = "ignore"


@dataclass(frozen=True)
class LabelScheme:
    """A file convention: which file value stands for which class of a label space.

    Attributes:
        name: The convention's name, as in ``--label-scheme``.
        space: The label space that values are brought to.
        values: File value to class value.
        others: Class of every value above those listed; None if a file may hold no other values.
        ignore: Value of voxels that nobody outlined, as nnU-Net's label of this name; None if there is none.
        instead: Conventions that files of these names follow in other editions, to be offered for unknown values.
        unclear: Why labels cannot be read although predictions can be written; None for a known convention.
    """

    name: str
    space: LabelSpace
    values: Mapping[int, int]
    others: int | None = None
    ignore: int | None = None
    instead: tuple[str, ...] = ()
    unclear: DataError | None = field(default=None, compare=False)

    @property
    def meaning(self) -> str:
        """What the values mean, such as ``"1 NCR, 2 ED, 4 ET"``."""
        if self.others is not None:
            return f"every value above 0 is {self.space.classes[self.others]}"
        told = [f"{value} {self.space.classes[number]}" for value, number in self.values.items() if value]
        return ", ".join(told + ([] if self.ignore is None else [f"{self.ignore} {_IGNORE}"]))

    def decode(self, array: np.ndarray, where: str | Path) -> np.ndarray:
        """Bring a label array of any shape from file values to class values.

        Args:
            array: Label values as read from the file; floating point is taken if all values are whole.
            where: The file, for the message.

        Returns:
            Array of the same shape, ``uint8``, with values in ``0 .. space.num_classes - 1``, and :data:`IGNORED`.

        Raises:
            DataError: A value is not finite, not whole, or not one of the scheme's.
        """
        # Most of a label is background: sorting only the rest takes a tenth of the time.
        inside = array != 0
        values = array[inside]
        found = np.unique(values if values.size == array.size else np.append(values, array.dtype.type(0)))
        self.check_values(found, where)
        known = {**self.values} if self.ignore is None else {**self.values, self.ignore: IGNORED}
        table = np.full(max(known) + 2, self.others or 0, dtype=np.uint8)
        for value, class_value in known.items():
            table[value] = class_value
        classes = np.full(array.shape, table[0])
        if self.others is not None:
            values = np.minimum(values, len(table) - 1)
        classes[inside] = table[values.astype(np.int64)]
        return classes

    def check_values(self, found: np.ndarray, where: str | Path) -> None:
        """Check the distinct values of a label.

        Raises:
            DataError: A value is not finite, not whole, or not one of the scheme's.
        """
        if self.unclear is not None:
            raise self.unclear
        if not np.all(np.isfinite(found)):
            raise DataError("the label holds non-finite values", where=where, remedy="write it as a whole-number image")
        broken = [value for value in found if value != np.rint(value)]
        if broken:
            raise DataError(
                f"the label holds values that are not whole: {_some(broken)}",
                where=where,
                expected=f"whole numbers: {self.meaning} (label scheme '{self.name}')",
                remedy="round what a scale factor left; resample an interpolated label anew, by nearest neighbour",
            )
        known = {*self.values, self.ignore}
        unknown = [value for value in found if value not in known and (self.others is None or value < 0)]
        if unknown:
            raise DataError(
                f"unexpected label values {_some(unknown)}",
                where=where,
                expected=f"{self.meaning} (label scheme '{self.name}')",
                remedy=self._remedy(found, unknown),
            )

    def _remedy(self, found: np.ndarray, unknown: Sequence[Any]) -> str:
        """What to do about unknown values; no convention is named that turns a class of these files into another."""
        numbered = found.max() > max(4, *self.values) and "any-lesion" not in self.instead
        names = [*self.instead, *(("any-lesion",) if numbered else ())]
        fitting = [LABEL_SCHEMES[name] for name in names if LABEL_SCHEMES[name].knows(found)]
        offers = "; ".join(f"--label-scheme {scheme.name} ({scheme.meaning})" for scheme in fitting)
        told = [f"{value}={self.space.classes[number]}" for value, number in self.values.items() if value]
        asked = [f"{int(value)}=?" for value in unknown[:8] if 0 < value <= _MAX_VALUE]
        classes = "lesion" if self.space is WHOLE_LESION else ", ".join(CAVITY.classes[1:])
        spelled = f"--label-scheme {','.join(told + asked)} with {classes}, background or {_IGNORE} for each ?"
        choices = "; ".join(filter(None, (offers, spelled if asked else "")))
        return f"see what the data's documentation says, and give {choices}" if choices else "correct the label"

    def knows(self, found: np.ndarray) -> bool:
        """Whether all values may occur in a file of this convention."""
        return all(value in self.values or (self.others is not None and value > 0) for value in found)

    def encode(self, classes: np.ndarray) -> np.ndarray:
        """Bring class values back to the file's values; the inverse of :meth:`decode` (``uint8``, same shape).

        Where several file values stand for one class, the smallest is written.
        """
        table = np.zeros(self.space.num_classes, dtype=np.uint8)
        for value, class_value in sorted(self.values.items(), reverse=True):
            table[class_value] = value
        return table[classes]


_POST = ("brats-post", "brats-post-core", "brats-post-cavity")
LABEL_SCHEMES: Mapping[str, LabelScheme] = {
    scheme.name: scheme
    for scheme in (
        LabelScheme("brats", SUBREGIONS, {0: 0, 1: 1, 2: 2, 4: 3}, instead=("brats2023",)),
        LabelScheme("brats2023", SUBREGIONS, {0: 0, 1: 1, 2: 2, 3: 3}, instead=_POST),
        LabelScheme("brats-ped", SUBREGIONS, {0: 0, 1: 3, 2: 1, 3: 1, 4: 2}),
        LabelScheme("brats-post", SUBREGIONS, {0: 0, 1: 1, 2: 2, 3: 3, 4: 0}),
        LabelScheme("brats-post-core", SUBREGIONS, {0: 0, 1: 1, 2: 2, 3: 3, 4: 1}),
        LabelScheme("brats-post-cavity", CAVITY, {0: 0, 1: 1, 2: 2, 3: 3, 4: 4}),
        LabelScheme("msd-brats", SUBREGIONS, {0: 0, 1: 2, 2: 1, 3: 3}),
        LabelScheme(
            "whole-lesion",
            WHOLE_LESION,
            {0: 0, 1: 1},
            instead=("any-lesion", "brats", "brats2023", "msd-brats", "brats-ped", *_POST),
        ),
        LabelScheme("any-lesion", WHOLE_LESION, {0: 0, 1: 1}, others=1),
    )
}
SPELLED_EXAMPLE = "1=NCR,2=ED,3=ET,4=background"
_CLASSES = {name.lower(): name for space in LABEL_SPACES.values() for name in space.classes} | {_IGNORE: _IGNORE}


def label_scheme(name: str) -> LabelScheme:
    """Look a label scheme up by name, or make one that is spelled out as ``"1=NCR,2=ED,3=ET,4=background,5=ignore"``.

    Raises:
        UsageError: There is no such scheme, or it is spelled wrongly.
    """
    if name in LABEL_SCHEMES:
        return LABEL_SCHEMES[name]
    if "=" not in name:
        error = unknown_name("label scheme", name, LABEL_SCHEMES)
        error.expected = f"{error.expected}; or what each value means, such as {SPELLED_EXAMPLE}"
        raise error
    meanings: dict[int, str] = {}
    for entry in name.split(","):
        match = re.fullmatch(r"\s*(\d{1,3})\s*=\s*([A-Za-z]+)\s*", entry)
        value = int(match[1]) if match else 0
        if not match or match[2].lower() not in _CLASSES or not 0 < value <= _MAX_VALUE or value in meanings:
            raise _misspelled(name)
        meanings[value] = _CLASSES[match[2].lower()]
    ignored = [value for value, meaning in meanings.items() if meaning == _IGNORE]
    named = set(meanings.values()) - {"background", _IGNORE}
    spaces = [space for space in (WHOLE_LESION, SUBREGIONS, CAVITY) if named and named <= set(space.classes)]
    if not spaces or len(ignored) > 1:
        raise _misspelled(name)
    text = ",".join(f"{value}={meanings[value]}" for value in sorted(meanings))
    classes = {value: spaces[0].classes.index(meanings[value]) for value in sorted(meanings) if value not in ignored}
    return LabelScheme(text, spaces[0], {0: 0} | classes, ignore=next(iter(ignored), None))


def doubts(
    labels: Iterable[tuple[LabelScheme, Collection[int]]], told: bool, unite: bool = False
) -> Iterator[tuple[str, DataError]]:
    """What all labels of one convention in a data set, taken together, say against it.

    Args:
        labels: Convention of each label, and the class values that it holds.
        told: The user named the convention; otherwise it follows from the files' names.
        unite: Only the whole lesion is asked for.

    Yields:
        Kind and message: ``"label-meaning"`` where training or metrics would be wrong, ``"label-edition"`` where the
        names leave two meanings open, ``"label-region-absent"`` where no label has a region.
    """
    held: dict[str, list[Collection[int]]] = {}
    schemes: dict[str, LabelScheme] = {}
    for scheme, values in labels:
        schemes[scheme.name] = scheme
        held.setdefault(scheme.name, []).append(values)
    for name, scheme in schemes.items():
        yield from _doubts_of(scheme, held[name], told, unite)


def _doubts_of(
    scheme: LabelScheme, labels: Sequence[Collection[int]], told: bool, unite: bool
) -> Iterator[tuple[str, DataError]]:
    present = {value for values in labels for value in values}
    tumour = present - {0}
    if unite and tumour:
        return
    count = "the only label holds" if len(labels) == 1 else f"all {len(labels)} labels hold"
    if tumour == {1} and scheme.name in ("brats", "brats2023") and not told:
        error = DataError(
            f"{count} the value 1 alone, which is necrosis (NCR) by the files' names",
            expected=f"{scheme.meaning} (label scheme '{scheme.name}')",
            remedy="give --label-scheme whole-lesion if 1 is the whole lesion; "
            f"--label-scheme {scheme.name} if it is necrosis indeed",
        )
        yield "label-meaning", error
        return
    if scheme.instead == ("brats-ped",) and not told:
        ped = LABEL_SCHEMES["brats-ped"]
        error = DataError(
            f"the names leave two meanings open: the paediatric labels of 2023 are {scheme.meaning}, those of 2024 and "
            f"later {ped.meaning} (3 is a cyst)",
            expected=f"label scheme '{scheme.name}', which is assumed",
            remedy=f"say which it is: --label-scheme {scheme.name} or --label-scheme {ped.name}",
        )
        yield "label-edition", error
    empty = [name for name, values in scheme.space.regions.items() if not present & set(values)]
    if empty:
        error = DataError(
            f"no label of {len(labels)} has the region {', '.join(empty)}",
            expected=f"{scheme.meaning} (label scheme '{scheme.name}')",
            remedy="see that this is what the values mean, or name the convention with --label-scheme",
        )
        yield "label-region-absent", error


def _misspelled(name: str) -> UsageError:
    return UsageError(
        f"the label scheme '{name}' cannot be understood",
        expected=f"values from 1 to {_MAX_VALUE}, each once, such as {SPELLED_EXAMPLE}; or 255=lesion",
        remedy="name classes: NCR, ED, ET, RC (resection cavity), or lesion alone; background for what is no tumour, "
        f"{_IGNORE} for what nobody outlined",
    )


def _some(values: Sequence[Any]) -> str:
    """Values as they are, so that 0.9999999 does not look like 1, and at most eight of them."""
    shown = ", ".join(str(int(value)) if value == int(value) else str(value) for value in values[:8])
    return shown + (f" and {len(values) - 8} more" if len(values) > 8 else "")


def region_mask(classes: np.ndarray, space: LabelSpace, region: str) -> np.ndarray:
    """Boolean mask of one region, of the shape of ``classes``."""
    first, *others = space.regions[region]
    mask: np.ndarray = classes == first
    for value in others:
        mask |= classes == value
    return mask
