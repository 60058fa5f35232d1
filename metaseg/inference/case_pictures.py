"""Pictures of one predicted case: an overlay of its classes and a heat map of its enhancing tumour.

Remember the worst predictions of an evaluation, so that they can be drawn at its end.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
from lightning_fabric import Fabric
from PIL import Image

from metaseg.cases.labels import WHOLE_LESION, LabelSpace
from metaseg.inference.inference import full_image
from metaseg.models.processes import gather, several
from metaseg.pictures.contact_sheet import contact_sheet
from metaseg.pictures.overlay import probability_heatmap
from metaseg.store.stored_case import StoredCase, to_space


def shown_modality(modalities: Sequence[str]) -> str:
    """The modality under an overlay: contrast-enhanced T1 where there is one."""
    return "t1ce" if "t1ce" in modalities else modalities[0]


def heat_class(space: LabelSpace) -> int:
    """Class value whose probability is drawn: enhancing tumour, or the lesion where subregions are not known."""
    return space.classes.index("ET" if "ET" in space.classes else space.classes[-1])


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
        label: Class values of the same shape in the case's own label space.
        synthetic: True marks the picture.
        note: Added to the heading.

    Returns:
        The page, RGB. Where label and prediction have different spaces, both are shown as the whole lesion.
    """
    modality = shown_modality(modalities)
    shown = space if label is None or case.space == space else WHOLE_LESION
    return contact_sheet(
        full_image(case, modality),
        None if label is None else to_space(label, case.space, shown, case.id),
        to_space(prediction, space, shown, case.id),
        shown,
        title="   ".join(filter(None, (case.id, modality, note))),
        synthetic=synthetic,
        rows=3,
        spacing=case.info.geometry.spacing,
        planar=case.info.geometry.planar,
    )


def case_heatmap(
    case: StoredCase,
    chance: np.ndarray,
    space: LabelSpace,
    modalities: Sequence[str],
    *,
    synthetic: bool = False,
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
    (_, _), (y0, y1), (x0, x1) = case.info.crop
    # A shrunken slice has larger pixels.
    spacing = (
        geometry.spacing[1] * (y1 - y0) / image.shape[0],
        geometry.spacing[2] * (x1 - x0) / image.shape[1],
    )
    slices = geometry.canonical_shape[0]
    return probability_heatmap(
        image,
        chance[stored],
        name=space.classes[heat_class(space)],
        title=f"{case.id}   {modality}   slice {case.native_slice(stored) + 1}/{slices}",
        synthetic=synthetic,
        spacing=spacing,
        planar=geometry.planar,
    )


@dataclass(frozen=True)
class Prediction:
    """A prediction in little memory: only its tumour voxels are kept.

    Attributes:
        case: The case.
        score: Mean Dice of its regions, in [0, 1].
        voxels: Flat positions of the voxels that are not background.
        values: Their classes.
    """

    case: StoredCase
    score: float
    voxels: np.ndarray
    values: np.ndarray

    def class_map(self) -> np.ndarray:
        """The prediction ``(slices, height, width)``, ``uint8``."""
        classes = np.zeros(self.case.info.geometry.canonical_shape, dtype=np.uint8)
        classes.reshape(-1)[self.voxels] = self.values
        return classes


@dataclass
class WorstCases:
    """The cases with the lowest scores among those offered.

    Attributes:
        count: How many to keep.
    """

    count: int
    _heap: list[tuple[float, int, Prediction]] = field(default_factory=list)
    _offered: int = 0

    def offer(self, case: StoredCase, classes: np.ndarray, score: float) -> None:
        """Keep a prediction if it is among the worst so far; of equal scores the first stays.

        Args:
            case: The case.
            classes: Class values ``(slices, height, width)``.
            score: Higher is better.
        """
        self._offered += 1
        if self.count == 0 or (len(self._heap) == self.count and score >= -self._heap[0][0]):
            return
        voxels = np.flatnonzero(classes)
        self._keep(Prediction(case, score, voxels, classes.reshape(-1)[voxels]))

    def merge(self, fabric: Fabric, cases: Sequence[StoredCase]) -> None:
        """Have in all processes what one would have kept that had been offered everything.

        Args:
            fabric: Of this process.
            cases: All cases, in their order.
        """
        if not several(fabric):
            return
        place = {case.id: number for number, case in enumerate(cases)}
        mine = [(place[one.case.id], one.score, one.voxels, one.values) for one in self.worst_first()]
        everyones = sorted(chain.from_iterable(gather(fabric, [mine])), key=lambda entry: entry[0])
        self._heap, self._offered = [], 0
        for number, score, voxels, values in everyones:
            self._offered += 1
            self._keep(Prediction(cases[number], score, voxels, values))

    def _keep(self, prediction: Prediction) -> None:
        # The heap's root is the best of the worst: lowest negative score, and of equals the latest.
        heapq.heappush(self._heap, (-prediction.score, -self._offered, prediction))
        if len(self._heap) > self.count:
            heapq.heappop(self._heap)

    def worst_first(self) -> list[Prediction]:
        """What was kept, the lowest score first."""
        return [kept for _, _, kept in sorted(self._heap, key=lambda entry: (-entry[0], -entry[1]))]
