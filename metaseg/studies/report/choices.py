"""Which slices a method chose and when: learned and unlearned tasks over time, and the first choices as pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from metaseg.errors import MetasegError
from metaseg.runs.events import SELECTION_COLUMNS, read_selection
from metaseg.runs.progress_plot import read_curves
from metaseg.store.stored_case import StoredCase, to_space
from metaseg.studies.report.panels import Panel, SlicePainter
from metaseg.studies.report.reopen import Reopener
from metaseg.studies.report.runs import ReportRun

THUMBNAILS = 24
"""Chosen slices of a run that are shown."""
THUMBNAIL = 104


@dataclass(frozen=True)
class Choices:
    """The choices of one run.

    Attributes:
        run: The run.
        chosen: ``selection.csv`` with numbers as numbers; empty where nothing was logged.
        tasks: Columns ``step``, ``learned``, ``unlearned``, a row per scoring; empty where slices are not parted.
        filled: Scorings in which one side was empty and was filled from the other.
        thumbnails: The first chosen slices.
        problem: Why there are no thumbnails; empty if there are.
    """

    run: ReportRun
    chosen: pd.DataFrame
    tasks: pd.DataFrame
    filled: int
    thumbnails: tuple[Panel, ...]
    problem: str

    @property
    def counts(self) -> Mapping[str, int]:
        """Number of chosen slices of each task."""
        return {str(task): int(count) for task, count in self.chosen["task"].value_counts(sort=False).items()}


def make_choices(run: ReportRun, reopener: Reopener) -> Choices:
    """Read a run's choices and draw the first of them."""
    chosen = selection_of(run)
    tasks, filled = read_tasks(run)
    thumbnails: tuple[Panel, ...] = ()
    problem = ""
    if chosen.empty:
        problem = f"{run.method} logged no choices."
    else:
        try:
            thumbnails = _thumbnails(chosen.head(THUMBNAILS), run, reopener)
        except MetasegError as error:
            problem = f"No pictures of the chosen slices: {error.found}."
    return Choices(run, chosen, tasks, filled, thumbnails, problem)


def selection_of(run: ReportRun) -> pd.DataFrame:
    """``selection.csv`` of a run; empty if there is none."""
    table = pd.DataFrame(read_selection(run.path), columns=list(SELECTION_COLUMNS))
    whole = table.astype(dict.fromkeys(("step", "slice", "position"), int))
    return whole.assign(**{name: pd.to_numeric(table[name]) for name in ("dice", "threshold")})


def read_tasks(run: ReportRun) -> tuple[pd.DataFrame, int]:
    """Learned and unlearned slices at every scoring of a run, and how often one side had to be filled."""
    curves = read_curves(run.path)
    steps, learned = curves.get("tasks/learned", ([], []))
    _, unlearned = curves.get("tasks/unlearned", ([], []))
    _, filled = curves.get("tasks/filled", ([], []))
    # A run that was cut off may have written one figure of a scoring and not the next.
    count = min(len(learned), len(unlearned))
    frame = {"step": steps[:count], "learned": learned[:count], "unlearned": unlearned[:count]}
    return pd.DataFrame(frame, columns=["step", "learned", "unlearned"]), int(sum(filled))


def _thumbnails(chosen: pd.DataFrame, run: ReportRun, reopener: Reopener) -> tuple[Panel, ...]:
    setting = reopener.setting(run)
    cases: dict[str, StoredCase] = {case.id: case for case in setting.memory}
    cases |= {shot.case.id: shot.case for shot in setting.shots}
    panels = []
    for number, row in enumerate(chosen.itertuples(index=False), start=1):
        case = cases.get(str(row.case))
        if case is None:
            continue
        stored = int(row.slice) - case.native_slice(0)
        if not 0 <= stored < case.num_slices:
            continue
        space = case.space if case.space.num_classes <= setting.space.num_classes else setting.space
        label = to_space(case.labels([stored]), case.space, space, case.id)[0]
        dice = "" if pd.isna(row.dice) else f"Dice {row.dice:.2f}"
        caption = (f"{number}. {row.task}", f"{row.role}, step {row.step}", dice)
        alt = f"Choice {number}: {case.id}, slice {int(row.slice) + 1}, {row.task}, {row.role} {dice}"
        painter = SlicePainter(case, stored, setting.modalities, THUMBNAIL)
        panels.append(painter.panel(label, space, alt.strip(), caption, kind=str(row.task)))
    return tuple(panels)
