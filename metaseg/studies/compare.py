"""``metaseg compare``: methods over orders, shots and seeds at equal budgets."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from metaseg.adapt.choice import read_choice
from metaseg.adapt.watch import read_marks, read_timing
from metaseg.config.io import plain_value
from metaseg.config.options import ALL
from metaseg.config.studies import CompareConfig
from metaseg.errors import UsageError, recorded_warnings
from metaseg.metrics.statistics import FEWEST_SEEDS
from metaseg.models.device import make_fabric
from metaseg.results import Result
from metaseg.runs.manifest import read_manifest
from metaseg.runs.networks import load_network, read_patients
from metaseg.studies.cells import state_of
from metaseg.studies.data_checks import check_data
from metaseg.studies.first_steps import first_steps
from metaseg.studies.pairs import against_best, at_seconds, both_axes, every_pair
from metaseg.studies.papers import print_paper
from metaseg.studies.plan import Plan, make_plan, with_patients
from metaseg.studies.preparation import dry_patients, known_region, prepare_study
from metaseg.studies.search import short
from metaseg.studies.study_metrics import method_summary
from metaseg.studies.tables import TABLE_COLUMNS, TIMING_COLUMNS, write_table
from metaseg.studies.told import AUTO, DECISION_COLUMNS, ONE, TOLD, TOLD_METRICS, told_summary, watched_decisions
from metaseg.studies.workers import Pace, Unit, continued_by_the_same_command, do_what_is_left, raise_failures
from metaseg.terminal import duration, print_table

COLUMNS = {
    "target_after": "target",
    "source_after": "source",
    "forgetting": "forgotten",
    "balanced_mean": "balanced",
    "balanced_area": "area",
    "steps_to_90": "to 90 %",
    "spent": "spent",
}
"""Metrics of the printed table, with their headings."""
WHOLE = ("steps_to_90", "spent")
SPREAD = ("target_after", "source_after")
"""Those that are shown with their spread over patients, as papers report them."""

STATES = {
    "waiting": "waiting for the search",
    "missing": "to do",
    "changed": "to do again, their settings changed",
    "damaged": "to do again, they are damaged",
    "locked": "at work",
    "done": "to do again, their search changed",
    "cut off": "to continue",
}
"""How cells that are left to do stand, in words."""


@dataclass(frozen=True)
class ComparisonResult(Result):
    """What a comparison leaves.

    Attributes:
        study: The study folder.
        results: One row for every evaluation of a case at a mark; empty after a dry run.
        summary: One row for every target, method and number of shots.
    """

    study: Path
    results: pd.DataFrame
    summary: pd.DataFrame

    def table(self) -> pd.DataFrame:
        """The summary."""
        return self.summary


@recorded_warnings()
def run_compare(config: CompareConfig) -> ComparisonResult:
    """Run what is missing of a comparison, and write its tables.

    Args:
        config: All settings; see :class:`~metaseg.config.studies.CompareConfig`.

    Raises:
        UsageError: Settings are wrong, contradict each other or the data.
        DataError: The data cannot be used.
        RunError: The source network cannot be used, or units failed; all others are done then.
    """
    plan = make_plan(config)
    fabric = make_fabric(config.device, config.precision)
    _check_precision(plan)
    check_data(plan)
    if config.dry_run:
        print_plan(known_region(plan), str(fabric.device))
        return ComparisonResult(plan.folder, pd.DataFrame(), pd.DataFrame())
    with continued_by_the_same_command():
        return _run(plan)


def _run(plan: Plan) -> ComparisonResult:
    plan = prepare_study(plan)
    todo = plan.left_to_do()
    try:
        failures = do_what_is_left(plan, todo)
    finally:
        # Also of a study that is interrupted, what is there can be looked at.
        done = [unit for unit in plan.cells if plan.is_done(unit)]
        results, timing = collect(plan, done)
        write_table(results, plan.folder / "results")
        write_table(timing, plan.folder / "timing")
    summarised, told = _write_metrics(plan, results, timing, collect_decisions(plan, done))
    print_summary(plan, summarised)
    print_told(plan, told)
    if plan.study.paper is not None:
        _print_papers(plan, summarised, done)
    print(f"{len(done)} of {sum(1 for _ in plan.cells)} cells are done; tables in {plan.folder}:")
    print("  results.csv    every evaluation")
    print("  summary.csv    metrics with intervals")
    print("  seconds.csv    the summary at equal seconds")
    print("  pairwise.csv   methods in pairs")
    print("  told.csv       one network, disease told, and told by the gate")
    if plan.study.first_marks:
        print("  first_steps.csv  Dice after the first 1, 2, 4, ... updates")
    print("  both_axes.csv  who learns as naive tuning does and forgets half as much at most")
    print(f"A page on all of it: metaseg report {plan.folder}")
    raise_failures(plan, failures)
    return ComparisonResult(plan.folder, results, summarised)


def _check_precision(plan: Plan) -> None:
    meta = [entry.label for entry in plan.entries.values() if entry.family == "meta"]
    if plan.study.precision == "16-mixed" and meta:
        raise UsageError(
            f"16-mixed cannot scale the meta-gradients of {meta[0]}", remedy="use --precision bf16-mixed or 32-true"
        )


def collect(plan: Plan, cells: Sequence[Unit]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables of results and timing of finished cells: ``TABLE_COLUMNS`` and ``TIMING_COLUMNS``."""
    results, times = [], []
    # Cells of earlier versions watched the patients who chose the network's weights, too.
    hidden = load_network(plan.network).seen.before(plan.study.test_part) if cells else frozenset()
    for cell in cells:
        folder, family = plan.folder / cell.folder, plan.entries[cell.label].family
        shots = cell.shots if cell.shots != ALL else len({row.patient for row in read_patients(folder)["train"]})
        named = {"target": cell.target, "method": cell.label, "shots": shots, "seed": cell.seed}
        for row in read_marks(folder):
            if row["domain"] == "source" and row["patient"] in hidden:
                continue
            measured = {name: float(row[name] or math.nan) for name in ("update", "dice")}
            results.append({**row, **named, "family": family, "work": int(row["step"]), **measured})
        for row in read_timing(folder):
            times.append({**named, "work": int(row["step"]), "seconds": float(row["seconds"])})
    return pd.DataFrame(results, columns=list(TABLE_COLUMNS)), pd.DataFrame(times, columns=list(TIMING_COLUMNS))


def collect_decisions(plan: Plan, cells: Sequence[Unit]) -> pd.DataFrame:
    """What the gates of finished cells decided on the cases that they watch: ``DECISION_COLUMNS``."""
    rows = [
        {"target": cell.target, "method": cell.label, "shots": cell.shots, "seed": cell.seed} | decision
        for cell in cells
        for decision in watched_decisions(plan.folder / cell.folder)
    ]
    return pd.DataFrame(rows, columns=list(DECISION_COLUMNS))


def _write_metrics(
    plan: Plan, results: pd.DataFrame, timing: pd.DataFrame, decisions: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write the tables that are computed from the results; gives the summary, and that with the disease told."""
    if results.empty:
        return pd.DataFrame(), pd.DataFrame()
    region, resamples = str(plan.study.region), plan.study.resamples
    baselines = [label for label, entry in plan.entries.items() if entry.method == "naive"]
    summarised = method_summary(results, region, resamples=resamples)
    tables = {
        "summary": summarised,
        "pairwise": every_pair(results, region, resamples=resamples),
        "both_axes": both_axes(results, region, baselines, resamples=resamples),
        "seconds": method_summary(at_seconds(results, timing), region, resamples=resamples),
    }
    if not (steps := first_steps(results, region, next(iter(baselines), None), resamples=resamples)).empty:
        tables["first_steps"] = steps
    tables["told"] = told_summary(results, decisions, region, resamples=resamples)
    for name, table in tables.items():
        write_table(table, plan.folder / name)
    return summarised, tables["told"]


def print_summary(plan: Plan, summarised: pd.DataFrame) -> None:
    """Print a table for every target and number of shots, methods in the order of the settings file."""
    if summarised.empty:
        return
    for target in plan.targets:
        for shots, of_shots in summarised[summarised["target"] == target].groupby("shots"):
            rows = of_shots.set_index("method")
            least, most = rows["n_seeds"].min(), rows["n_seeds"].max()
            of_seeds = f"{least}" if least == most else f"{least} to {most}"
            print_table(
                f"{target}, {shots} shots: Dice of {plan.study.region} ± standard deviation over patients, "
                f"mean over {of_seeds} seeds",
                ["method", *COLUMNS.values()],
                [
                    [entry.title, *(_shown(name, rows.loc[label]) for name in COLUMNS)]
                    for label, entry in plan.entries.items()
                    if label in rows.index
                ],
            )
            print_notes(plan, rows)
    print_choices(plan)


def print_choices(plan: Plan) -> None:
    """Say what the choices of settings took beside the budget, which is equal for all."""
    work: dict[str, list[int]] = {}
    for cell in plan.cells:
        if plan.config(cell).effort != "none" and plan.is_done(cell):
            choice = read_choice(plan.folder / cell.folder)
            work.setdefault(plan.entries[cell.label].title, []).append(choice["slice_gradients"] if choice else 0)
    for title, spent in work.items():
        print(
            f"{title} chose its settings in every cell, with {np.mean(spent):,.0f} slice gradients beside the budget "
            f"of {plan.study.budget:,}."
        )


def print_told(plan: Plan, told: pd.DataFrame) -> None:
    """Print what every method gives with the disease told, and with the gates; the tables above are of one network."""
    if told.empty:
        return
    shown = {name: COLUMNS[name] for name in TOLD_METRICS} | {
        "error_source": "source cases taken for target",
        "error_target": "and target for source",
    }
    for (target, shots), rows in told[told["network"] != ONE].groupby(["target", "shots"], sort=False):
        rows = rows.set_index(["method", "network"])
        print_table(
            f"{target}, {shots} shots, disease told, or told by the gates: Dice of {plan.study.region}",
            ["method", "", *shown.values()],
            [
                [entry.title, network, *(_shown(name, rows.loc[label, network]) for name in shown)]
                for label, entry in plan.entries.items()
                for network in (TOLD, AUTO)
                if (label, network) in rows.index
            ],
        )


def print_notes(plan: Plan, rows: pd.DataFrame) -> None:
    """Print what the highest balanced mean of a table is worth, and over what its intervals are where seeds are few."""
    order = rows["balanced_mean"].dropna().sort_values(ascending=False).index
    if len(order) > 1:
        others = {plan.entries[label].title: rows.loc[label, "balanced_mean_p_best"] for label in order[1:]}
        print(f"Highest balanced mean: {plan.entries[order[0]].title}, {against_best('higher', others)}.")
    if (rows["n_seeds"] < FEWEST_SEEDS).any():
        print(f"Fewer than {FEWEST_SEEDS} seeds: intervals and tests are over patients alone, for these seeds.")


def _print_papers(plan: Plan, summarised: pd.DataFrame, done: Sequence[Unit]) -> None:
    """Print the paper's results beside ours, for every target and number of shots."""
    synthetic = any(read_manifest(plan.folder / cell.folder).get("synthetic") for cell in done)
    for (target, shots), rows in summarised.groupby(["target", "shots"], sort=False):
        of = f"Dice of {plan.study.region}, {target}, {shots} shots"
        print_paper(str(plan.study.paper), rows, synthetic, named="method", of=of)


def _shown(name: str, row: pd.Series) -> str:
    value, spread = float(row[name]), float(row.get(f"{name}_sd", math.nan))
    if math.isnan(value):
        return "-"
    if name in WHOLE:
        return f"{value:.0f}"
    return f"{value:.3f}" if name not in SPREAD or math.isnan(spread) else f"{value:.3f} ± {spread:.3f}"


def print_plan(plan: Plan, device: str) -> None:
    """Print what ``--dry-run`` asks for: what every entry does and has done, and the cost of the rest. Writes nothing.

    Args:
        plan: The comparison.
        device: Where it would run.
    """
    plan = with_patients(plan, dry_patients(plan))
    todo = plan.left_to_do()
    print(f"study {plan.folder}")
    state = "" if plan.pretrain is None else f": pretraining {state_of(plan.network, plan.pretrain, plan.folder)}"
    print(f"source network {plan.network}{state}")
    for target in plan.targets:
        print(f"\ntarget {target}")
        oracle = Unit("oracle", target)
        if oracle in plan.units:
            word = "to do" if oracle in todo else "done"
            print(f"  oracle: naive tuning on all patients of the training part, {word}")
        for label in plan.entries:
            _print_entry(plan, target, label, todo)
    _print_cost(plan, todo, device)


def _print_entry(plan: Plan, target: str, label: str, todo: list[Unit]) -> None:
    entry = plan.entries[label]
    cells = [unit for unit in plan.cells if (unit.target, unit.label) == (target, label)]
    left = [unit for unit in cells if unit in todo]
    settings = ", ".join(f"{name}={plain_value(value)}" for name, value in entry.settings.items())
    print(f"  {label}: {entry.method}{f' ({settings})' if settings else ''}")
    if plan.is_searched(label) and entry.searched_as != label:
        print(f"    takes the values that the search of {entry.searched_as} finds")
    elif plan.is_searched(label):
        search = plan.search(Unit("search", target, label))
        space = ", ".join(parameter.text() for parameter in entry.space.values())
        best = search.found()
        found = "to do" if best is None else "best " + ", ".join(f"{name}={short(best[name])}" for name in best)
        print(f"    {search.trials} trials: {space}; {found}")
    states = Counter(STATES[plan.state(unit)] for unit in left)
    done = len(cells) - len(left)
    print(f"    {len(cells)} cells, {done} done" + "".join(f", {count} {word}" for word, count in states.items()))


def _print_cost(plan: Plan, todo: list[Unit], device: str) -> None:
    study, kinds = plan.study, Counter(unit.kind for unit in todo)
    trials = study.trials * kinds["search"]
    runs = kinds["cell"] + trials + kinds["oracle"]
    evaluations = (study.marks + study.first_marks + 1) * kinds["cell"] + 2 * (runs - kinds["cell"])
    print(f"\nleft to do: {kinds['cell']} cells, {trials} trials in {kinds['search']} searches")
    print(f"  {runs * study.budget} slice gradient evaluations ({study.budget} in each run)")
    print(f"  {evaluations} evaluations of all watched patients")
    seconds = Pace(plan).seconds(todo)
    if not todo:
        print("  nothing: all is done")
    elif seconds is None:
        print("  no run is done yet that would tell the time")
    else:
        jobs = min(study.jobs, len(todo))
        print(f"  about {duration(seconds / jobs)} in {jobs} {'process' if jobs == 1 else 'processes'} on {device}")
