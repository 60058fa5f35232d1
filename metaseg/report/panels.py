"""Single pictures of the page: a slice with its classes in the paper's colours, as text that a page can hold."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from metaseg.cases.labels import LabelSpace
from metaseg.inference.case_pictures import shown_modality
from metaseg.metrics.overlap import Box
from metaseg.pictures import overlay as drawing
from metaseg.pictures.overlay import class_palette, contrast_limits, for_display, grey_slice, paint, visible_part
from metaseg.store.stored_case import StoredCase

_SIDES_FROM = 160
"""Pixels from which a panel is large enough for the letters of left and right."""


@dataclass(frozen=True)
class Panel:
    """A picture on the page.

    Attributes:
        source: The picture as a ``data:`` address.
        width: Pixels.
        height: Pixels.
        alt: What a screen reader says.
        caption: Lines below it.
        kind: A class for the style sheet, such as the task of a chosen slice.
    """

    source: str
    width: int
    height: int
    alt: str
    caption: tuple[str, ...]
    kind: str = ""


@dataclass(frozen=True)
class SlicePainter:
    """Draws the maps of one slice of a case, all alike.

    Args:
        case: The stored case.
        stored: Which stored slice.
        modalities: The network's modalities; contrast-enhanced T1 is shown where there is one.
        size: Longer side of a panel in pixels.
    """

    case: StoredCase
    stored: int
    modalities: tuple[str, ...]
    size: int

    def panel(
        self, classes: np.ndarray | None, space: LabelSpace, alt: str, caption: tuple[str, ...], kind: str = ""
    ) -> Panel:
        """One panel; ``classes`` is ``(height, width)`` on the stored grid, or None for the image alone."""
        image = self._image()
        crop = visible_part(image[None])
        width, height = self._panel_size(crop)
        mirror = not self.case.info.geometry.planar
        grey = grey_slice(for_display(image[crop], mirror), contrast_limits(image))
        large = drawing.enlarged_grey(grey, width, height)
        seen = np.zeros(image.shape, dtype=np.uint8) if classes is None else classes.astype(np.uint8)
        codes = drawing.enlarged_codes(for_display(seen[crop], mirror), width, height)
        picture = Image.fromarray(paint(large, codes, class_palette(space), alpha=0.45))
        if mirror and self.size >= _SIDES_FROM:
            drawing.put_sides(picture, 0, 0, width, height, 13)
        return Panel(data_address(picture), width, height, alt, caption, kind)

    def _image(self) -> np.ndarray:
        (channel,) = self.case.channels((shown_modality(self.modalities),))
        return np.asarray(self.case.raw_images[self.stored, channel], dtype=np.float32)

    def _panel_size(self, crop: Box) -> tuple[int, int]:
        rows, columns = pixel_size(self.case)
        height, width = (crop[0].stop - crop[0].start) * rows, (crop[1].stop - crop[1].start) * columns
        scale = self.size / max(height, width)
        return max(1, round(width * scale)), max(1, round(height * scale))


def pixel_size(case: StoredCase) -> tuple[float, float]:
    """Height and width of a stored pixel in the unit of the case's geometry; a shrunken slice has larger ones."""
    (_, _), (y0, y1), (x0, x1) = case.info.crop
    _, height, width = case.info.shape
    spacing = case.info.geometry.spacing
    return spacing[1] * (y1 - y0) / height, spacing[2] * (x1 - x0) / width


def data_address(picture: Image.Image) -> str:
    """A picture as text that a page can hold."""
    stream = io.BytesIO()
    # Full colour resolution: outlines are a pixel wide.
    picture.save(stream, format="JPEG", quality=80, subsampling=0, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
