"""Pictures of one predicted case: an overlay of its classes and a heat map of its enhancing tumour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from PIL import Image

from metaseg.cases.labels import WHOLE_LESION, LabelSpace
from metaseg.inference.predictor import full_image
from metaseg.pictures.contact_sheet import contact_sheet, informative_slices
from metaseg.pictures.overlay import probability_heatmap
from metaseg.store.stored_case import StoredCase, to_space


def shown_modality(modalities: Sequence[str]) -> str:
    """The modality under an overlay: contrast-enhanced T1 where there is one."""
    return "t1ce" if "t1ce" in modalities else modalities[0]


def heat_class(space: LabelSpace) -> int:
    """Class value whose probability is drawn: enhancing tumour, or the lesion where subregions are not known."""
    return space.classes.index("ET" if "ET" in space.classes else space.classes[-1])


def pixel_size(case: StoredCase) -> tuple[float, float]:
    """Height and width of a stored pixel in the unit of the case's geometry; a shrunken slice has larger ones."""
    (_, _), (y0, y1), (x0, x1) = case.info.crop
    _, height, width = case.info.shape
    spacing = case.info.geometry.spacing
    return spacing[1] * (y1 - y0) / height, spacing[2] * (x1 - x0) / width


def case_overlay(
    case: StoredCase,
    prediction: np.ndarray,
    space: LabelSpace,
    modalities: Sequence[str],
    *,
    label: np.ndarray | None = None,
    synthetic: bool = False,
    note: str = "",
) -> Image.Image:
    """Overlay of a case's most informative slices, beside the label and the errors where there is a label.

    Args:
        case: The prepared case.
        prediction: Class values ``(slices, height, width)`` on the full canonical grid, in ``space``.
        space: The prediction's label space.
        modalities: The network's modalities; see :func:`shown_modality`.
        label: Class values of the same shape in the case's own label space. Only outlined slices are shown with it.
        synthetic: True marks the picture.
        note: Added to the heading.

    Returns:
        The page, RGB. Where label and prediction have different spaces, both are shown as the whole lesion.
    """
    modality = shown_modality(modalities)
    shown = space if label is None or case.space == space else WHOLE_LESION
    image, classes = full_image(case, modality), to_space(prediction, space, shown, case.id)
    outlined = None if label is None else case.native_outlined
    slices = None
    if label is not None:
        label = to_space(label, case.space, shown, case.id)
        if outlined is not None:
            slices = outlined[informative_slices(image[outlined], label[outlined], classes[outlined], 3)].tolist()
    return contact_sheet(
        image,
        label,
        classes,
        shown,
        title="   ".join(filter(None, (case.id, modality, note))),
        synthetic=synthetic,
        rows=3,
        slices=slices,
        spacing=case.info.geometry.spacing,
        planar=case.info.geometry.planar,
    )


def case_heatmap(
    case: StoredCase, chance: np.ndarray, space: LabelSpace, modalities: Sequence[str], *, synthetic: bool = False
) -> Image.Image:
    """Heat map of the slice that holds the most probable enhancing tumour.

    Args:
        case: The prepared case.
        chance: Probability of :func:`heat_class`, ``(slices, height, width)`` on the stored grid.
        space: The network's label space.
        modalities: The network's modalities.
        synthetic: True marks the picture.
    """
    # Squares, so that a small lesion outweighs faint doubts all over a slice.
    stored = int(np.argmax(np.square(chance).sum(axis=(1, 2))))
    modality = shown_modality(modalities)
    (channel,) = case.channels((modality,))
    image = np.asarray(case.raw_images[stored, channel], dtype=np.float32)
    geometry = case.info.geometry
    slices = geometry.canonical_shape[0]
    return probability_heatmap(
        image,
        chance[stored],
        name=space.classes[heat_class(space)],
        title=f"{case.id}   {modality}   slice {case.native_slice(stored) + 1}/{slices}",
        synthetic=synthetic,
        spacing=pixel_size(case),
        planar=geometry.planar,
    )


@dataclass(frozen=True, order=True)
class KeptPrediction:
    """A prediction to draw later, in little memory: only its tumour voxels are kept. The worst sorts first.

    Attributes:
        score: Mean Dice of its regions, in [0, 1].
        place: Place of its case among all; of equal scores the first case is the worst.
        voxels: Flat positions of the voxels that are not background.
        values: Their classes.
    """

    score: float
    place: int
    voxels: np.ndarray = field(compare=False)
    values: np.ndarray = field(compare=False)

    @classmethod
    def of(cls, score: float, place: int, classes: np.ndarray) -> Self:
        """Keep class values ``(slices, height, width)``."""
        voxels = np.flatnonzero(classes)
        return cls(score, place, voxels, classes.reshape(-1)[voxels])

    def class_map(self, case: StoredCase) -> np.ndarray:
        """The prediction of its case, ``(slices, height, width)``, ``uint8``."""
        classes = np.zeros(case.info.geometry.canonical_shape, dtype=np.uint8)
        classes.reshape(-1)[self.voxels] = self.values
        return classes
