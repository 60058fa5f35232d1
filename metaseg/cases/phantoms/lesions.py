"""The tumours of a phantom: where they lie, how they are built, and their label.

High-grade glioma (HGG): one large irregular core, necrotic inside an enhancing rim of uneven thickness, with edema that
follows the white matter in fingers. Low-grade glioma (LGG): one large core that hardly enhances. Metastases (MET): 1
to 12 round lesions of 3 to 25 mm at the border of grey and white matter, solid or ring-enhancing, with edema out of
proportion to their size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from metaseg.cases.phantoms.anatomy import Grid, Surface, smooth_noise, soft_step, ventricle_distance

NECROSIS, EDEMA, ENHANCING = 1, 2, 4
"""Label values as in BraTS 2018."""
MAX_METASTASES = 12
METASTASIS_MM = (3.0, 25.0)
"""Smallest and largest diameter of a metastasis."""

_FAR_MM = 30.0
"""Stands for a distance that is of no account."""


@dataclass(frozen=True)
class Lesion:
    """One tumour.

    Attributes:
        centre: z, y, x in mm.
        radii: Half axes of the core in mm along its own axes.
        rotation: Matrix (3, 3) from the head's to the lesion's axes.
        roughness: Departure of the core's surface from the ellipsoid, as a fraction of its radius.
        rim: Thickness of the enhancing rim in mm; 0 for none, infinite for a solid lesion.
        uneven: Variation of the rim's thickness (standard deviation of its logarithm).
        edema: Reach of the edema beyond the core in mm.
        nodule: Radius in mm of an enhancing nodule in an otherwise non-enhancing core; 0 for none.
    """

    centre: np.ndarray
    radii: np.ndarray
    rotation: np.ndarray
    roughness: float
    rim: float
    uneven: float
    edema: float
    nodule: float = 0.0

    @property
    def radius(self) -> float:
        """Radius in mm of the ball of the same volume as the core."""
        return float(np.prod(self.radii) ** (1 / 3))

    @property
    def reach(self) -> float:
        """Distance in mm from the centre within which everything of the lesion lies."""
        return float(self.radii.max()) * (1 + 3 * self.roughness) + 2.5 * self.edema + 3


def place_lesions(rng: np.random.Generator, cohort: str, surface: Surface) -> list[Lesion]:
    """Draw a patient's tumours.

    Args:
        rng: Random numbers.
        cohort: ``"HGG"``, ``"LGG"`` or ``"MET"``.
        surface: The brain on a coarse grid that is the same for all sizes, so that all sizes show the same tumours.
    """
    if cohort == "MET":
        return _place_metastases(rng, surface)
    z, _, x = surface.grid.coordinates
    room = (surface.depth > 17) & (surface.depth < 42) & surface.cerebrum & (np.abs(x) > 16) & (z > -16)
    room &= ventricle_distance(surface.grid, 0.0) > 3
    centre = _draw_place(rng, surface.grid, room)
    radii = rng.uniform(14, 23) * np.exp(rng.normal(0, 0.16, size=3))
    rotation = _draw_rotation(rng)
    if cohort == "HGG":
        return [Lesion(centre, radii, rotation, 0.2, rng.uniform(2.5, 6.0), 0.5, rng.uniform(9, 20))]
    nodule = rng.uniform(3.5, 6.5) if rng.random() < 0.35 else 0.0
    return [Lesion(centre, radii * 1.1, rotation, 0.14, 0.0, 0.0, rng.uniform(3, 8), nodule)]


def _place_metastases(rng: np.random.Generator, surface: Surface) -> list[Lesion]:
    z, _, x = surface.grid.coordinates
    room = (surface.ribbon > 2.2) & (surface.ribbon < 7) & (surface.depth > 6) & (surface.depth < 32)
    room &= (ventricle_distance(surface.grid, 0.0) > 5) & (np.abs(x) > 8) & (z > -52)
    count = min(1 + int(rng.geometric(0.26)), MAX_METASTASES) if rng.random() < 0.8 else 1
    low, high = METASTASIS_MM
    diameters = np.clip(10.0 * np.exp(rng.normal(0, 0.45, size=count)), low, high)
    # Somebody was scanned because at least one of them was seen.
    diameters[0] = rng.uniform(14, high)
    lesions: list[Lesion] = []
    for diameter in diameters:
        for _ in range(20):
            centre = _draw_place(rng, surface.grid, room)
            if all(np.linalg.norm(centre - other.centre) > diameter / 2 + other.radii.max() + 8.0 for other in lesions):
                lesions.append(_metastasis(rng, centre, float(diameter)))
                break
    return lesions


def _metastasis(rng: np.random.Generator, centre: np.ndarray, diameter: float) -> Lesion:
    stretch = np.exp(rng.normal(0, 0.06, size=3))
    radii = diameter / 2 * stretch / np.prod(stretch) ** (1 / 3)
    ring = diameter > 11 and rng.random() < 0.65
    rim = rng.uniform(2.2, 4.0) if ring else np.inf
    edema = 0.0 if rng.random() < 0.25 else rng.uniform(3, 18)
    return Lesion(centre, radii, _draw_rotation(rng), 0.05, rim, 0.15, edema)


def _draw_place(rng: np.random.Generator, grid: Grid, room: np.ndarray) -> np.ndarray:
    chosen = np.unravel_index(int(rng.choice(np.flatnonzero(room))), room.shape)
    jitter = rng.uniform(-0.5, 0.5, size=3) * np.asarray(grid.spacing)
    return np.array([grid.axis(axis)[index] for axis, index in enumerate(chosen)]) + jitter


def _draw_rotation(rng: np.random.Generator) -> np.ndarray:
    return Rotation.from_quat(rng.normal(size=4)).as_matrix()


@dataclass(frozen=True)
class LesionMaps:
    """Tumours on a grid.

    Attributes:
        label: ``uint8`` with the values of BraTS 2018 (0, 1, 2, 4).
        edema: Opacity of the edema in [0, 1].
        core: Opacity of the tumour core.
        necrosis: Opacity of the part of the core that does not enhance; at most ``core``.
    """

    label: np.ndarray
    edema: np.ndarray
    core: np.ndarray
    necrosis: np.ndarray

    def layers(self, mask: np.ndarray) -> dict[str, np.ndarray]:
        """Layers to be painted over healthy tissue, from the lowest up: opacities ``(voxels in mask,)``."""
        core, necrosis = self.core[mask], self.necrosis[mask]
        # Under the necrosis, enhancing tumour must fill what is left so that both together cover as much as the core.
        enhancing = (core - necrosis) / np.maximum(1 - necrosis, np.float32(1e-6))
        return {"edema": self.edema[mask], "enhancing": enhancing, "necrosis": necrosis}


def draw_lesions(
    rng: np.random.Generator, lesions: list[Lesion], surface: Surface, ventricle: np.ndarray
) -> LesionMaps:
    """Draw tumours and their label.

    Args:
        rng: Random numbers; the same ones give the same tumours on any grid.
        lesions: The tumours.
        surface: The brain on the grid wanted.
        ventricle: Distance from the ventricles in mm; edema stays out of them.
    """
    grid = surface.grid
    noise = [smooth_noise(rng, grid, scale) for scale in (15, 7, 11)]
    maps = LesionMaps(np.zeros(grid.shape, np.uint8), *(np.zeros(grid.shape, np.float32) for _ in range(3)))
    cores = np.zeros(grid.shape, bool)
    for lesion in lesions:
        box = grid.box(lesion.centre, lesion.reach)
        fields = (surface.depth, surface.ribbon, ventricle, *noise)
        around = _Surroundings(
            tuple(axis[part] for axis, part in zip(map(grid.axis, range(3)), box, strict=True)),
            *(field[box] for field in fields),
        )
        core = _core_distance(lesion, around)
        inner = _inner_distance(lesion, around, core)
        spread = _edema_distance(lesion, around, core)
        opacity = soft_step(-core, grid.softness)
        np.maximum(maps.core[box], opacity, out=maps.core[box])
        np.maximum(maps.necrosis[box], opacity * soft_step(-inner, grid.softness), out=maps.necrosis[box])
        np.maximum(maps.edema[box], soft_step(-spread, 2 * grid.softness), out=maps.edema[box])
        label = maps.label[box]
        label[(spread < 0) & ~cores[box]] = EDEMA
        label[core < 0] = ENHANCING
        label[(core < 0) & (inner < 0)] = NECROSIS
        cores[box] |= core < 0
    return maps


@dataclass(frozen=True)
class _Surroundings:
    """What is known of the voxels around one lesion: places along each axis, distances in mm, and noise."""

    axes: tuple[np.ndarray, ...]
    depth: np.ndarray
    ribbon: np.ndarray
    ventricle: np.ndarray
    coarse: np.ndarray
    fine: np.ndarray
    thickness: np.ndarray

    def offsets(self, centre: np.ndarray) -> tuple[np.ndarray, ...]:
        """Distances z, y, x from a place in mm, of shapes that broadcast."""
        return np.ix_(*(axis - np.float32(origin) for axis, origin in zip(self.axes, centre, strict=True)))


def _core_distance(lesion: Lesion, around: _Surroundings) -> np.ndarray:
    """Distance in mm from the surface of the tumour core; negative inside, which is one piece of at least a voxel."""
    z, y, x = around.offsets(lesion.centre)
    matrix = (lesion.rotation / lesion.radii[:, None]).astype(np.float32)
    level = np.sqrt(sum((row[0] * z + row[1] * y + row[2] * x) ** 2 for row in matrix))
    rough = np.float32(lesion.roughness * lesion.radius) * (around.coarse + np.float32(0.35) * around.fine)
    # A thin layer under the brain's surface stays free.
    core = np.maximum((level - 1) * np.float32(lesion.radius) + rough, 1.5 - around.depth)
    if not (core < 0).any():
        core.flat[np.argmin(level)] = -0.1
    core[(core < 0) & ~_main_piece(core < 0)] = _FAR_MM
    return core


def _inner_distance(lesion: Lesion, around: _Surroundings, core: np.ndarray) -> np.ndarray:
    """Distance in mm from what does not enhance; negative inside. Outside the core it has no meaning."""
    if np.isinf(lesion.rim):
        return np.full_like(core, _FAR_MM)
    if lesion.rim == 0.0:
        place = lesion.centre + 0.4 * lesion.radius
        squares = sum(offset**2 for offset in around.offsets(place))
        return np.float32(lesion.nodule) - np.sqrt(squares) - (0 if lesion.nodule else np.float32(_FAR_MM))
    rim = np.float32(lesion.rim) * np.exp(np.float32(lesion.uneven) * (around.thickness + 0.5 * around.fine))
    return core + np.maximum(rim, np.float32(1.2))


def _edema_distance(lesion: Lesion, around: _Surroundings, core: np.ndarray) -> np.ndarray:
    """Distance in mm from the border of core and edema; it spreads in white matter and hardly enters grey matter."""
    if lesion.edema == 0.0:
        return core
    free = 0.12 + 0.88 * soft_step(around.ribbon - 4.5, 0.9)
    uneven = np.clip(1 + np.float32(0.45) * (around.coarse + np.float32(0.5) * around.fine), 0.15, 2)
    # Few fibres cross the median plane.
    across = np.maximum(-np.float32(np.sign(lesion.centre[2])) * around.axes[2], 0)
    spread = core - np.float32(lesion.edema) * free * uneven + across
    spread = np.maximum(spread, np.maximum(1.0 - around.ribbon, 0.8 - around.ventricle))
    reached = ndimage.label((spread < 0) | (core < 0))[0]
    own = reached == reached.flat[np.argmin(core)]
    return np.where(own, spread, np.maximum(spread, 3.0))


def _main_piece(mask: np.ndarray) -> np.ndarray:
    """The largest connected piece of a mask."""
    pieces, count = ndimage.label(mask)
    if count < 2:
        return mask
    return pieces == 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
