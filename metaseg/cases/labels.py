"""Label conventions: what the numbers in a label file mean, and the one set of classes they are brought to.

Inside metaseg a label map has either the *subregions* classes (0 background, 1 necrotic core, 2 edema, 3 enhancing
tumour; Menze et al. 2015) or the *whole-lesion* classes (0 background, 1 lesion). Figures are given for the nested
regions WT = {1, 2, 3}, TC = {1, 3} and ET = {3}, or for WT alone where only the whole lesion was outlined.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from metaseg.errors import DataError, UsageError


@dataclass(frozen=True)
class LabelSpace:
    """The classes of a label map inside metaseg.

    Attributes:
        name: ``"subregions"`` or ``"whole-lesion"``.
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
WHOLE_LESION = LabelSpace("whole-lesion", ("background", "lesion"), {"WT": (1,)})
LABEL_SPACES: Mapping[str, LabelSpace] = {space.name: space for space in (SUBREGIONS, WHOLE_LESION)}


@dataclass(frozen=True)
class LabelScheme:
    """A file convention: which file value stands for which class of a label space.

    Attributes:
        name: The convention's name, as in ``--label-scheme``.
        space: The label space that values are brought to.
        values: File value to class value. Every value that a file may hold is listed.
    """

    name: str
    space: LabelSpace
    values: Mapping[int, int]

    def decode(self, array: np.ndarray, where: str | Path) -> np.ndarray:
        """Bring a label array of any shape from file values to class values.

        Args:
            array: Label values as read from the file; floating point is taken if all values are whole.
            where: The file, for the message.

        Returns:
            Array of the same shape, ``uint8``, with values in ``0 .. space.num_classes - 1``.

        Raises:
            DataError: A value is not finite, not whole, or not one of the scheme's.
        """
        # Most of a label is background: sorting only the rest takes a tenth of the time.
        inside = array != 0
        values = array[inside]
        found = np.unique(values if values.size == array.size else np.append(values, array.dtype.type(0)))
        if not np.all(np.isfinite(found)):
            raise DataError("the label holds non-finite values", where=where, remedy="write it as a whole-number image")
        unknown = [value for value in found.tolist() if value not in self.values]
        if unknown:
            shown = ", ".join(f"{value:g}" for value in unknown[:8])
            raise DataError(
                f"unexpected label values {shown}",
                where=where,
                expected=f"{sorted(self.values)} (label scheme '{self.name}')",
                remedy="name the right convention with --label-scheme, one of: " + ", ".join(LABEL_SCHEMES),
            )
        table = np.zeros(max(self.values) + 1, dtype=np.uint8)
        for value, class_value in self.values.items():
            table[value] = class_value
        classes = np.full(array.shape, table[0])
        classes[inside] = table[values.astype(np.int64)]
        return classes

    def encode(self, classes: np.ndarray) -> np.ndarray:
        """Bring class values back to the file's values; the inverse of :meth:`decode` (``uint8``, same shape).

        Where several file values stand for one class, the smallest is written.
        """
        table = np.zeros(self.space.num_classes, dtype=np.uint8)
        for value, class_value in sorted(self.values.items(), reverse=True):
            table[class_value] = value
        return table[classes]


LABEL_SCHEMES: Mapping[str, LabelScheme] = {
    scheme.name: scheme
    for scheme in (
        LabelScheme("brats", SUBREGIONS, {0: 0, 1: 1, 2: 2, 4: 3}),
        LabelScheme("brats2023", SUBREGIONS, {0: 0, 1: 1, 2: 2, 3: 3}),
        LabelScheme("msd-brats", SUBREGIONS, {0: 0, 1: 2, 2: 1, 3: 3}),
        LabelScheme("whole-lesion", WHOLE_LESION, {0: 0, 1: 1}),
    )
}


def label_scheme(name: str) -> LabelScheme:
    """Look a label scheme up by name.

    Raises:
        UsageError: There is no such scheme.
    """
    if name not in LABEL_SCHEMES:
        raise UsageError(f"unknown label scheme '{name}'", expected="one of " + ", ".join(LABEL_SCHEMES))
    return LABEL_SCHEMES[name]


def region_mask(classes: np.ndarray, space: LabelSpace, region: str) -> np.ndarray:
    """Boolean mask of one region, of the shape of ``classes``."""
    first, *others = space.regions[region]
    mask: np.ndarray = classes == first
    for value in others:
        mask |= classes == value
    return mask
