"""Single pictures of the page: a slice with its classes in the paper's colours, as text that a page can hold."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from metaseg.cases.labels import LabelSpace
from metaseg.inference.case_pictures import pixel_size, shown_modality
from metaseg.pictures import overlay as drawing
from metaseg.pictures.overlay import class_palette, painted_slice, shown_slice, visible_part
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
        crop, pixel = visible_part(image[None]), pixel_size(self.case)
        extent = [(part.stop - part.start) * step for part, step in zip(crop, pixel, strict=True)]
        width, height = drawing.panel_size(extent, self.size)
        mirror = not self.case.info.geometry.planar
        grey = shown_slice(image, crop, (width, height), mirror)
        codes = np.zeros(image.shape, dtype=np.uint8) if classes is None else classes
        picture = Image.fromarray(painted_slice(grey, codes, class_palette(space), crop, mirror, alpha=0.45))
        if mirror and self.size >= _SIDES_FROM:
            drawing.put_sides(picture, 0, 0, width, height, 13)
        return Panel(data_address(picture), width, height, alt, caption, kind)

    def _image(self) -> np.ndarray:
        (channel,) = self.case.channels((shown_modality(self.modalities),))
        return np.asarray(self.case.raw_images[self.stored, channel], dtype=np.float32)


def data_address(picture: Image.Image) -> str:
    """A picture as text that a page can hold."""
    stream = io.BytesIO()
    # Full colour resolution: outlines are a pixel wide.
    picture.save(stream, format="JPEG", quality=80, subsampling=0, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
