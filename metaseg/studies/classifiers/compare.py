"""``metaseg classify compare``: classifiers, transfer strategies or active learning over seeds, in one table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from metaseg.classify.fitting import NAMES
from metaseg.config.classification import ClassifyActiveConfig
from metaseg.config.io import dump_config
from metaseg.config.studies import ClassifyCompareConfig
from metaseg.errors import recorded_warnings
from metaseg.results import Result
from metaseg.runs.manifest import read_manifest
from metaseg.runs.session import INPUTS_NAME
from metaseg.runs.state import STATE_NAME
from metaseg.studies.cells import check_inputs
from metaseg.studies.classifiers.classes import PER_CLASS, by_entry, write_classes
from metaseg.studies.classifiers.draws import final_rows, with_validation, write_draws
from metaseg.studies.classifiers.folds import pool_folds
from metaseg.studies.classifiers.plan import (
    ClassifierWork,
    check_entries,
    input_digests,
    make_classifier_plan,
    with_split,
)
from metaseg.studies.classifiers.references import print_references, with_references
from metaseg.studies.classifiers.selection import choosing_runs, write_selection
from metaseg.studies.classifiers.tables import (
    against_baseline,
    curve_rows,
    entry_summary,
    highest_entry,
    predictions_in,
    summary_notes,
    with_steps,
    write_label_curves,
    write_metric_plot,
)
from metaseg.studies.classifiers.trials import Slot, in_words, search_summary
from metaseg.studies.papers import print_paper
from metaseg.studies.preparation import STUDY_FILE
from metaseg.studies.tables import intervals_text, write_table
from metaseg.studies.workers import (
    CELLS,
    SEARCHES,
    Unit,
    continued_by_the_same_command,
    do_what_is_left,
    raise_failures,
)
from metaseg.terminal import print_table

HEADINGS = {"balanced accuracy": "balanced"}
"""Short headings, so that a table of a terminal's width has room for the entries' names."""
ACTIVE = {"labels": "labels", "area": "area", "labels_needed": "needed", "labels_saved": "saved"}
"""What labels were worth in active learning, with headings."""


@dataclass(frozen=True)
class ClassifierComparison(Result):
    """What a comparison of classifiers leaves.

    Attributes:
        study: The study folder.
        summary: One row for every entry.
        curves: Metrics of active learning by round.
    """

    study: Path
    summary: pd.DataFrame
    curves: pd.DataFrame

    def table(self) -> pd.DataFrame:
        """The summary."""
        return self.summary


@recorded_warnings()
def run_classify_compare(config: ClassifyCompareConfig) -> ClassifierComparison:
    """Run what is missing of a comparison, and write its tables and pictures.

    Args:
        config: All settings; see :class:`~metaseg.config.classification.ClassifyCompareConfig`.

    Raises:
        UsageError: Settings are wrong, or contradict each other or the data.
        DataError: The data cannot be used.
        RunError: Cells failed; all others are done then.
    """
    work = make_classifier_plan(config)
    own = {*work.entries, *work.pretraining}
    check_entries(work.entries, config.folds, own, work.spaces)
    check_entries(work.pretraining)
    if config.dry_run:
        # What is done was done on the study's own division, and on phantoms where there are no data.
        _print_plan(with_split(work) if (work.folder / INPUTS_NAME).exists() else work)
        return ClassifierComparison(work.folder, pd.DataFrame(), pd.DataFrame())
    work.folder.mkdir(parents=True, exist_ok=True)
    dump_config(config, work.folder / STUDY_FILE)
    work = with_split(work)
    has_results = any((work.folder / kind).rglob(STATE_NAME) for kind in (CELLS, SEARCHES))
    check_inputs(work.folder, input_digests({**work.entries, **work.pretraining}), has_results)
    todo = work.left_to_do()
    for label in dict.fromkeys(unit.label for unit in todo if isinstance(unit, Slot)):
        work.searches[label].check_validation()
    with continued_by_the_same_command():
        failures = do_what_is_left(work, todo)
    result = write_tables(work)
    # Of trials that were not even begun there is nothing to say.
    told = [failure for failure in failures if not (isinstance(failure.unit, Slot) and failure.error[:6] == "needs ")]
    raise_failures(work, told)
    return result


def write_tables(work: ClassifierWork) -> ClassifierComparison:
    """Write tables and pictures of the cells that are done, and print the summary."""
    done = [cell for cell in work.cells if work.is_done(cell)]
    read = {cell: predictions_in(work.folder / cell.folder / "test") for cell in done}
    found = pool_folds({cell: one for cell, one in read.items() if one is not None}, work.study.folds)
    curves = curve_rows(work, done)
    finals, choosing = final_rows(work, done), choosing_runs(work, done)
    summarised = with_validation(work, with_steps(work, entry_summary(work, found, curves, work.baseline)), finals)
    summarised = with_references(summarised, work, curves, found, choosing)
    write_table(summarised, work.folder / "summary")
    write_table(curves, work.folder / "curves")
    write_table(against_baseline(work, found, work.baseline), work.folder / "pairwise")
    searched = search_summary(work.searches)
    if len(searched):
        write_table(searched, work.folder / "searches")
        _print_searches(work, searched)
    if len(curves):
        write_label_curves(work.folder / "curves.png", curves, work.study.metric, work.titles)
        write_label_curves(work.folder / "pool_curves.png", curves, work.study.metric, work.titles, "pool")
        write_selection(choosing, work.folder, work.titles, work.study.pattern_round)
    synthetic = any(read_manifest(work.folder / cell.folder).get("synthetic") for cell in done)
    write_draws(work, finals, done, synthetic)
    if len(summarised):
        write_metric_plot(work.folder / "metrics.png", summarised, work.study.metric, work.titles)
        _print_summary(work, summarised)
        print_references(work, summarised)
        _print_classes(work, write_classes(by_entry(found), work.folder, work.titles, work.study.resamples, synthetic))
        if work.study.paper is not None:
            print_paper(work.study.paper, summarised, synthetic)
    print(f"{len(done)} of {len(work.cells)} cells are done; tables and pictures in {work.folder}")
    return ClassifierComparison(work.folder, summarised, curves)


def _print_plan(work: ClassifierWork) -> None:
    runs = [unit for unit in work.units if isinstance(unit, Unit) and unit.kind != "search"]
    todo: list[Unit] = []
    for unit in runs:
        if work.parent(unit) in todo or not work.is_done(unit):
            todo.append(unit)
    folds = f", {work.study.folds} folds" if work.study.folds else ""
    print(f"study {work.folder}: {len(work.entries)} entries, {len(work.study.seeds)} seeds{folds}")
    trials = 0
    for label in (*work.pretraining, *work.entries):
        mine = [unit for unit in runs if unit.label == label]
        left = sum(unit in todo for unit in mine)
        what = "network to start from" if label in work.pretraining else f"{len(mine)} cells"
        print(f"  {label}: {what}, {len(mine) - left} done, {left} to do")
        if label in work.searches:
            search, best = work.searches[label], work.values(label)
            trials += 0 if best else search.trials
            print(f"    search by {search.metric}: {'best ' + in_words(best) if best else 'to do'}")
            search.print_plan("      ")
    seconds = [pace for unit in runs if (pace := work.pace(unit))]
    if seconds and todo:
        left = len(todo) + trials
        print(f"about {sum(seconds) / len(seconds) * left / work.jobs / 60:.0f} min in {work.jobs} processes")


def _print_searches(work: ClassifierWork, searched: pd.DataFrame) -> None:
    for label, rows in searched.groupby("entry", sort=False):
        metric, trials, given, found = rows.iloc[0][["metric", "trials", "value_given", "value_found"]]
        title = f"{work.titles[str(label)]}: best of {trials} trials, {metric} {found:.3f} ({given:.3f} as given)"
        settings = rows[["setting", "given", "found"]]
        print_table(title, list(settings), settings.to_numpy().tolist())


def _print_summary(work: ClassifierWork, summarised: pd.DataFrame) -> None:
    active = [name for name in ACTIVE if name in summarised]
    columns = [work.study.metric] if active else list(NAMES)
    headings = [HEADINGS.get(NAMES[name], NAMES[name]) for name in columns] + [ACTIVE[name] for name in active]
    rows = []
    for row in summarised.to_dict("records"):
        main = [_interval(row, name) if name == work.study.metric else f"{row[name]:.3f}" for name in columns]
        rows.append([work.titles[row["entry"]], str(row["n_seeds"]), *main, *(_shown(row, name) for name in active)])
    title = f"test part, mean over seeds ({intervals_text(summarised)})"
    print_table(title, ["entry", "seeds", *headings], rows)
    if highest := highest_entry(summarised, work.titles, work.study.metric):
        print(f"{highest}.")
    for note in summary_notes(summarised, work.titles):
        print(note)


def _print_classes(work: ClassifierWork, table: pd.DataFrame) -> None:
    """Print metrics of each class; of two classes, and of many entries that learn actively, the summary says enough."""
    classes = list(dict.fromkeys(table["class"]))
    if len(classes) < 3 or all(isinstance(entry, ClassifyActiveConfig) for entry in work.entries.values()):
        return
    rows = []
    for label, of_entry in table.groupby("entry", sort=False):
        values = of_entry.set_index("class")[list(PER_CLASS)].reindex(classes).to_numpy()
        shown = [" ".join("-" if math.isnan(value) else f"{value:.2f}" for value in row) for row in values]
        rows.append([work.titles[str(label)], *shown])
    print_table(f"test part by class, mean over seeds: {', '.join(PER_CLASS.values())}", ["entry", *classes], rows)


def _interval(row: Mapping[Any, Any], name: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return f"{row[name]:.3f}" + ("" if math.isnan(low) else f" ({low:.3f} to {high:.3f})")


def _shown(row: Mapping[Any, Any], name: str) -> str:
    value = row[name]
    if math.isnan(value):
        return "-"
    if name == "labels_saved":
        return f"{100 * value:.0f} %"
    return f"{value:.3f}" if name == "area" else f"{value:.0f}"
