"""The scanner of a phantom: contrast of each sequence, bias field, thick slices, noise and intensity scale.

The source cohorts (HGG, LGG) come from scanners that differ little in contrast. The metastases come from another
hospital: flatter T1 contrast, weaker enhancement, brighter vessels, thick slices and more noise.

One phantom: a head with tumours, taken by a scanner, as arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from metaseg.cases.geometry import Geometry
from metaseg.cases.phantoms.anatomy import HEAD_MM, Grid, Push, build_layers, build_surface, smooth_noise
from metaseg.cases.phantoms.lesions import draw_lesions, place_lesions

TISSUES = ("white", "deep", "grey", "csf", "plexus", "edema", "enhancing", "necrosis", "vessel", "bone", "scalp")
"""What is painted."""
_SOURCE: Mapping[str, tuple[float, ...]] = {
    #         white  deep  grey   csf  plexus edema core  necr. vessel bone scalp
    "t1": (0.86, 0.76, 0.66, 0.30, 0.42, 0.62, 0.60, 0.42, 0.60, 0.16, 1.00),
    "t1ce": (0.80, 0.74, 0.66, 0.30, 1.15, 0.60, 1.42, 0.42, 1.40, 0.16, 1.05),
    "t2": (0.40, 0.47, 0.58, 1.10, 0.90, 0.82, 0.68, 0.88, 0.45, 0.10, 0.60),
    "flair": (0.50, 0.56, 0.62, 0.16, 0.50, 1.02, 0.84, 0.62, 0.45, 0.10, 0.55),
}
_TARGET: Mapping[str, tuple[float, ...]] = {
    "t1": (0.76, 0.73, 0.69, 0.36, 0.45, 0.64, 0.66, 0.52, 0.72, 0.14, 0.96),
    "t1ce": (0.72, 0.71, 0.69, 0.36, 1.10, 0.62, 0.95, 0.50, 1.35, 0.14, 0.92),
    "t2": (0.46, 0.50, 0.58, 1.25, 1.05, 0.84, 0.58, 0.80, 0.40, 0.12, 0.72),
    "flair": (0.56, 0.60, 0.64, 0.26, 0.55, 0.92, 0.76, 0.52, 0.50, 0.12, 0.64),
}
_NON_ENHANCING: Mapping[str, float] = {"t1": 0.52, "t1ce": 0.50, "t2": 0.98, "flair": 0.92}
"""Core of a low-grade glioma: solid tumour without contrast agent in the place of necrosis."""
COHORTS = ("HGG", "LGG", "MET")
SEQUENCES = ("t1", "t1ce", "t2", "flair")
FRACTION_WITH_SKULL = 0.45
"""Fraction of the metastasis patients whose skull was not removed."""


@dataclass(frozen=True)
class Scanner:
    """One patient's examination.

    Attributes:
        contrast: Sequence to the signal of each of :data:`TISSUES`, white matter being about 0.5 to 0.9.
        noise: Sequence to the standard deviation of the noise in either channel of the receiver.
        bias: Standard deviation of the logarithm of the receiver's sensitivity.
        thickness: Sequence to the thickness of its slices in mm; 0 for a 3-D sequence.
        maximum: Sequence to the number that its brightest voxel gets.
        offset: Fraction of the maximum that is added to every voxel.
    """

    contrast: Mapping[str, np.ndarray]
    noise: Mapping[str, float]
    bias: float
    thickness: Mapping[str, float]
    maximum: Mapping[str, int]
    offset: float


def draw_scanner(rng: np.random.Generator, cohort: str) -> Scanner:
    """Draw the scanner of a patient of ``cohort`` (``"HGG"``, ``"LGG"`` or ``"MET"``)."""
    target = cohort == "MET"
    contrast, noise, thickness, maximum = {}, {}, {}, {}
    # All sequences of an examination have in common the gain within a factor of about two.
    gain = rng.uniform(np.log(350), np.log(6000))
    for name, signal in (_TARGET if target else _SOURCE).items():
        contrast[name] = (np.asarray(signal) * np.exp(rng.normal(0, 0.03 if target else 0.05, len(TISSUES)))).astype(
            np.float32
        )
        if cohort == "LGG":
            contrast[name][TISSUES.index("necrosis")] = _NON_ENHANCING[name]
        noise[name] = rng.uniform(0.03, 0.05) if target else rng.uniform(0.02, 0.045)
        thickness[name] = (rng.uniform(1.5, 3) if name == "t1ce" else rng.uniform(3.5, 5.5)) if target else 0.0
        maximum[name] = int(np.clip(np.exp(gain + rng.uniform(-0.35, 0.35)), 200, 10_000))
    enhancement = rng.normal(0, 0.06 if target else 0.14)
    contrast["t1ce"][TISSUES.index("enhancing")] *= np.exp(enhancement)
    return Scanner(
        contrast,
        noise,
        rng.uniform(0.08, 0.14) if target else rng.uniform(0.03, 0.07),
        thickness,
        maximum,
        rng.uniform(0, 0.04),
    )


def acquire(
    rng: np.random.Generator,
    scanner: Scanner,
    sequence: str,
    layers: Mapping[str, np.ndarray],
    grid: Grid,
    mask: np.ndarray,
) -> np.ndarray:
    """Take an image.

    Args:
        rng: Random numbers for texture, bias field and noise.
        scanner: The scanner.
        sequence: ``"t1"``, ``"t1ce"``, ``"t2"`` or ``"flair"``.
        layers: Tissues from the lowest to the topmost layer, name to opacity in [0, 1], ``(voxels in mask,)``.
        grid: The voxels.
        mask: Boolean, of the grid's shape: what of the head is kept.

    Returns:
        Array of the grid's shape, ``int16``: 0 outside ``mask``, at least 1 inside.
    """
    signal = np.zeros(np.count_nonzero(mask), np.float32)
    for name, opacity in layers.items():
        signal += opacity * (scanner.contrast[sequence][TISSUES.index(name)] - signal)
    signal *= 1 + np.float32(0.025) * smooth_noise(rng, grid, 5)[mask]
    signal *= np.exp(np.float32(scanner.bias) * smooth_noise(rng, grid, 70)[mask])
    if scanner.thickness[sequence] > 0:
        signal = thick_slices(signal, scanner.thickness[sequence], grid, mask)
    real, imaginary = rng.standard_normal((2, signal.size), dtype=np.float32) * np.float32(scanner.noise[sequence])
    signal = np.hypot(signal + real, imaginary) + np.float32(scanner.offset * 1.5)
    # One bright voxel must not set the scale.
    signal *= np.float32(0.9 * scanner.maximum[sequence]) / np.float32(np.quantile(signal, 0.9995))
    image = np.zeros(grid.shape, np.int16)
    image[mask] = np.clip(np.rint(signal), 1, scanner.maximum[sequence]).astype(np.int16)
    return image


def thick_slices(signal: np.ndarray, thickness_mm: float, grid: Grid, mask: np.ndarray) -> np.ndarray:
    """Average along the body axis over slices of ``thickness_mm`` and interpolate linearly back to the grid.

    Args:
        signal: Values ``(voxels in mask,)``.
        thickness_mm: Thickness of a slice, gap included.
        grid: The voxels.
        mask: Boolean, of the grid's shape; what lies outside does not count.
    """
    weights = _slice_weights(thickness_mm, grid)
    volume = np.zeros(grid.shape, np.float32)
    volume[mask] = signal
    inside = mask.astype(np.float32)
    averaged, covered = np.zeros_like(volume), np.zeros_like(volume)
    for target, source in zip(*np.nonzero(weights), strict=True):
        averaged[target] += weights[target, source] * volume[source]
        covered[target] += weights[target, source] * inside[source]
    return averaged[mask] / covered[mask]


def _slice_weights(thickness_mm: float, grid: Grid) -> np.ndarray:
    """What a thick-slice scan shows at each slice, as fractions of the true slices: ``(shown, true)``."""
    z, step = grid.axis(0).astype(np.float64), grid.spacing[0]
    count = int(np.ceil((z[-1] - z[0] + step) / thickness_mm)) + 1
    centres = (np.arange(count) - (count - 1) / 2) * thickness_mm
    overlap = np.minimum(centres[:, None] + thickness_mm / 2, z + step / 2) - np.maximum(
        centres[:, None] - thickness_mm / 2, z - step / 2
    )
    average = np.maximum(overlap, 0)
    average /= np.maximum(average.sum(1, keepdims=True), 1e-9)
    between = np.maximum(1 - np.abs(z[:, None] - centres) / thickness_mm, 0)
    return (between @ average).astype(np.float32)


_PLACEMENT = Grid((48, 60, 46), (3.3, 3.3, 3.3))
"""Tumours are placed on this grid whatever the size, so that a patient has the same ones in every size."""


@dataclass(frozen=True)
class PhantomSize:
    """A file grid and the block in its middle in which the head lies, in the canonical frame.

    Attributes:
        shape: Voxels of a file along ``(slices, height, width)``.
        head: Voxels of the block along the same axes.
        spacing: Voxel size in mm along the same axes.
    """

    shape: tuple[int, int, int]
    head: tuple[int, int, int]
    spacing: tuple[float, float, float]

    @property
    def geometry(self) -> Geometry:
        """Grid of the files: left, posterior, superior, with the origin where BraTS has it."""
        slices, height, width = self.shape
        z, y, x = self.spacing
        affine = np.diag([-x, -y, z, 1.0])
        affine[1, 3] = (height - 1) * y
        return Geometry.from_affine((width, height, slices), affine)

    def to_file_grid(self, block: np.ndarray) -> np.ndarray:
        """Put the head's block into an otherwise empty file grid ``(i, j, k)``."""
        volume = np.zeros(self.shape, block.dtype)
        volume[tuple(slice((n - m) // 2, (n - m) // 2 + m) for n, m in zip(self.shape, self.head, strict=True))] = block
        return self.geometry.from_canonical(volume)


SIZES: Mapping[str, PhantomSize] = {
    "small": PhantomSize((48, 112, 96), (48, 112, 96), (3.0, 1.9, 1.9)),
    "full": PhantomSize((155, 240, 240), (155, 212, 176), (1.0, 1.0, 1.0)),
}
"""``full`` is the grid of BraTS; ``small`` shows the same patient in 512,000 voxels."""


@dataclass(frozen=True)
class Phantom:
    """A synthetic patient; arrays are of the head's block of a :class:`PhantomSize`.

    Attributes:
        images: Sequence to image, ``(slices, height, width)``, ``int16``, 0 outside brain or head.
        label: ``uint8`` with the values of BraTS 2018 (0, 1, 2, 4).
        lesions: Number of tumours.
        skull: True if the skull was left in.
    """

    images: Mapping[str, np.ndarray]
    label: np.ndarray
    lesions: int
    skull: bool


def build_phantom(cohort: str, seed: int, number: int, size: PhantomSize) -> Phantom:
    """Build a synthetic patient, the same one for the same ``cohort``, ``seed`` and ``number`` in every size.

    Args:
        cohort: One of :data:`COHORTS`.
        seed: Seed of the data set, not negative.
        number: Number of the patient, not negative.
        size: One of :data:`SIZES`.
    """
    # A stream for each part, so that what one part draws does not change the others.
    streams = np.random.SeedSequence([seed, COHORTS.index(cohort), number]).spawn(5)
    of_tumours, of_tissue, of_outlines, of_scanner = (np.random.default_rng(stream) for stream in streams[1:])
    tumours = place_lesions(of_tumours, cohort, build_surface(np.random.default_rng(streams[0]), _PLACEMENT))
    grid = Grid(size.head, size.spacing)
    surface = build_surface(np.random.default_rng(streams[0]), grid)
    scanner = draw_scanner(of_scanner, cohort)
    skull = cohort == "MET" and _keeps_skull(seed, number)
    mask = surface.depth > (-HEAD_MM if skull else 0.0)
    largest = max(tumours, key=lambda tumour: tumour.radius)
    push = Push(largest.centre, largest.radius, 0.3 * largest.radius)
    layers, ventricle = build_layers(of_tissue, surface, push, mask)
    maps = draw_lesions(of_outlines, tumours, surface, ventricle)
    layers |= maps.layers(mask)
    images = {name: acquire(of_scanner, scanner, name, layers, grid, mask) for name in SEQUENCES}
    return Phantom(images, maps.label, len(tumours), skull)


def _keeps_skull(seed: int, number: int) -> bool:
    """Spread the patients with skull evenly over the numbers, so that small cohorts too have both kinds."""
    golden = (5**0.5 - 1) / 2
    start = np.random.default_rng(seed).random()
    return bool((start + number * golden) % 1 < FRACTION_WITH_SKULL)
