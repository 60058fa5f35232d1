"""Slices that a classifier saw, as thumbnails: what was chosen first and last, and the worst mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from PIL import Image

from metaseg.cases.labels import WHOLE_LESION
from metaseg.checked_files import FileKind, read_frame
from metaseg.classify.data import open_slices
from metaseg.classify.evaluate import run_config
from metaseg.classify.rounds import read_rounds
from metaseg.classify.slices import ClassifiedSlices
from metaseg.config_classify import SliceOptions
from metaseg.errors import MetasegError
from metaseg.studies.cells import quiet
from metaseg.studies.report.blocks import Block, Note, Pictures
from metaseg.studies.report.classification.inputs import TEST, Evaluation
from metaseg.studies.report.numbers import number
from metaseg.studies.report.panels import Panel, SlicePainter, data_address
from metaseg.studies.report.runs import ReportRun

SMALL, LARGE, SHOWN = 112, 200, 8
"""Longer side of a thumbnail and of a picture in pixels, and how many thumbnails of a round are shown."""
GRAD_CAMS, GRAD_CAM_WIDTH = 12, 560


class SliceAlbum:
    """Opens the slices of runs again, once for all runs that share them."""

    def __init__(self) -> None:
        self._opened: dict[str, ClassifiedSlices | MetasegError] = {}

    def slices(self, run: ReportRun) -> ClassifiedSlices:
        """The slices of a run.

        Raises:
            MetasegError: Its data are gone, or cannot be used.
        """
        config = run_config(run.path)
        deciding = [str(getattr(config, field.name)) for field in fields(SliceOptions)]
        key = repr((deciding, config.seed, config.cache))
        if key not in self._opened:
            try:
                # What a verb would print here belongs to the run, not to its report.
                with quiet():
                    self._opened[key] = open_slices(config, config, annotator=bool(run.settings.get("ask")))
            except MetasegError as error:
                self._opened[key] = error
        slices = self._opened[key]
        if isinstance(slices, MetasegError):
            raise slices
        return slices

    def panels(self, run: ReportRun, captions: Mapping[str, tuple[str, ...]], size: int) -> list[Panel]:
        """A picture of each slice.

        Args:
            run: Whose slices.
            captions: Name of the slice to the lines below it.
            size: Longer side in pixels.

        Raises:
            MetasegError: The data are gone, or cannot be used.
        """
        slices = self.slices(run)
        places = {name: place for place, name in enumerate(slices.ids)}
        return [_panel(slices, places[name], name, lines, size) for name, lines in captions.items() if name in places]


def _panel(slices: ClassifiedSlices, place: int, name: str, lines: tuple[str, ...], size: int) -> Panel:
    case = slices.store.cases[int(slices.owners[place])]
    painter = SlicePainter(case, int(slices.indices[place]), slices.modalities, size)
    return painter.panel(None, WHOLE_LESION, f"Slice {name}: {', '.join(filter(None, lines))}", (*lines, name))


def chosen_blocks(run: ReportRun, album: SliceAlbum) -> list[Block]:
    """What active learning chose in its first round and in its last, with scores."""
    try:
        rounds = [one for one in read_rounds(run.path) if one.labels]
        if not rounds:
            return []
        classes = _classes(run, album)
        blocks: list[Block] = []
        for one in dict.fromkeys((rounds[0].number, rounds[-1].number)):
            chosen = rounds[one - 1]
            scores = [f"score {score:.3g}" if score is not None else "" for score in chosen.scores]
            rows = list(zip(chosen.chosen, chosen.labels, scores, strict=True))[:SHOWN]
            captions = {name: (classes[label], score) for name, label, score in rows}
            title = f"Round {one}: the first {len(rows)} of {len(chosen.chosen)} that were chosen"
            blocks.append(Pictures(title, album.panels(run, captions, SMALL), small=True))
        return blocks
    except MetasegError as error:
        return [_no_pictures(error)]


def _classes(run: ReportRun, album: SliceAlbum) -> Sequence[str]:
    settings = run.settings.get("classes") or ()
    return [str(name) for name in settings] or album.slices(run).classes


def mistake_blocks(run: ReportRun, evaluation: Evaluation, worst: int, album: SliceAlbum) -> list[Block]:
    """The slices of the test part whose true class got the least probability."""
    found = evaluation.predictions
    columns = ("slice", "patient", "truth", "predicted")
    table = read_frame(evaluation.folder / "predictions.csv", FileKind("the predictions of an evaluation"), columns)
    table["chance"] = found.probabilities[range(len(table)), found.labels]
    wrong = table[table["truth"] != table["predicted"]].sort_values("chance", kind="stable").head(worst)
    if wrong.empty:
        return []
    captions = {
        str(row["slice"]): (
            f"{row['truth']}, taken for {row['predicted']}",
            f"{number(row['chance'], 2)} for the truth",
        )
        for row in wrong.to_dict("records")
    }
    try:
        panels = album.panels(run, captions, LARGE)
    except MetasegError as error:
        return [_no_pictures(error)]
    return [Pictures("Worst mistakes on the test part", panels)] if panels else []


def grad_cam_blocks(run: ReportRun) -> list[Block]:
    """Grad-CAM pictures that an evaluation left in the run."""
    files = sorted(path for part in (TEST, "evaluation") for path in (run.path / part / "grad_cam").glob("*.png"))
    if not files:
        return []
    title = f"Where the classifier looked (Grad-CAM): the worst {min(len(files), GRAD_CAMS)} of the last evaluation"
    return [Pictures(title, [_picture_panel(path) for path in files[:GRAD_CAMS]], wide=True)]


def _picture_panel(path: Path) -> Panel:
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    width = min(picture.width, GRAD_CAM_WIDTH)
    picture = picture.resize((width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS)
    name = path.stem.partition("-")[2]
    return Panel(data_address(picture), picture.width, picture.height, f"Grad-CAM of {name}", (name,))


def _no_pictures(error: MetasegError) -> Note:
    return Note(f"No thumbnails: {error.found}{f' ({error.where})' if error.where else ''}.", "warning")
