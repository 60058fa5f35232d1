"""Pictures of the report on segmentation: the worst cases under every network, and the slices that were chosen."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from metaseg.cases.labels import WHOLE_LESION, LabelSpace
from metaseg.errors import MetasegError
from metaseg.inference.case_pictures import heat_class, pixel_size, shown_modality
from metaseg.inference.predictor import Predictor
from metaseg.metrics.overlap import Box, joint_histogram, region_counts
from metaseg.models.device import make_fabric
from metaseg.pictures.contact_sheet import informative_slices
from metaseg.pictures.overlay import (
    class_palette,
    heated,
    painted_slice,
    panel_size,
    put_sides,
    shown_slice,
    visible_part,
)
from metaseg.reports.blocks import Panel
from metaseg.reports.inputs import Reopener, ReportRun
from metaseg.runs.logs import SELECTION_COLUMNS, read_curves, read_selection
from metaseg.runs.networks import load_network
from metaseg.store.stored_case import StoredCase, to_space
from metaseg.terminal import progress

PANEL, THUMBNAIL = 230, 104
"""Longer side in pixels of a panel, and of a chosen slice."""
THUMBNAILS = 24
"""Chosen slices of a run that are shown."""
BEFORE = "before"
TOLERANCE = 0.01
"""Dice that a prediction made anew may differ from the recorded one, on another device."""
_SIDES_FROM = 160
"""Pixels from which a panel is large enough for the letters of left and right."""


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
        picture = self.painted(classes, space)
        return Panel(data_address(picture), picture.width, picture.height, alt, caption, kind)

    def painted(self, classes: np.ndarray | None, space: LabelSpace) -> Image.Image:
        """Classes ``(height, width)`` on the stored grid over the slice, or the slice alone."""
        grey, crop = self._grey()
        codes = np.zeros(self.case.info.shape[1:], dtype=np.uint8) if classes is None else classes
        return self._marked(painted_slice(grey, codes, class_palette(space), crop, self._mirror, alpha=0.45))

    def heated(self, probability: np.ndarray) -> Image.Image:
        """Probabilities ``(height, width)`` on the stored grid over the slice."""
        grey, crop = self._grey()
        return self._marked(heated(grey, probability[crop], self._mirror))

    @property
    def _mirror(self) -> bool:
        return not self.case.info.geometry.planar

    def _grey(self) -> tuple[np.ndarray, Box]:
        """The slice as a panel shows it, and what is visible of it."""
        (channel,) = self.case.channels((shown_modality(self.modalities),))
        image = np.asarray(self.case.raw_images[self.stored, channel], dtype=np.float32)
        crop, pixel = visible_part(image[None]), pixel_size(self.case)
        extent = [(part.stop - part.start) * step for part, step in zip(crop, pixel, strict=True)]
        return shown_slice(image, crop, panel_size(extent, self.size), self._mirror), crop

    def _marked(self, pixels: np.ndarray) -> Image.Image:
        picture = Image.fromarray(pixels)
        if self._mirror and self.size >= _SIDES_FROM:
            put_sides(picture, 0, 0, picture.width, picture.height, 13)
        return picture


def data_address(picture: Image.Image) -> str:
    """A picture as text that a page can hold."""
    stream = io.BytesIO()
    # Full colour resolution: outlines are a pixel wide.
    picture.save(stream, format="JPEG", quality=80, subsampling=0, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


@dataclass(frozen=True)
class Overlays:
    """The pictures of one domain.

    Attributes:
        target: Target of the runs.
        domain: ``target`` or ``source``.
        seed: Seed of the runs.
        rows: Case, slice and panels (ground truth, before, and each method), the worst case first.
        errors: Columns ``case``, ``network``, ``dice`` and ``false_positive`` (a text), of the same cases.
        problem: Why there are none, or what is wrong with them; empty if nothing is.
        space: Label space of the maps, for the key; None without pictures.
    """

    target: str
    domain: str
    seed: int
    rows: tuple[tuple[str, str, Sequence[Panel]], ...] = ()
    errors: pd.DataFrame = field(default_factory=pd.DataFrame)
    problem: str = ""
    space: LabelSpace | None = None


def make_overlays(
    runs: Sequence[ReportRun], table: pd.DataFrame, region: str, worst: int, reopener: Reopener
) -> list[Overlays]:
    """Draw the worst cases of both domains under the runs of one target, number of shots and seed.

    The worst cases are those with the lowest Dice at the end, averaged over the runs, so that every method is shown on
    the same ones.

    Args:
        runs: Runs to show side by side; they share target, shots and seed.
        table: The report's table, of one region.
        region: That region.
        worst: Cases of each domain.
        reopener: Opens their cases again.
    """
    if not worst:
        return []
    try:
        return _draw(runs, table, region, worst, reopener)
    except MetasegError as error:
        where = f" ({error.where})" if error.where else ""
        problem = f"No pictures of {runs[0].target}: {error.found}{where}."
        return [Overlays(runs[0].target, "", runs[0].seed, problem=problem)]


def _draw(
    runs: Sequence[ReportRun], table: pd.DataFrame, region: str, worst: int, reopener: Reopener
) -> list[Overlays]:
    setup = reopener.setup(runs[0])
    fabric = make_fabric("auto", "32-true")
    networks = {BEFORE: setup.network} | {run.method: load_network(run.path, "last") for run in runs}
    predictors = {name: Predictor.from_network(network, fabric) for name, network in networks.items()}
    stores = {"target": setup.target, "source": setup.source}
    recorded = {domain: _last_dice(runs, table, domain) for domain in stores}
    chosen = {domain: _worst_cases(recorded[domain], stores[domain], worst) for domain in stores}
    made = []
    with progress("drawing cases", sum(map(len, chosen.values()))) as bar:
        for domain, cases in chosen.items():
            drawings = []
            for case in cases:
                drawing = CaseDrawing(case, setup.space, setup.modalities, region)
                for name, predictor in predictors.items():
                    drawing.add(name, to_space(predictor.classes(case), setup.space, drawing.space, case.id))
                drawings.append(drawing)
                bar.advance(1)
            if drawings:
                made.append(_overlays(runs[0], domain, drawings, recorded[domain]))
    return made


def _overlays(run: ReportRun, domain: str, drawings: Sequence[CaseDrawing], recorded: pd.DataFrame) -> Overlays:
    errors = pd.DataFrame([error for drawing in drawings for error in drawing.errors])
    both = errors.merge(recorded, left_on=["case", "network"], right_on=["case", "method"], suffixes=("", "_recorded"))
    strayed = both[(both["dice"] - both["dice_recorded"]).abs() > TOLERANCE]
    named = ", ".join(f"{row.case} ({row.network})" for row in strayed.itertuples())
    problem = (
        f"Predictions made anew differ from the recorded Dice on {named}: data, weights or device are not those of the "
        "run."
    )
    rows = tuple((drawing.case.id, *drawing.panels()) for drawing in drawings)
    space = drawings[-1].space
    return Overlays(run.target, domain, run.seed, rows, errors, problem if named else "", space)


class CaseDrawing:
    """One case: its label and the predictions of every network in one label space, judged on its outlined slices.

    Args:
        case: The case.
        space: Label space of the networks.
        modalities: Their modalities.
        region: Region whose Dice is shown.
    """

    def __init__(self, case: StoredCase, space: LabelSpace, modalities: tuple[str, ...], region: str) -> None:
        self.case, self.modalities = case, modalities
        self.space = space if case.space == space else WHOLE_LESION
        self.region = region if region in self.space.regions else next(iter(self.space.regions))
        self.label = np.zeros(case.info.shape, dtype=np.uint8)
        self.label[case.outlined] = to_space(case.labels(case.outlined), case.space, self.space, case.id)
        self.maps: dict[str, np.ndarray] = {}
        self.errors: list[dict[str, Any]] = []

    def add(self, network: str, predicted: np.ndarray) -> None:
        """Add the prediction of a network, class values ``(slices, height, width)`` in :attr:`space`."""
        self.maps[network] = predicted
        outlined = self.case.outlined
        histogram = joint_histogram(self.label[outlined], predicted[outlined], self.space.num_classes)
        self.errors.append(
            {
                "case": self.case.id,
                "network": network,
                "dice": float(region_counts(histogram, self.space.regions[self.region]).dice()),
                "false_positive": volume_text(self.case, int(histogram[0, 1:].sum())),
            }
        )

    def painter(self) -> tuple[str, SlicePainter]:
        """Which slice shows label and predictions best, in words, and what draws it."""
        (channel,) = self.case.channels(self.modalities[:1])
        image = np.asarray(self.case.raw_images[:, channel], dtype=np.float32)
        united = np.stack([self.label, *self.maps.values()]).max(axis=0)
        outlined = self.case.outlined
        best = informative_slices(image[outlined], self.label[outlined], united[outlined], 1) or [0]
        stored = int(outlined[best[0]])
        where = f"slice {self.case.native_slice(stored) + 1} of {self.case.info.geometry.canonical_shape[0]}"
        return where, SlicePainter(self.case, stored, self.modalities, PANEL)

    def panels(self) -> tuple[str, list[Panel]]:
        """Which slice shows label and predictions best, and its panels."""
        where, painter = self.painter()
        stored = painter.stored
        shown = f"{self.case.id}, {where}"
        panels = [painter.panel(self.label[stored], self.space, f"{shown}: ground truth", ("ground truth",), "truth")]
        for error in self.errors:
            network = error["network"]
            told = dice_text(error["dice"])
            caption = (network, told, f"false positive {error['false_positive']}")
            alt = f"{shown}: prediction {network}, {told}"
            panels.append(painter.panel(self.maps[network][stored], self.space, alt, caption))
        return where, panels


@dataclass(frozen=True)
class PatientPictures:
    """One patient under several methods: a slice with the classes, and with the probability of enhancing tumour.

    Attributes:
        title: Which patient and slice.
        names: The columns: ``ground truth`` and the methods.
        overlays: A picture for each column.
        heat_maps: Likewise; the bare slice in the first.
        captions: Dice and false-positive volume of the case for each method; empty for the first column.
    """

    title: str
    names: tuple[str, ...]
    overlays: tuple[Image.Image, ...]
    heat_maps: tuple[Image.Image, ...]
    captions: tuple[str, ...]


@dataclass(frozen=True)
class SideBySide:
    """A training and a test patient of one target under the methods, as in figure 3 of Han et al. 2018.

    Attributes:
        target: The target.
        seed: Seed of the runs.
        patients: Their pictures.
        space: Label space of the overlays.
        heated: Name of the class whose probability is shown.
        problem: Why there are none; empty if there are.
    """

    target: str
    seed: int
    patients: tuple[PatientPictures, ...] = ()
    space: LabelSpace | None = None
    heated: str = ""
    problem: str = ""


def make_side_by_side(runs: Sequence[ReportRun], table: pd.DataFrame, region: str, reopener: Reopener) -> SideBySide:
    """Predict two patients with the methods of a target: the first that was labelled, and one of the test part.

    The test patient is the one in the middle by the mean Dice of the methods at the end, so that it is chosen for none.

    Args:
        runs: Runs to show side by side; they share target, shots and seed.
        table: The report's table, of one region.
        region: That region.
        reopener: Opens their cases again.
    """
    target, seed = runs[0].target, runs[0].seed
    try:
        setup = reopener.setup(runs[0])
        ranked = _worst_cases(_last_dice(runs, table, "target"), setup.target, len(setup.target))
        middle = ranked[len(ranked) // 2 :][:1]
        cases = zip(("training patient", "test patient"), (setup.shots[0].case, *middle), strict=False)
        fabric = make_fabric("auto", "32-true")
        predictors = {run.method: Predictor.from_network(load_network(run.path, "last"), fabric) for run in runs}
        value = heat_class(setup.space)
        patients, space = [], setup.space
        for what, case in cases:
            drawing = CaseDrawing(case, setup.space, setup.modalities, region)
            chances = {}
            for name, predictor in predictors.items():
                classes, (chances[name],) = predictor.most_probable(case, [value])
                drawing.add(name, to_space(classes, setup.space, drawing.space, case.id))
            patients.append(_patient_pictures(what, drawing, chances))
            space = drawing.space
    except MetasegError as error:
        where = f" ({error.where})" if error.where else ""
        return SideBySide(target, seed, problem=f"No pictures of {target} side by side: {error.found}{where}.")
    return SideBySide(target, seed, tuple(patients), space, setup.space.classes[value])


def _patient_pictures(what: str, drawing: CaseDrawing, chances: Mapping[str, np.ndarray]) -> PatientPictures:
    where, painter = drawing.painter()
    maps = [drawing.label, *drawing.maps.values()]
    captions = [f"{dice_text(error['dice'])}, FP {error['false_positive']}" for error in drawing.errors]
    return PatientPictures(
        title=f"{what}: {drawing.case.id}, {where}",
        names=("ground truth", *chances),
        overlays=tuple(painter.painted(classes[painter.stored], drawing.space) for classes in maps),
        heat_maps=(
            painter.painted(None, drawing.space),
            *(painter.heated(chance[painter.stored]) for chance in chances.values()),
        ),
        captions=("", *captions),
    )


def dice_text(dice: float) -> str:
    """``Dice 0.51``, or that there was nothing to find and nothing found."""
    return "no tumour" if np.isnan(dice) else f"Dice {dice:.2f}"


def volume_text(case: StoredCase, voxels: int) -> str:
    """So many voxels of a case in ml; of separate 2-D images, which have no thickness, in mm²; else in pixels."""
    geometry, (height, width) = case.info.geometry, pixel_size(case)
    if geometry.unit != "mm":
        return f"{voxels:,} pixels"
    area = voxels * height * width
    return f"{area:,.0f} mm²" if geometry.planar else f"{area * geometry.spacing[0] / 1000:,.2f} ml"


def _last_dice(runs: Sequence[ReportRun], table: pd.DataFrame, domain: str) -> pd.DataFrame:
    """Columns ``case``, ``method`` and ``dice`` at the last mark of each run."""
    rows = table[table["domain"] == domain]
    parts = []
    for run in runs:
        own = rows[["target", "method", "shots", "seed"]] == [run.target, run.method, run.shots, run.seed]
        mine = rows[own.all(axis=1)]
        parts.append(mine[mine["work"] == mine["work"].max()])
    return pd.concat(parts)[["case", "method", "dice"]]


def _worst_cases(recorded: pd.DataFrame, store: Iterable[StoredCase], count: int) -> list[StoredCase]:
    """The cases with the lowest mean Dice at the end of the runs; those with nothing to find come last."""
    cases = {case.id: case for case in store}
    means = (
        recorded.groupby("case")["dice"].mean().reindex(sorted(cases)).sort_values(kind="stable", na_position="last")
    )
    return [cases[str(name)] for name in means.index[:count]]


@dataclass(frozen=True)
class Choices:
    """The choices of one run.

    Attributes:
        run: The run.
        chosen: ``selection.csv`` with numbers as numbers; empty where nothing was logged.
        tasks: Columns ``step``, ``learned``, ``unlearned``, a row per scoring; empty where slices are not parted.
        fallbacks: Scorings in which the threshold parted nothing.
        thumbnails: The first chosen slices.
        problem: Why there are no thumbnails; empty if there are.
    """

    run: ReportRun
    chosen: pd.DataFrame
    tasks: pd.DataFrame
    fallbacks: int
    thumbnails: tuple[Panel, ...]
    problem: str


def make_choices(run: ReportRun, reopener: Reopener) -> Choices:
    """Read a run's choices and draw the first of them."""
    chosen = _selection_of(run)
    tasks, fallbacks = _read_tasks(run)
    if chosen.empty:
        return Choices(run, chosen, tasks, fallbacks, (), f"{run.method} logged no choices.")
    try:
        return Choices(run, chosen, tasks, fallbacks, _thumbnails(chosen.head(THUMBNAILS), run, reopener), "")
    except MetasegError as error:
        return Choices(run, chosen, tasks, fallbacks, (), f"No pictures of the chosen slices: {error.found}.")


def _selection_of(run: ReportRun) -> pd.DataFrame:
    """``selection.csv`` of a run; empty if there is none."""
    table = pd.DataFrame(read_selection(run.path), columns=list(SELECTION_COLUMNS))
    numbers = {name: pd.to_numeric(table[name]) for name in ("dice", "threshold")}
    return table.astype(dict.fromkeys(("step", "slice", "position"), int)).assign(**numbers)


def _read_tasks(run: ReportRun) -> tuple[pd.DataFrame, int]:
    """Learned and unlearned slices at every scoring of a run, and how often the threshold parted nothing."""
    curves = read_curves(run.path)
    steps, learned = curves.get("tasks/learned", ([], []))
    _, unlearned = curves.get("tasks/unlearned", ([], []))
    # Runs of earlier versions filled the empty side from the other.
    _, fallbacks = curves.get("tasks/fallback", curves.get("tasks/filled", ([], [])))
    # A run that was cut off may have written one metric of a scoring and not the next.
    rows = list(zip(steps, learned, unlearned, strict=False))
    return pd.DataFrame(rows, columns=["step", "learned", "unlearned"]), int(sum(fallbacks))


def _thumbnails(chosen: pd.DataFrame, run: ReportRun, reopener: Reopener) -> tuple[Panel, ...]:
    setup = reopener.setup(run)
    cases: dict[str, StoredCase] = {case.id: case for case in setup.source_cases}
    cases |= {shot.case.id: shot.case for shot in setup.shots}
    panels = []
    for number, row in enumerate(chosen.itertuples(index=False), start=1):
        case = cases.get(str(row.case))
        stored = -1 if case is None else int(row.slice) - case.native_slice(0)
        if case is None or not 0 <= stored < case.num_slices:
            continue
        space = case.space if case.space.num_classes <= setup.space.num_classes else setup.space
        label = to_space(case.labels([stored]), case.space, space, case.id)[0]
        dice_text = "" if pd.isna(row.dice) else f"Dice {row.dice:.2f}"
        caption = (f"{number}. {row.task}", f"{row.role}, step {row.step}", dice_text)
        alt = f"Choice {number}: {case.id}, slice {int(row.slice) + 1}, {row.task}, {row.role} {dice_text}"
        painter = SlicePainter(case, stored, setup.modalities, THUMBNAIL)
        panels.append(painter.panel(label, space, alt.strip(), caption, kind=str(row.task)))
    return tuple(panels)
