"""Slices as pictures: grey image, coloured classes or probabilities, oriented as radiologists look at them.

The pieces that all pictures are put together from are here too: pages with a heading, panels, text and colour keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from metaseg.cases.labels import LabelSpace
from metaseg.files import replacing
from metaseg.metrics.overlap import Box, bounding_box, grown

Colour = tuple[int, int, int]
BACKGROUND: Colour = (17, 18, 20)
TEXT: Colour = (236, 236, 236)
FAINT: Colour = (165, 168, 172)
AMBER: Colour = (255, 176, 32)
# As in Han et al. 2018: edema yellow, necrosis green, enhancing tumour brown.
CLASS_COLOURS: Mapping[str, Colour] = {
    "ED": (255, 221, 51),
    "NCR": (60, 190, 90),
    "ET": (190, 96, 32),
    "RC": (70, 150, 220),
    "lesion": (190, 96, 32),
}
"""Class name to red, green, blue."""
ERROR_COLOURS: Mapping[str, Colour] = {
    "false positive": (235, 50, 50),
    "missed": (60, 140, 255),
    "other class": (200, 90, 220),
}
"""Kind of error to red, green, blue; ``other class`` is tumour in both maps, but of another class."""
_SPARE_COLOUR: Colour = (0, 200, 200)
GAP, SMALL, LARGE = 8, 15, 20
"""Pixels between panels, and sizes of text and of headings."""
_BAR = 18


def new_page(width: int, height: int, title: str, synthetic: bool) -> tuple[Image.Image, int]:
    """An empty page for pictures, with its heading and the mark of phantoms.

    Args:
        width: Pixels that its content needs; the page is wider where the heading is.
        height: Likewise.
        title: The heading.
        synthetic: Whether the pictures are made from phantoms.

    Returns:
        The page, and the row of pixels where its content begins.
    """
    top = 38 if title or synthetic else GAP
    page = Image.new("RGB", (max(width, heading_width(title, synthetic)), top + height), BACKGROUND)
    put_text(page, (GAP, 9), title, LARGE)
    if synthetic:
        put_synthetic_mark(page, page.width - GAP, 8, SMALL)
    return page, top


def heading_width(title: str, synthetic: bool) -> int:
    """Width of a page's heading with the mark of phantoms, in pixels."""
    return 2 * GAP + text_width(title, LARGE) + (150 if synthetic else 0)


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font of all pictures, which comes with Pillow."""
    return ImageFont.load_default(size)


def text_width(text: str, size: int) -> int:
    """Width of a line of text in pixels."""
    return int(font(size).getlength(text))


def put_text(
    canvas: Image.Image, where: tuple[float, float], text: str, size: int, colour: Colour = TEXT, anchor: str = "la"
) -> None:
    """Write one line; ``anchor`` as in Pillow."""
    ImageDraw.Draw(canvas).text(where, text, font=font(size), fill=colour, anchor=anchor)


def put_key(canvas: Image.Image, left: int, middle: int, entries: Sequence[tuple[str, Colour]], size: int) -> int:
    """Draw coloured squares with their names in a line; returns the x position behind the last."""
    draw = ImageDraw.Draw(canvas)
    for name, colour in entries:
        draw.rectangle((left, middle - size // 2, left + size, middle + size // 2), fill=colour)
        put_text(canvas, (left + size + 6, middle), name, size, anchor="lm")
        left += size + 6 + text_width(name, size) + 18
    return left


def key_width(entries: Sequence[tuple[str, Colour]], size: int) -> int:
    """Width that :func:`put_key` takes."""
    return sum(size + 6 + text_width(name, size) + 18 for name, _ in entries)


def put_synthetic_mark(canvas: Image.Image, right: int, top: int, size: int) -> None:
    """Write the mark of everything that was made from phantoms, right-aligned."""
    word = "SYNTHETIC"
    left = right - text_width(word, size) - 12
    ImageDraw.Draw(canvas).rectangle((left, top, right, top + size + 8), fill=AMBER)
    put_text(canvas, ((left + right) / 2, top + (size + 8) / 2), word, size, (20, 20, 20), anchor="mm")


def put_sides(canvas: Image.Image, left: int, top: int, width: int, height: int, size: int) -> None:
    """Mark the patient's right (R, on the left) and left side beside a mirrored panel."""
    for x, anchor, side in ((left + 5, "lm", "R"), (left + width - 5, "rm", "L")):
        put_text(canvas, (x, top + height / 2), side, size, FAINT, anchor)


def enlarged(values: np.ndarray, size: tuple[int, int], how: Image.Resampling) -> np.ndarray:
    """A slice ``(height, width)`` resized to ``size`` (width, height) pixels."""
    return np.asarray(Image.fromarray(np.ascontiguousarray(values)).resize(size, how))


def panel_size(extent: Sequence[float], longer: int) -> tuple[int, int]:
    """Width and height in pixels of a panel, true to the patient.

    Args:
        extent: Height and width of what is shown, in mm or pixels.
        longer: The longer side of the panel.
    """
    height, width = (max(1, round(side * (longer / max(extent)))) for side in extent)
    return width, height


def write_picture(path: Path, picture: Image.Image) -> None:
    """Write a picture as PNG, whole or not at all."""
    with replacing(path) as stream:
        picture.save(stream, format="PNG")


def class_colours(space: LabelSpace) -> list[tuple[str, Colour]]:
    """Names and colours of the classes of a label space, without the background."""
    return [(name, CLASS_COLOURS.get(name, _SPARE_COLOUR)) for name in space.classes[1:]]


def class_palette(space: LabelSpace) -> np.ndarray:
    """Colours of a label space, ``(classes, 3)``, ``uint8``; the background is black."""
    return np.array([(0, 0, 0), *(colour for _, colour in class_colours(space))], dtype=np.uint8)


def for_display(array: np.ndarray, mirror: bool = True) -> np.ndarray:
    """Turn canonical slices so that the front is on top and, if ``mirror``, the patient's right side on the left.

    Args:
        array: ``(..., height, width)`` in the canonical frame: rows ascend to the front, columns to the right.
        mirror: True for the radiological convention; False keeps the columns, as for photographed slices, whose sides
            are not known.

    Returns:
        A view of the same shape.
    """
    return array[..., ::-1, ::-1] if mirror else array[..., ::-1, :]


def contrast_limits(image: np.ndarray, low: float = 1.0, high: float = 99.7) -> tuple[float, float]:
    """Intensities to show as black and white: percentiles of what is not background.

    Args:
        image: Intensities of any shape; the lowest value is taken as background.
        low: Lower percentile.
        high: Upper percentile.

    Returns:
        Lower and upper limit; the upper one is greater.
    """
    foreground = image[image > image.min()]
    if not foreground.size:
        level = float(image.flat[0]) if image.size else 0.0
        return level, level + 1.0
    bottom, top = np.percentile(foreground, [low, high])
    return float(bottom), float(top) if top > bottom else float(bottom) + 1.0


def grey_slice(image: np.ndarray, limits: tuple[float, float] | None = None) -> np.ndarray:
    """Bring a slice to 8-bit grey.

    Args:
        image: Intensities ``(height, width)``.
        limits: Intensities of black and white; by default :func:`contrast_limits` of the slice.

    Returns:
        ``uint8`` array ``(height, width)``.
    """
    bottom, top = limits or contrast_limits(image)
    scaled = (image.astype(np.float64) - bottom) / (top - bottom)
    return np.round(255.0 * np.clip(scaled, 0.0, 1.0)).astype(np.uint8)


def shown_slice(
    image: np.ndarray, crop: Box, size: tuple[int, int], mirror: bool, limits: tuple[float, float] | None = None
) -> np.ndarray:
    """A slice as a panel shows it: its visible part in grey, turned for display and smoothly enlarged.

    Args:
        image: Intensities ``(height, width)``, canonical frame.
        crop: Rows and columns to show, see :func:`visible_part`.
        size: Width and height of the panel in pixels.
        mirror: As for :func:`for_display`.
        limits: Intensities of black and white; by default :func:`contrast_limits` of the slice.

    Returns:
        ``uint8`` array ``(height, width)`` of the panel's size.
    """
    grey = grey_slice(for_display(image[crop], mirror), limits or contrast_limits(image))
    return enlarged(grey, size, Image.Resampling.BICUBIC)


def painted_slice(
    grey: np.ndarray, codes: np.ndarray, palette: np.ndarray, crop: Box, mirror: bool, alpha: float = 0.5
) -> np.ndarray:
    """Colour codes ``(height, width)`` of a whole slice over what :func:`shown_slice` gives; see :func:`paint`."""
    seen = for_display(codes[crop], mirror).astype(np.uint8)
    return paint(grey, enlarged(seen, grey.shape[::-1], Image.Resampling.NEAREST), palette, alpha)


def paint(grey: np.ndarray, codes: np.ndarray, palette: np.ndarray, alpha: float = 0.5) -> np.ndarray:
    """Colour codes over a grey slice.

    Args:
        grey: ``uint8`` array ``(height, width)``.
        codes: Positions in the palette ``(height, width)``; 0 is left grey.
        palette: ``uint8`` colours ``(codes, 3)``.
        alpha: Opacity of the fills in [0, 1]; outlines are drawn solid.

    Returns:
        ``uint8`` array ``(height, width, 3)``.
    """
    opacity = np.where(codes > 0, alpha, 0.0)
    opacity[outlines(codes)] = max(alpha, 0.9)
    base = np.repeat(grey[..., None].astype(np.float64), 3, axis=2)
    mixed = base * (1.0 - opacity[..., None]) + palette[codes] * opacity[..., None]
    return np.round(mixed).astype(np.uint8)


def visible_part(image: np.ndarray) -> Box:
    """Box of rows and columns around the tissue, with room at both sides for the marks of left and right.

    Args:
        image: Intensities ``(slices, height, width)``; the lowest value is taken as background.

    Returns:
        Two slices, of rows and of columns.
    """
    box = bounding_box((image > image.min()).any(axis=0), margin=4)
    if box is None:
        return slice(0, image.shape[1]), slice(0, image.shape[2])
    rows, columns = box
    side = max(4, (columns.stop - columns.start) // 14)
    return rows, grown((columns,), side, (image.shape[2],))[0]


def outlines(codes: np.ndarray) -> np.ndarray:
    """Mask of the pixels of codes above 0 that border on another code, ``(height, width)``."""
    padded = np.pad(codes, 1, mode="edge")
    centre = padded[1:-1, 1:-1]
    border = np.zeros(codes.shape, dtype=bool)
    for neighbour in (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]):
        border |= neighbour != centre
    return border & (codes > 0)


def error_codes(label: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Where a prediction errs: 0 right, then 1, 2, 3 in the order of :data:`ERROR_COLOURS`; any shape, ``uint8``."""
    codes = np.zeros(label.shape, dtype=np.uint8)
    codes[(label == 0) & (prediction > 0)] = 1
    codes[(label > 0) & (prediction == 0)] = 2
    codes[(label > 0) & (prediction > 0) & (label != prediction)] = 3
    return codes


def probability_heatmap(
    image: np.ndarray,
    probability: np.ndarray,
    name: str = "ET",
    title: str = "",
    synthetic: bool = False,
    *,
    spacing: Sequence[float] = (1.0, 1.0),
    planar: bool = False,
    limits: tuple[float, float] | None = None,
    panel: int = 480,
) -> Image.Image:
    """Draw the probability of one class over a slice, with a colour bar (Han et al. 2018, their probability figure).

    Args:
        image: Intensities ``(height, width)``, canonical frame.
        probability: Probabilities in [0, 1], same shape; values outside are clipped.
        name: Name of the class, for the colour bar.
        title: Heading.
        synthetic: True marks the picture as made from phantoms.
        spacing: Pixel size along ``(height, width)``, for the aspect.
        planar: True for a separate 2-D image: it is neither mirrored nor marked L/R.
        limits: Intensities of black and white; by default percentiles of the slice.
        panel: Longer side of the picture in pixels, without text.

    Returns:
        The picture, RGB.

    Raises:
        ValueError: The shapes differ.
    """
    if image.shape != probability.shape:
        raise ValueError(f"image {image.shape} and probability {probability.shape} differ in shape")
    crop, mirror = visible_part(image[None]), not planar
    extent = [(part.stop - part.start) * step for part, step in zip(crop, spacing, strict=True)]
    width, height = panel_size(extent, panel)
    grey = shown_slice(image, crop, (width, height), mirror, limits)
    canvas, top = new_page(2 * GAP + width + _BAR + 44, height + 34, title, synthetic)
    canvas.paste(Image.fromarray(heated(grey, probability[crop], mirror)), (GAP, top))
    if mirror:
        put_sides(canvas, GAP, top, width, height, SMALL)
    put_text(canvas, (GAP, top + height + 8), f"probability of {name}", SMALL, FAINT)
    _put_bar(canvas, 2 * GAP + width, top, height)
    return canvas


def heated(grey: np.ndarray, probability: np.ndarray, mirror: bool) -> np.ndarray:
    """:func:`blend_probability` over an enlarged slice of probabilities on the slice's own grid ``(height, width)``."""
    seen = np.clip(np.asarray(for_display(probability, mirror), dtype=np.float32), 0.0, 1.0)
    return blend_probability(grey, enlarged(seen, grey.shape[::-1], Image.Resampling.BILINEAR))


def blend_probability(grey: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Colour probabilities over a grey slice; what is improbable stays grey.

    Args:
        grey: ``uint8`` array ``(height, width)``.
        probability: Values in [0, 1], same shape.

    Returns:
        ``uint8`` array ``(height, width, 3)``.
    """
    # The opacity rises over the first quarter of the scale, so that the network's faint doubts do not veil the image.
    opacity = (0.7 * np.clip(probability / 0.25, 0.0, 1.0))[..., None]
    colours = _colours(probability)
    mixed = grey[..., None].astype(np.float64) * (1.0 - opacity) + colours * opacity
    return np.round(mixed).astype(np.uint8)


def _colours(probability: np.ndarray) -> np.ndarray:
    """Blue over green and yellow to red, ``(..., 3)`` in 0 .. 255."""
    from matplotlib import colormaps

    # The ends of the jet colours are too dark to be told from the image: the scale uses what lies between them.
    colours: np.ndarray = colormaps["jet"](0.1 + 0.8 * np.asarray(probability))[..., :3]
    return 255.0 * colours


def _put_bar(canvas: Image.Image, left: int, top: int, height: int) -> None:
    """Colour bar from 1 (top) to 0, as solid as the colours over the image are at that probability."""
    steps = np.linspace(1.0, 0.0, height)
    column = blend_probability(np.full((height, _BAR), 40, dtype=np.uint8), np.repeat(steps[:, None], _BAR, axis=1))
    canvas.paste(Image.fromarray(column), (left, top))
    draw = ImageDraw.Draw(canvas)
    for value, anchor in ((1.0, "la"), (0.5, "lm"), (0.0, "ld")):
        y = top + (1.0 - value) * (height - 1)
        draw.line((left + _BAR, y, left + _BAR + 4, y), fill=FAINT)
        put_text(canvas, (left + _BAR + 7, y), f"{value:g}", SMALL, FAINT, anchor)
