"""All segmentation metrics of one case, as table rows that hold enough to apply any other policy later."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from metaseg.cases.labels import LabelSpace, region_mask
from metaseg.errors import DataError
from metaseg.metrics.empties import EmptyPolicy, empty_policy, image_diagonal, settle_empties
from metaseg.metrics.lesionwise import LesionwiseConfig, lesionwise
from metaseg.metrics.overlap import dice_from_counts
from metaseg.metrics.surface import hd95

PRESETS = ("brats2023-mets", "mist")

_CUBIC_MM_PER_ML = 1000.0


def common_regions(space_label: LabelSpace, space_prediction: LabelSpace) -> tuple[str, ...]:
    """Regions that both label spaces know, in the order of the label's.

    Examples:
        >>> from metaseg.cases.labels import SUBREGIONS, WHOLE_LESION
        >>> common_regions(WHOLE_LESION, SUBREGIONS)
        ('WT',)
    """
    return tuple(region for region in space_label.regions if region in space_prediction.regions)


def case_metrics(
    label: np.ndarray,
    prediction: np.ndarray,
    space_label: LabelSpace,
    space_prediction: LabelSpace,
    spacing: Sequence[float],
    unit: str = "mm",
    presets: Sequence[str] = PRESETS,
    with_surface: bool = True,
    *,
    planar: bool = False,
    outlined: np.ndarray | None = None,
    policy: EmptyPolicy | str = "exclude",
) -> list[dict[str, Any]]:
    """Metrics of one case: a row per common region and, where both label spaces are equal, per remaining class.

    Every row has ``target`` (WT, TC, ET, NCR, ED), ``unit``, ``status`` (valid, missed, false, empty-both), ``dice``
    in [0, 1], ``hd95`` in ``unit``, the voxels ``tp``, ``fp``, ``fn`` (overlap, prediction only, label only) and
    ``label_ml``, ``predicted_ml`` (NaN where no volume is known). Rows of regions add the lesion-wise metrics of every
    preset, the first as ``lesionwise_dice``, ``lesionwise_hd95``, ``lesionwise_f1``, ``n_lesions``, ``n_tp``, ``n_fp``,
    ``n_fn``, the others with their name in front, such as ``mist_dice`` and ``mist_n_lesions``.

    In a planar stack Dice pools the voxels of all slices; surface elements and lesions are found within each slice and
    pooled likewise; distance penalties are the diagonal of one slice.

    Where some slices only are outlined, the metrics are of these. Surfaces, lesions and volumes of a patient go on in
    the slices between them, so that HD95, lesion-wise metrics and ``label_ml``, ``predicted_ml`` are then not defined
    but in a planar stack: they are NaN or absent. Such rows have ``outlined_slices``, their number, and ``undefined``,
    the metrics that are not defined and why (empty in a planar stack).

    Args:
        label: Class values ``(slices, height, width)`` in ``space_label``.
        prediction: Class values of the same shape in ``space_prediction``.
        space_label: What the label's values mean.
        space_prediction: What the prediction's values mean.
        spacing: Voxel size along ``(slices, height, width)`` in ``unit``.
        unit: ``"mm"`` or ``"pixel"``.
        presets: Lesion-wise rule sets, see :data:`metaseg.metrics.lesionwise.LESIONWISE_PRESETS`; may be empty.
        with_surface: Compute HD95, of volumes and lesions; else it is NaN.
        planar: True for a stack of separate 2-D images (``Geometry.planar``).
        outlined: The outlined slices where not all are; what label and prediction hold elsewhere plays no part.
        policy: Empty-mask policy of ``dice`` and ``hd95``; lesion-wise metrics follow their preset's own.

    Returns:
        The rows, regions first.

    Raises:
        DataError: Label and prediction differ in shape, or their spaces have no region in common.
        UsageError: There is no such preset or policy.
    """
    if label.shape != prediction.shape:
        raise DataError(
            f"label {label.shape} and prediction {prediction.shape} differ in shape",
            expected="both on the grid of the case's images",
            remedy="predict the case again, or resample one of them",
        )
    if not common_regions(space_label, space_prediction):
        raise DataError(f"label spaces '{space_label.name}' and '{space_prediction.name}' have no region in common")
    rules = [LesionwiseConfig.preset(name) for name in presets]
    settled, partial = empty_policy(policy), {}
    if outlined is not None:
        why = f"HD95, lesion-wise metrics, volumes: {len(outlined)} of {len(label)} slices are outlined"
        partial = {"outlined_slices": len(outlined), "undefined": "" if planar else why}
        label, prediction = label[outlined], prediction[outlined]
        if not planar:
            rules, with_surface, spacing = [], False, (math.nan,) * 3
    rows = []
    for target, is_region, wanted, found in _targets(label, prediction, space_label, space_prediction):
        row = {"target": target, "unit": unit}
        row |= _volume_metrics(wanted, found, spacing, unit, with_surface, planar, settled) | partial
        for position, config in enumerate(rules if is_region else ()):
            row |= _lesion_metrics(wanted, found, spacing, config, position == 0, with_surface, planar)
        rows.append(row)
    return rows


def _targets(
    label: np.ndarray, prediction: np.ndarray, space_label: LabelSpace, space_prediction: LabelSpace
) -> Iterator[tuple[str, bool, np.ndarray, np.ndarray]]:
    """Name, whether it is a region, label mask and predicted mask of every target."""
    for region in common_regions(space_label, space_prediction):
        yield region, True, region_mask(label, space_label, region), region_mask(prediction, space_prediction, region)
    if space_label != space_prediction:
        return
    alone = {values[0] for values in space_label.regions.values() if len(values) == 1}
    for value, name in enumerate(space_label.classes):
        # A class that is a region by itself (ET) has its row already.
        if value and value not in alone:
            yield name, False, label == value, prediction == value


def _volume_metrics(
    label: np.ndarray,
    prediction: np.ndarray,
    spacing: Sequence[float],
    unit: str,
    with_surface: bool,
    planar: bool,
    policy: EmptyPolicy,
) -> dict[str, Any]:
    shared, size, predicted = (int(np.count_nonzero(mask)) for mask in (label & prediction, label, prediction))
    verdict = settle_empties(size, predicted, image_diagonal(label.shape, spacing, planar), policy)
    dice, distance = verdict.dice, verdict.hd95
    if dice is None:
        dice = float(dice_from_counts(np.array(shared), np.array(size), np.array(predicted)))
    if not with_surface:
        distance = math.nan
    elif distance is None:
        distance = hd95(label, prediction, spacing, planar=planar, policy=policy)
    # Separate 2-D images have no slice thickness, hence no volume.
    ml = math.prod(spacing) / _CUBIC_MM_PER_ML if unit == "mm" and not planar else math.nan
    return {
        "status": str(verdict.status),
        "dice": dice,
        "hd95": distance,
        "label_ml": size * ml,
        "predicted_ml": predicted * ml,
        "tp": shared,
        "fp": predicted - shared,
        "fn": size - shared,
    }


def lesion_columns(preset: str, first: bool) -> dict[str, str]:
    """Column names of a preset's lesion-wise metrics, by the fields of ``LesionwiseResult``."""
    score = "lesionwise" if first else preset.replace("-", "_")
    count = "" if first else f"{score}_"
    scores = {field: f"{score}_{field}" for field in ("dice", "hd95", "f1")}
    counts = {field: f"{count}n_{field}" for field in ("tp", "fp", "fn")}
    return scores | {"n_lesions": f"{count}n_lesions"} | counts


def _lesion_metrics(
    label: np.ndarray,
    prediction: np.ndarray,
    spacing: Sequence[float],
    config: LesionwiseConfig,
    first: bool,
    with_surface: bool,
    planar: bool,
) -> dict[str, Any]:
    result = lesionwise(label, prediction, spacing, config, planar=planar, with_surface=with_surface)
    return {column: getattr(result, field) for field, column in lesion_columns(config.name, first).items()}
