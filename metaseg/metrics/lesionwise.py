"""Lesion-wise Dice, HD95 and F1, as the brain-metastasis challenges score them.

Two rule sets: the official code of BraTS 2023 (Moawad et al., arXiv:2306.00838; ``rachitsaluja/BraTS-2023-Metrics``)
and that of MIST (``mist-medical/MIST``), whose lesion F1 is the detection metric of BraTS-METS 2026. They differ in
connectivity, merging, the size threshold, what becomes of small lesions, and the distance penalty; every rule is a
field of :class:`LesionwiseConfig`. ``docs/metrics.md`` has the table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import ndimage

from metaseg.errors import UsageError, unknown_name
from metaseg.metrics.empties import EMPTY_POLICIES, EmptyPolicy, image_diagonal, settle_empties
from metaseg.metrics.overlap import Box, bounding_box, dice_from_counts, grown, united
from metaseg.metrics.surface import hd95

_REACH = {6: 1, 18: 2, 26: 3}


@dataclass(frozen=True)
class LesionwiseConfig:
    """The rules of a lesion-wise metric.

    Attributes:
        name: Name of the preset.
        connectivity: Neighbours (6, 18 or 26) that make voxels one component; in a planar stack, those in the plane.
        dilation: Times that a lesion of the label is dilated (18-neighbourhood) before it is matched to predictions.
        merge_dilation: Times that the label is dilated to merge lesions that come to touch; 0 merges none.
        min_volume: Size threshold of label lesions in mm³ (voxels where there is no size, mm² in a planar stack).
        keep_at_threshold: True keeps a lesion of exactly ``min_volume``, False drops it.
        match_dropped: True lets a dropped lesion excuse the predictions on it; False makes those false positives.
        empties: Penalties of missed and false lesions, and the metrics where there is neither.
    """

    name: str
    connectivity: int
    dilation: int
    merge_dilation: int
    min_volume: float
    keep_at_threshold: bool
    match_dropped: bool
    empties: EmptyPolicy

    def __post_init__(self) -> None:
        if self.connectivity not in _REACH:
            raise UsageError(f"connectivity {self.connectivity} of lesions", expected="6, 18 or 26")
        if self.dilation < 0 or self.merge_dilation < 0 or self.min_volume < 0:
            raise UsageError("a lesion-wise dilation or size threshold is negative", expected="0 or more")

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> LesionwiseConfig:
        """Rules by name, with single rules replaced.

        Args:
            name: One of :data:`LESIONWISE_PRESETS`.
            **overrides: Fields of this class.

        Raises:
            UsageError: There is no such preset.
        """
        if name not in LESIONWISE_PRESETS:
            raise unknown_name("lesion-wise preset", name, LESIONWISE_PRESETS)
        return replace(LESIONWISE_PRESETS[name], **overrides)


_BRATS, _MIST = EMPTY_POLICIES["brats"], EMPTY_POLICIES["mist"]

LESIONWISE_PRESETS: Mapping[str, LesionwiseConfig] = {
    config.name: config
    for config in (
        LesionwiseConfig("brats2023-mets", 26, 1, 1, 2.0, False, True, _BRATS),
        LesionwiseConfig("brats2023-gli", 26, 3, 3, 50.0, False, True, _BRATS),
        LesionwiseConfig("brats2023-men", 26, 1, 1, 50.0, False, True, _BRATS),
        # MIST's rules with the dilation and the size threshold of the metastasis challenge ...
        LesionwiseConfig("mist", 18, 1, 0, 2.0, True, False, _MIST),
        # ... and as mist_evaluate computes it when no option is given.
        LesionwiseConfig("mist-defaults", 18, 3, 0, 10.0, True, False, _MIST),
    )
}


@dataclass(frozen=True)
class LabelLesion:
    """One lesion of the label.

    Attributes:
        number: Its number, from 1.
        volume: Size in mm³ (voxels without a voxel size, mm² in a planar stack).
        kept: False if it is below the size threshold and enters no metric.
        matched: Numbers of the predicted components that touch it after dilation.
        dice: Dice in [0, 1] between the lesion, not dilated, and the union of the matched components; 0 if missed.
        hd95: HD95 of the same two, or the penalty if missed; NaN if not computed.
    """

    number: int
    volume: float
    kept: bool
    matched: tuple[int, ...]
    dice: float
    hd95: float


@dataclass(frozen=True)
class LesionwiseResult:
    """Lesion-wise metrics of one region of one case.

    Attributes:
        dice: Sum of the kept lesions' Dice over the number of kept lesions and false positives, in [0, 1].
        hd95: The same mean of HD95, false positives counting the penalty; NaN if not computed.
        f1: 2 tp / (2 tp + fp + fn), in [0, 1].
        n_lesions: Kept lesions of the label.
        tp: Kept lesions that are matched.
        fp: Predicted components that are matched to no lesion.
        fn: Kept lesions that are not matched.
        lesions: All lesions of the label, dropped ones too.
    """

    dice: float
    hd95: float
    f1: float
    n_lesions: int
    tp: int
    fp: int
    fn: int
    lesions: tuple[LabelLesion, ...]


def lesionwise(
    label: np.ndarray,
    prediction: np.ndarray,
    spacing: Sequence[float],
    config: LesionwiseConfig | str = "brats2023-mets",
    *,
    planar: bool = False,
    with_surface: bool = True,
) -> LesionwiseResult:
    """Score every lesion of the label by itself.

    A predicted component may be matched to several lesions and a lesion to several components. Where the label has no
    kept lesion and the prediction no false positive, Dice and F1 are 1 and HD95 is 0, as in the official code.

    Args:
        label: Boolean mask ``(slices, height, width)`` of one region.
        prediction: Boolean mask of the same shape.
        spacing: Voxel size along the same axes, in mm (or pixels).
        config: The rules, or the name of a preset.
        planar: True for a stack of separate 2-D images: components and dilations then stay within their slice.
        with_surface: Compute HD95 too, which takes most of the time.

    Returns:
        The metrics and all lesions.

    Raises:
        ValueError: The shapes differ.
        UsageError: There is no such preset.

    Examples:
        >>> label, prediction = np.zeros((2, 12, 12, 12), bool)
        >>> label[2:5, 2:5, 2:5] = label[8:11, 8:11, 8:11] = prediction[2:5, 2:5, 2:5] = True
        >>> found = lesionwise(label, prediction, (1.0, 1.0, 1.0))
        >>> found.n_lesions, found.tp, found.fn, found.dice
        (2, 1, 1, 0.5)
    """
    rules = LesionwiseConfig.preset(config) if isinstance(config, str) else config
    if label.shape != prediction.shape:
        raise ValueError(f"label {label.shape} and prediction {prediction.shape} differ in shape")
    label, prediction = label.astype(bool, copy=False), prediction.astype(bool, copy=False)
    diagonal = image_diagonal(label.shape, spacing, planar)
    # No margin for the dilations: two that touch beyond the box around everything touch inside it too.
    box = bounding_box(label | prediction)
    if box is None:
        return _summarise((), 0, diagonal, rules, with_surface)
    components, n_components = ndimage.label(prediction[box], _neighbours(rules.connectivity, planar))
    lesions = _score_lesions(
        _label_lesions(label[box], rules, planar), components, spacing, diagonal, rules, planar, with_surface
    )
    matched = {number for lesion in lesions if lesion.kept or rules.match_dropped for number in lesion.matched}
    return _summarise(lesions, n_components - len(matched), diagonal, rules, with_surface)


def _neighbours(connectivity: int, planar: bool) -> np.ndarray:
    """Structuring element (3, 3, 3) of a neighbourhood, without other slices in a planar stack."""
    element: np.ndarray = ndimage.generate_binary_structure(3, _REACH[connectivity])
    if planar:
        element[[0, 2]] = False
    return element


def _label_lesions(label: np.ndarray, rules: LesionwiseConfig, planar: bool) -> np.ndarray:
    """Number the lesions of the label, from 1; lesions whose dilations touch share a number."""
    grown_label = label
    if rules.merge_dilation:
        grown_label = ndimage.binary_dilation(label, _neighbours(18, planar), iterations=rules.merge_dilation)
    numbers: np.ndarray = ndimage.label(grown_label, _neighbours(rules.connectivity, planar))[0]
    return np.where(label, numbers, 0)


def _score_lesions(
    numbers: np.ndarray,
    components: np.ndarray,
    spacing: Sequence[float],
    diagonal: float,
    rules: LesionwiseConfig,
    planar: bool,
    with_surface: bool,
) -> tuple[LabelLesion, ...]:
    """Match and score all lesions; ``numbers`` and ``components`` are label and prediction as numbered components."""
    # Slices of a planar stack have no thickness: lesions are measured by their area.
    voxel = math.prod(spacing[1:] if planar else spacing)
    boxes = ndimage.find_objects(numbers)
    component_boxes = ndimage.find_objects(components)
    component_sizes = np.bincount(components.ravel())
    scored = []
    for number, box in enumerate(boxes, start=1):
        if box is None:
            continue
        lesion = numbers[box] == number
        size = int(np.count_nonzero(lesion))
        volume = size * voxel
        kept = volume >= rules.min_volume if rules.keep_at_threshold else volume > rules.min_volume
        matched = _matched_components(numbers, number, box, components, rules.dilation, planar)
        predicted = int(component_sizes[list(matched)].sum())
        verdict = settle_empties(size, predicted, diagonal, rules.empties)
        dice, distance = verdict.dice, verdict.hd95
        if dice is None:
            shared = np.count_nonzero(np.isin(components[box][lesion], matched))
            dice = float(dice_from_counts(np.array(shared), np.array(size), np.array(predicted)))
        if not with_surface:
            distance = math.nan
        elif distance is None:
            # The union of the boxes bounds both masks, so nothing outside it can be nearer.
            both = united([box, *(component_boxes[component - 1] for component in matched)])
            mask, found = numbers[both] == number, np.isin(components[both], matched)
            distance = hd95(mask, found, spacing, planar=planar)
        scored.append(LabelLesion(number, volume, kept, matched, dice, distance))
    return tuple(scored)


def _matched_components(
    numbers: np.ndarray, number: int, box: Box, components: np.ndarray, dilation: int, planar: bool
) -> tuple[int, ...]:
    """Numbers of the predicted components that meet the dilated lesion."""
    around = grown(box, dilation, numbers.shape)
    reach = numbers[around] == number
    if dilation:
        reach = ndimage.binary_dilation(reach, _neighbours(18, planar), iterations=dilation)
    met = np.unique(components[around][reach])
    return tuple(int(value) for value in met if value)


def _summarise(
    lesions: tuple[LabelLesion, ...], fp: int, diagonal: float, rules: LesionwiseConfig, with_surface: bool
) -> LesionwiseResult:
    """Means over kept lesions and false positives."""
    kept = [lesion for lesion in lesions if lesion.kept]
    tp = sum(bool(lesion.matched) for lesion in kept)
    fn = len(kept) - tp
    if not kept and not fp:
        nothing = settle_empties(0, 0, diagonal, rules.empties)
        assert nothing.dice is not None
        assert nothing.hd95 is not None
        distance = nothing.hd95 if with_surface else math.nan
        return LesionwiseResult(nothing.dice, distance, nothing.dice, 0, 0, 0, 0, lesions)
    parts = len(kept) + fp
    dice = sum(lesion.dice for lesion in kept) / parts
    distance = (sum(lesion.hd95 for lesion in kept) + fp * rules.empties.penalty(diagonal)) / parts
    if not with_surface:
        distance = math.nan
    return LesionwiseResult(dice, distance, 2 * tp / (2 * tp + fp + fn), len(kept), tp, fp, fn, lesions)
