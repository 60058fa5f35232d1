"""A page of slices of one case: image, ground truth, prediction and errors side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from metaseg.cases.labels import LabelSpace
from metaseg.errors import UsageError
from metaseg.metrics.overlap import class_counts
from metaseg.pictures import overlay as drawing
from metaseg.pictures.overlay import (
    ERROR_COLOURS,
    GAP,
    SMALL,
    class_colours,
    class_palette,
    contrast_limits,
    error_codes,
    painted_slice,
    shown_slice,
    visible_part,
)

COLUMNS = ("image", "label", "prediction", "errors")
_HEADINGS = {"image": "image", "label": "ground truth", "prediction": "prediction", "errors": "errors"}
_NOTE = 30


def informative_slices(
    image: np.ndarray, label: np.ndarray | None, prediction: np.ndarray | None, count: int
) -> list[int]:
    """Slices worth showing: much tumour of many classes, and apart from one another.

    A slice scores the sum over classes of the square root of their area in label or prediction, so that a small
    enhancing rim counts beside a large edema. Without tumour, slices are spread over those that hold tissue.

    Args:
        image: Intensities ``(slices, height, width)``.
        label: Class values of that shape, or None.
        prediction: Class values of that shape, or None.
        count: Number of slices wanted.

    Returns:
        At most ``count`` slice numbers, ascending.
    """
    score = np.zeros(len(image))
    for classes in (label, prediction):
        if classes is not None:
            for value in range(1, int(classes.max()) + 1):
                score += np.sqrt(np.count_nonzero(classes == value, axis=(1, 2)))
    tumour = np.flatnonzero(score)
    if not len(tumour):
        tissue = np.count_nonzero(image > image.min(), axis=(1, 2))
        held = np.flatnonzero(tissue >= 0.3 * tissue.max()) if tissue.any() else np.arange(len(image))
        return sorted({int(held[at]) for at in np.linspace(0, len(held) - 1, count + 2)[1:-1].round().astype(int)})
    apart = len(tumour) / (1.5 * count)
    chosen: list[int] = []
    for slice_number in tumour[np.argsort(-score[tumour], kind="stable")]:
        if len(chosen) < count and all(abs(int(slice_number) - other) >= apart for other in chosen):
            chosen.append(int(slice_number))
    return sorted(chosen)


def contact_sheet(
    image: np.ndarray,
    label: np.ndarray | None,
    prediction: np.ndarray | None,
    space: LabelSpace,
    columns: Sequence[str] = COLUMNS,
    title: str = "",
    synthetic: bool = False,
    *,
    rows: int = 4,
    slices: Sequence[int] | None = None,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    planar: bool = False,
    panel: int = 300,
) -> Image.Image:
    """Draw the most informative slices of a case, in radiological orientation (the patient's right on the left).

    Args:
        image: Intensities ``(slices, height, width)`` of one modality, canonical frame.
        label: Class values of that shape, or None.
        prediction: Class values of that shape, or None.
        space: What both mean.
        columns: Panels of a row, from :data:`COLUMNS`; those that need a missing map are left out.
        title: Heading, such as case and modality.
        synthetic: True marks the page as made from phantoms.
        rows: Number of slices to pick.
        slices: Slice numbers to show instead.
        spacing: Voxel size along ``(slices, height, width)``, for the panels' aspect.
        planar: True for separate 2-D images: their sides are not known, so they are neither mirrored nor marked L/R.
        panel: Longer side of a panel in pixels.

    Returns:
        The page, RGB.

    Raises:
        UsageError: A column is not known, or no slice is asked for.
        ValueError: The arrays differ in shape.
    """
    if unknown := [name for name in columns if name not in COLUMNS]:
        raise UsageError(f"unknown column {', '.join(unknown)}", expected="some of " + ", ".join(COLUMNS))
    if any(classes is not None and classes.shape != image.shape for classes in (label, prediction)):
        raise ValueError("image, label and prediction differ in shape")
    shown = list(slices) if slices is not None else informative_slices(image, label, prediction, rows)
    if not shown:
        raise UsageError("a contact sheet without slices", expected="at least one row")
    missing = {"label": label is None, "prediction": prediction is None, "errors": label is None or prediction is None}
    columns = [name for name in columns if not missing.get(name, False)]
    crop = visible_part(image[shown])
    extent = [(part.stop - part.start) * step for part, step in zip(crop, spacing[1:], strict=True)]
    size = width, height = drawing.panel_size(extent, panel)
    limits, mirror = contrast_limits(image), not planar
    canvas, top = _page(columns, len(shown), width, height, title, space, synthetic)
    for slice_number in shown:
        maps = [None if classes is None else classes[slice_number] for classes in (label, prediction)]
        grey = shown_slice(image[slice_number], crop, size, mirror, limits)
        note = _slice_note(slice_number, len(image), *maps)
        for column, name in enumerate(columns):
            left = GAP + column * (width + GAP)
            codes, palette = _codes(name, space, *maps)
            picture = grey if codes is None else painted_slice(grey, codes, palette, crop, mirror)
            canvas.paste(Image.fromarray(picture), (left, top))
            if mirror:
                drawing.put_sides(canvas, left, top, width, height, SMALL)
            if not column:
                drawing.put_text(canvas, (left, top + height + 3), note, SMALL)
        top += height + _NOTE
    return canvas


def _codes(
    name: str, space: LabelSpace, label: np.ndarray | None, prediction: np.ndarray | None
) -> tuple[np.ndarray | None, np.ndarray]:
    """What a column colours in a slice, None for the image alone; and its colours."""
    if name == "errors" and label is not None and prediction is not None:
        return error_codes(label, prediction), np.array([(0, 0, 0), *ERROR_COLOURS.values()], dtype=np.uint8)
    return {"label": label, "prediction": prediction}.get(name), class_palette(space)


def _slice_note(slice_number: int, n_slices: int, label: np.ndarray | None, prediction: np.ndarray | None) -> str:
    """Number of the slice and, if it can be known, its Dice of all tumour."""
    note = f"slice {slice_number + 1}/{n_slices}"
    if label is None or prediction is None:
        return note
    dice = class_counts((label > 0).astype(np.uint8), (prediction > 0).astype(np.uint8), 2).dice()[1]
    return note if np.isnan(dice) else f"{note}   slice Dice WT {dice:.2f}"


def _page(
    columns: Sequence[str], n_rows: int, width: int, height: int, title: str, space: LabelSpace, synthetic: bool
) -> tuple[Image.Image, int]:
    """Empty page with title, headings and colour key; and the y position of the first row."""
    keys = [class_colours(space)] if "label" in columns or "prediction" in columns else []
    if "errors" in columns:
        keys.append(list(ERROR_COLOURS.items()))
    key_sides = [drawing.key_width(key, SMALL) for key in keys]
    needed = 2 * GAP + max(len(columns) * (width + GAP) - GAP, *key_sides, 0)
    one_line = sum(key_sides) <= max(needed, drawing.heading_width(title, synthetic)) - 2 * GAP
    key_lines = (1 if one_line else len(keys)) if keys else 0
    canvas, top = drawing.new_page(needed, 24 + n_rows * (height + _NOTE) + key_lines * 26 + GAP, title, synthetic)
    top += 24
    for column, name in enumerate(columns):
        middle = GAP + column * (width + GAP) + width / 2
        drawing.put_text(canvas, (middle, top - 6), _HEADINGS[name], SMALL, drawing.FAINT, anchor="md")
    left, line = GAP, top + n_rows * (height + _NOTE) + 13
    for key in keys:
        left = drawing.put_key(canvas, left, line, key, SMALL)
        if not one_line:
            left, line = GAP, line + 26
    return canvas, top
