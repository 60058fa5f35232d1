"""Ground truth and predictions side by side, worst cases first, with the false-positive area of each prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from lightning_fabric import Fabric
from torch import nn

from metaseg.cases.labels import WHOLE_LESION, LabelSpace, region_mask
from metaseg.errors import MetasegError
from metaseg.inference.case_pictures import pixel_size
from metaseg.inference.predictor import Predictor
from metaseg.models.device import make_fabric
from metaseg.pictures.contact_sheet import informative_slices
from metaseg.report.inputs import Reopener, ReportRun
from metaseg.report.panels import Panel, SlicePainter
from metaseg.store.stored_case import StoredCase, to_space
from metaseg.terminal import progress

PANEL = 230
BEFORE = "before"
TOLERANCE = 0.01
"""Dice that a prediction made anew may differ from the recorded one, on another device."""


@dataclass(frozen=True)
class AreaRow:
    """False-positive area of one case under one network.

    Attributes:
        case: The case.
        network: ``before`` or a method.
        dice: Dice of the report's region over the case; NaN where label and prediction are empty.
        area: Predicted tumour outside the true tumour, summed over the slices.
        unit: ``mm²``, or ``pixels`` where the size of a pixel is not known.
    """

    case: str
    network: str
    dice: float
    area: float
    unit: str


@dataclass(frozen=True)
class OverlayRow:
    """The panels of one case: ground truth, before, and each method."""

    case: str
    slice: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Overlays:
    """The pictures of one domain.

    Attributes:
        target: Target of the runs.
        domain: ``target`` or ``source``.
        seed: Seed of the runs.
        rows: Worst case first.
        areas: Of the same cases.
        problem: Why there are none, or what is wrong with them; empty if nothing is.
        space: Label space of the maps, for the key; None without pictures.
    """

    target: str
    domain: str
    seed: int
    rows: tuple[OverlayRow, ...]
    areas: tuple[AreaRow, ...]
    problem: str
    space: LabelSpace | None


def make_overlays(
    runs: Sequence[ReportRun], table: pd.DataFrame, region: str, worst: int, reopener: Reopener
) -> list[Overlays]:
    """Draw the worst cases of both domains under the runs of one target, number of shots and seed.

    The worst cases are those with the lowest Dice at the end, averaged over the runs, so that every method is shown on
    the same ones.

    Args:
        runs: Runs to show side by side; they share target, shots and seed.
        table: The report's table.
        region: Region that cases are judged by.
        worst: Cases of each domain.
        reopener: Opens their cases again.
    """
    target, seed = runs[0].target, runs[0].seed
    if not worst:
        return []
    try:
        return _draw(runs, table, region, worst, reopener)
    except MetasegError as error:
        where = f" ({error.where})" if error.where else ""
        return [Overlays(target, "", seed, (), (), f"No pictures of {target}: {error.found}{where}.", None)]


def _draw(
    runs: Sequence[ReportRun], table: pd.DataFrame, region: str, worst: int, reopener: Reopener
) -> list[Overlays]:
    setting = reopener.setting(runs[0])
    fabric = make_fabric("auto", "32-true")
    networks = {BEFORE: setting.network} | {run.method: reopener.network(run) for run in runs}
    models = {name: fabric.to_device(network.model) for name, network in networks.items()}
    chosen = {
        domain: _worst_cases(runs, table, domain, region, worst, {case.id: case for case in store})
        for domain, store in (("target", setting.target), ("source", setting.source))
    }
    made = []
    with progress("drawing cases", sum(map(len, chosen.values()))) as bar:
        for domain, cases in chosen.items():
            rows, areas, space, strayed = [], list[AreaRow](), setting.space, list[str]()
            for case in cases:
                drawn = _CaseDrawing(case, setting.space, setting.modalities, region)
                maps = {name: drawn.predict(model, fabric) for name, model in models.items()}
                rows.append(drawn.row(maps))
                areas += drawn.areas(maps)
                space = drawn.space
                strayed += _strayed(runs, table, domain, region, drawn.areas(maps))
                bar.advance(1)
            note = (
                f"Predictions made anew differ from the recorded Dice on {', '.join(strayed)}: "
                "data, weights or device are not those of the run."
            )
            made.append(
                Overlays(
                    runs[0].target, domain, runs[0].seed, tuple(rows), tuple(areas), note if strayed else "", space
                )
            )
    return [part for part in made if part.rows]


class _CaseDrawing:
    """One case: its label and the predictions of every network in one label space."""

    def __init__(self, case: StoredCase, space: LabelSpace, modalities: tuple[str, ...], region: str) -> None:
        self.case, self.own, self.modalities = case, space, modalities
        self.space = space if case.space == space else WHOLE_LESION
        self.region = region if region in self.space.regions else next(iter(self.space.regions))
        self.label = to_space(case.labels(slice(None)), case.space, self.space, case.id)

    def predict(self, model: nn.Module, fabric: Fabric) -> np.ndarray:
        """Class values ``(slices, height, width)``."""
        predicted = Predictor(model, self.modalities, self.own, autocast=fabric.autocast).classes(self.case)
        return to_space(predicted, self.own, self.space, self.case.id)

    def row(self, maps: Mapping[str, np.ndarray]) -> OverlayRow:
        """Panels of the slice that shows label and predictions best."""
        (channel,) = self.case.channels(self.modalities[:1])
        image = np.asarray(self.case.raw_images[:, channel], dtype=np.float32)
        united = np.stack([self.label, *maps.values()]).max(axis=0)
        stored = (informative_slices(image, self.label, united, 1) or [0])[0]
        painter = SlicePainter(self.case, stored, self.modalities, PANEL)
        number = f"slice {self.case.native_slice(stored) + 1} of {self.case.info.geometry.canonical_shape[0]}"
        panels = [
            painter.panel(
                self.label[stored], self.space, f"{self.case.id}, {number}: ground truth", ("ground truth",), "truth"
            )
        ]
        for row in self.areas(maps):
            dice = "no tumour" if np.isnan(row.dice) else f"Dice {row.dice:.2f}"
            caption = (row.network, f"{dice}, false {row.area:,.0f} {row.unit}")
            alt = f"{self.case.id}, {number}: prediction {row.network}, {dice}"
            panels.append(painter.panel(maps[row.network][stored], self.space, alt, caption))
        return OverlayRow(self.case.id, number, tuple(panels))

    def areas(self, maps: Mapping[str, np.ndarray]) -> list[AreaRow]:
        """False-positive area and Dice of every prediction."""
        height, width = pixel_size(self.case)
        known = self.case.info.geometry.unit == "mm"
        return [
            AreaRow(
                case=self.case.id,
                network=name,
                dice=_dice(
                    region_mask(self.label, self.space, self.region), region_mask(found, self.space, self.region)
                ),
                area=float(np.count_nonzero((found > 0) & (self.label == 0)) * (height * width if known else 1.0)),
                unit="mm²" if known else "pixels",
            )
            for name, found in maps.items()
        ]


def _worst_cases(
    runs: Sequence[ReportRun],
    table: pd.DataFrame,
    domain: str,
    region: str,
    count: int,
    cases: Mapping[str, StoredCase],
) -> list[StoredCase]:
    """The cases with the lowest mean Dice at the end of the runs; those with nothing to find come last."""
    ends = pd.concat([_last_marks(run, table, domain, region) for run in runs])
    means = ends.groupby("case")["dice"].mean().reindex(sorted(cases)).sort_values(kind="stable", na_position="last")
    return [cases[str(name)] for name in means.index[:count]]


def _last_marks(run: ReportRun, table: pd.DataFrame, domain: str, region: str) -> pd.DataFrame:
    rows = table[
        (table["target"] == run.target)
        & (table["method"] == run.method)
        & (table["shots"] == run.shots)
        & (table["seed"] == run.seed)
        & (table["domain"] == domain)
        & (table["region"] == region)
    ]
    return rows[rows["step"] == rows["step"].max()]


def _strayed(
    runs: Sequence[ReportRun], table: pd.DataFrame, domain: str, region: str, areas: Sequence[AreaRow]
) -> list[str]:
    """Cases whose Dice, predicted anew, is not what the run recorded."""
    found = []
    for run in runs:
        marks = _last_marks(run, table, domain, region).set_index("case")["dice"]
        for row in areas:
            if row.network == run.method and abs(float(marks.get(row.case, np.nan)) - row.dice) > TOLERANCE:
                found.append(f"{row.case} ({run.method})")
    return found


def _dice(truth: np.ndarray, found: np.ndarray) -> float:
    total = int(truth.sum()) + int(found.sum())
    return 2 * int((truth & found).sum()) / total if total else float("nan")
