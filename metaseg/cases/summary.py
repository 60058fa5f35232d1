"""What a data set holds: counts, grids, intensities and tumour volumes. Every voxel is read once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from metaseg.cases.case import Case, FailedCase, one_case, raise_failed
from metaseg.cases.check.inspect import VolumeChecks
from metaseg.cases.geometry import Geometry
from metaseg.cases.intensities import intensity_problem, spoiled_file
from metaseg.cases.labels import IGNORED, region_mask
from metaseg.cases.outlined import settle_outlines
from metaseg.errors import UsageError, warn_user

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Intensities:
    """Intensities of a volume where it is not 0 (air and what skull-stripping removed are 0).

    Attributes:
        p1: First percentile of the non-zero voxels, in the file's unit.
        p50: Their median.
        p99: Their 99th percentile.
        max: The largest value.
        nonzero: Fraction of voxels that are not 0, from 0 to 1.
    """

    p1: float
    p50: float
    p99: float
    max: float
    nonzero: float


@dataclass(frozen=True)
class CaseSummary:
    """What one case holds.

    Attributes:
        shape: ``(slices, height, width)`` in the canonical frame.
        spacing: Voxel size along the same axes, in ``unit``.
        unit: ``"mm"``, or ``"pixel"`` where the files hold no size.
        orientation: The file's own axes, such as ``"LPS"``.
        outlined_slices: Slices that are outlined; None without a label.
        tumour_slices: Slices with any foreground, of those outlined; None without a label.
        volumes: Region to its size in ``volume_unit``; empty without a label, and where some slices only are outlined.
            A region that is not there has size 0.
        volume_unit: ``"ml"``; ``"mm2"`` (summed area) for separate slices of known pixel size, else ``"pixel"``.
        intensities: Modality to its intensities.
    """

    id: str
    patient: str
    cohort: str
    grade: str | None
    site: str | None
    format: str
    synthetic: bool
    label_scheme: str
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    unit: str
    orientation: str
    outlined_slices: int | None
    tumour_slices: int | None
    volumes: Mapping[str, float]
    volume_unit: str
    intensities: Mapping[str, Intensities]


@dataclass(frozen=True)
class Summary:
    """What a data set holds, case by case; the totals are derived.

    Attributes:
        cases: One summary per case, in the order given.
    """

    cases: tuple[CaseSummary, ...]

    @property
    def synthetic(self) -> bool:
        """True if any case is a phantom."""
        return any(case.synthetic for case in self.cases)

    def counts(self, attribute: str) -> dict[str, int]:
        """Number of cases for each value of an attribute of :class:`CaseSummary`, most frequent first.

        Values are given as text, shapes and spacings as ``"155 x 240 x 240"``; what is not known is ``"unknown"``.
        """
        counter = Counter(_as_text(getattr(case, attribute)) for case in self.cases)
        return dict(sorted(counter.items(), key=lambda item: (-item[1], item[0])))

    def modalities(self) -> dict[str, int]:
        """Number of cases that have each modality."""
        return dict(Counter(name for case in self.cases for name in case.intensities))

    def intensities(self) -> dict[str, dict[str, float]]:
        """Per modality the range over the cases of ``p1``, ``p50``, ``p99`` and ``max``, such as ``p50_min``."""
        ranges: dict[str, dict[str, float]] = {}
        for name in self.modalities():
            found = [case.intensities[name] for case in self.cases if name in case.intensities]
            ranges[name] = {
                f"{key}_{which.__name__}": which(getattr(values, key) for values in found)
                for key in ("p1", "p50", "p99", "max")
                for which in (min, max)
            }
        return ranges

    def volumes(self) -> dict[str, dict[str, dict[str, float]]]:
        """Per unit and region: cases labelled, cases in which it is present, and its lowest, median and highest size.

        Sizes are taken over the cases in which the region is present, and are NaN where there are none.
        """
        sizes: dict[str, dict[str, list[float]]] = {}
        for case in self.cases:
            for region, size in case.volumes.items():
                sizes.setdefault(case.volume_unit, {}).setdefault(region, []).append(size)
        return {
            unit: {region: _describe_sizes(values) for region, values in regions.items()}
            for unit, regions in sizes.items()
        }

    def tumour_slices(self) -> dict[str, int]:
        """Slices with tumour, all that are outlined, and the number of labelled cases."""
        labelled = [case for case in self.cases if case.tumour_slices is not None]
        return {
            "tumour": sum(case.tumour_slices or 0 for case in labelled),
            "all": sum(case.outlined_slices or 0 for case in labelled),
            "labelled_cases": len(labelled),
        }

    def to_dict(self) -> dict[str, Any]:
        """The summary as plain JSON values (NaN becomes None): totals, then the cases."""
        totals = {
            "cases": len(self.cases),
            "patients": len({case.patient for case in self.cases}),
            "synthetic": self.synthetic,
            "modalities": self.modalities(),
            **{name: self.counts(name) for name in _COUNTED},
            "tumour_slices": self.tumour_slices(),
            "volumes": self.volumes(),
            "intensities": self.intensities(),
        }
        result: dict[str, Any] = _plain({"totals": totals, "cases": [asdict(case) for case in self.cases]})
        return result

    def table(self) -> pd.DataFrame:
        """One row per case, with columns such as ``WT_ml``, ``t1ce_p99`` and ``spacing``."""
        import pandas as pd

        return pd.DataFrame([_row(case) for case in self.cases])


_COUNTED = ("cohort", "grade", "site", "format", "label_scheme", "shape", "spacing", "unit", "orientation")


def summarise(
    cases: Sequence[Case], progress: Callable[[int, int], None] | None = None, failed: list[FailedCase] | None = None
) -> Summary:
    """Read every case once and gather what it holds.

    Args:
        cases: The cases.
        progress: Called after each case with the number done and the number of all.
        failed: Takes cases that cannot be read, which the summary then lacks; None raises the first one's error.

    Raises:
        UsageError: There is no case.
        DataError: A file cannot be read or a label holds unexpected values.
    """
    if not cases:
        raise UsageError("there is no case to summarise", expected="at least one case")
    summaries = []
    for done, case in enumerate(cases, start=1):
        with one_case(case.id, failed):
            summaries.append(summarise_case(case))
        if progress is not None:
            progress(done, len(cases))
    _warn_of_empty_regions(summaries)
    if not summaries:
        raise_failed(failed or (), len(cases), "read")
    return Summary(tuple(summaries))


def _warn_of_empty_regions(summaries: Sequence[CaseSummary]) -> None:
    for scheme in dict.fromkeys(case.label_scheme for case in summaries):
        held = [case.volumes for case in summaries if case.label_scheme == scheme and case.volumes]
        empty = [region for region in held[0] if not any(volumes[region] for volumes in held)] if held else []
        if empty:
            warn_user(
                f"no label of {len(held)} has the region {', '.join(empty)} (label scheme '{scheme}')",
                remedy="see that this is what the values mean, or name the convention with --label-scheme: "
                "whole-lesion where 1 is the whole lesion",
            )


def summarise_case(case: Case) -> CaseSummary:
    """Read one case and gather what it holds.

    Raises:
        DataError: A file cannot be read or the label holds unexpected values.
    """
    geometry = case.geometry
    voxel_size, volume_unit = _voxel_size(geometry)
    outlined_slices, tumour_slices, volumes = None, None, {}
    if case.label is not None:
        classes = case.read_label()
        # The head takes longest to find, and is asked for where it decides.
        head = _head(case) if IGNORED in classes else None
        classes, outlined = settle_outlines(classes, head)
        outlined_slices = int(np.count_nonzero(outlined))
        tumour_slices = int(np.count_nonzero(classes.any(axis=(1, 2))))
        space = case.scheme.space
        if outlined.all():
            volumes = {name: np.count_nonzero(region_mask(classes, space, name)) * voxel_size for name in space.regions}
    return CaseSummary(
        **case.identity,
        format=case.format,
        label_scheme=case.scheme.name,
        shape=geometry.canonical_shape,
        spacing=geometry.spacing,
        unit=geometry.unit,
        orientation=geometry.axis_codes,
        outlined_slices=outlined_slices,
        tumour_slices=tumour_slices,
        volumes=volumes,
        volume_unit=volume_unit,
        intensities={name: _intensities(case, name) for name in case.images},
    )


def _head(case: Case) -> np.ndarray | None:
    """What is not background in any image, boolean ``(slices, height, width)``."""
    checks = VolumeChecks()
    for name, volume in case.images.items():
        array = volume.read()
        if case.geometry.planar:
            checks.add_pictures(array)
        elif intensity_problem(array) is None:
            checks.add(name, array)
    return checks.head


def _voxel_size(geometry: Geometry) -> tuple[float, str]:
    """Size of a voxel and its unit. Between separate slices lies an unknown distance: only their area is known."""
    if geometry.unit != "mm":
        return 1.0, geometry.unit
    if geometry.planar:
        return geometry.spacing[1] * geometry.spacing[2], "mm2"
    return geometry.voxel_volume / 1000, "ml"


def _intensities(case: Case, name: str) -> Intensities:
    """Intensities of a modality; non-finite values are left out, and a volume without any has zeros."""
    volume = case.images[name]
    array = volume.read()
    problem = intensity_problem(array)
    if problem is not None:
        warn_user(f"case {case.id}: {name} {problem}", where=spoiled_file(array, volume.files))
    nonzero = array[array != 0]
    if nonzero.dtype.kind == "f":
        nonzero = nonzero[np.isfinite(nonzero)]
    if nonzero.size == 0:
        return Intensities(0.0, 0.0, 0.0, 0.0, 0.0)
    p1, p50, p99 = (float(value) for value in np.percentile(nonzero, (1, 50, 99)))
    return Intensities(p1, p50, p99, float(nonzero.max()), nonzero.size / array.size)


def _describe_sizes(sizes: Sequence[float]) -> dict[str, float]:
    present = np.array([size for size in sizes if size > 0])
    values = (present.min(), np.median(present), present.max()) if present.size else (np.nan,) * 3
    described = (len(sizes), present.size, *values)
    return dict(zip(("labelled", "present", "min", "median", "max"), map(float, described), strict=True))


def _as_text(value: object) -> str:
    if isinstance(value, tuple):
        return " x ".join(f"{number:.4g}" for number in value)
    return "unknown" if value is None else str(value)


def _plain(value: Any) -> Any:
    """Bring nested values to what JSON knows."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and np.isnan(value) else value


def _row(case: CaseSummary) -> dict[str, Any]:
    row: dict[str, Any] = {name: value for name, value in vars(case).items() if not isinstance(value, Mapping | tuple)}
    row |= {"shape": _as_text(case.shape), "spacing": _as_text(case.spacing), "modalities": ",".join(case.intensities)}
    row |= {f"{region}_{case.volume_unit}": size for region, size in case.volumes.items()}
    for modality, values in case.intensities.items():
        row |= {f"{modality}_{name}": value for name, value in vars(values).items()}
    return row
