"""``metaseg compare``: methods over orders, shots and seeds at equal budgets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from metaseg.config.studies import CompareConfig
from metaseg.errors import RunError, UsageError, recorded_warnings
from metaseg.files import write_json
from metaseg.models.device import make_fabric
from metaseg.studies.data_checks import check_data
from metaseg.studies.display import Display
from metaseg.studies.estimate import print_plan
from metaseg.studies.pairs import at_seconds, both_axes, pairwise
from metaseg.studies.plan import Plan, make_plan
from metaseg.studies.plan_work import as_work
from metaseg.studies.preparation import known_region, prepare
from metaseg.studies.study_metrics import summary
from metaseg.studies.tables import Tables, collect, write_results, write_table
from metaseg.studies.work import Work
from metaseg.studies.workers import Failure, do_units, left_to_do

FAILURES = "failures.json"
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


@dataclass(frozen=True)
class ComparisonResult:
    """What a comparison leaves.

    Attributes:
        study: The study folder.
        results: One row for every evaluation of a case at a mark; empty after a dry run.
        summary: One row for every target, method and number of shots.
    """

    study: Path
    results: pd.DataFrame
    summary: pd.DataFrame


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
        plan = known_region(plan)
        print_plan(plan, str(fabric.device))
        return ComparisonResult(plan.folder, pd.DataFrame(), pd.DataFrame())
    try:
        return _run(plan)
    except KeyboardInterrupt as error:
        # The notes of the runs inside tell how to continue each of them; the study does that by itself.
        error.__notes__ = ["To continue: give the same command again; what is done stays done."]
        raise


def _run(plan: Plan) -> ComparisonResult:
    plan = prepare(plan)
    todo = left_to_do(plan)
    try:
        with Display(plan, todo, plan.study.jobs) as display:
            failures = do_units(plan, todo, display)
    finally:
        # Also of a study that is interrupted, what is there can be looked at.
        tables = collect(plan)
        write_results(plan, tables)
    write_failures(as_work(plan), failures)
    summarised = _write_metrics(plan, tables)
    print_summary(plan, summarised)
    _print_files(plan, tables)
    raise_failures(as_work(plan), failures)
    return ComparisonResult(plan.folder, tables.results, summarised)


def _check_precision(plan: Plan) -> None:
    meta = [entry.label for entry in plan.entries.values() if entry.family == "meta"]
    if plan.study.precision == "16-mixed" and meta:
        raise UsageError(
            f"16-mixed cannot scale the meta-gradients of {meta[0]}", remedy="use --precision bf16-mixed or 32-true"
        )


def _write_metrics(plan: Plan, tables: Tables) -> pd.DataFrame:
    """Write the tables that are computed from the results; gives the summary."""
    region, resamples, folder = str(plan.study.region), plan.study.resamples, plan.folder
    if tables.results.empty:
        return pd.DataFrame()
    summarised = summary(tables.results, region, resamples=resamples)
    write_table(summarised, folder / "summary")
    write_table(pairwise(tables.results, region, resamples=resamples), folder / "pairwise")
    baselines = [label for label, entry in plan.entries.items() if entry.method == "naive"]
    write_table(both_axes(tables.results, region, baselines, resamples=resamples), folder / "both_axes")
    write_table(summary(at_seconds(tables.results, tables.timing), region, resamples=resamples), folder / "seconds")
    return summarised


def print_summary(plan: Plan, summarised: pd.DataFrame) -> None:
    """Print a table for every target and number of shots, methods in the order of the settings file."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for target in plan.targets:
        for shots in plan.study.shots:
            if summarised.empty:
                continue
            rows = summarised[(summarised["target"] == target) & (summarised["shots"] == shots)].set_index("method")
            if rows.empty:
                continue
            seeds = sorted(set(rows["n_seeds"]))
            of_seeds = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
            title = f"{target}, {shots} shots: Dice of {plan.study.region}, mean over {of_seeds} seeds"
            table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
            table.add_column("method")
            for heading in COLUMNS.values():
                table.add_column(heading, justify="right")
            for label, entry in plan.entries.items():
                if label in rows.index:
                    row = rows.loc[label]
                    table.add_row(entry.title, *(_shown(name, float(row[name])) for name in COLUMNS))
            console.print(table)


def _shown(name: str, value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.0f}" if name in ("steps_to_90", "spent") else f"{value:.3f}"


def _print_files(plan: Plan, tables: Tables) -> None:
    cells = sum(1 for _ in plan.cells)
    print(f"{len(tables.cells)} of {cells} cells are done; tables in {plan.folder}:")
    print("  results.csv   every evaluation       summary.csv   metrics with intervals")
    print("  pairwise.csv  methods in pairs       seconds.csv   the summary at equal seconds")
    print("  both_axes.csv who learns the target as well as naive tuning and forgets at most half as much")
    print(f"A page on all of it: metaseg report {plan.folder}")


def write_failures(work: Work, failures: Sequence[Failure]) -> None:
    """Write what went wrong into ``failures.json``; no such file where nothing did."""
    path = work.folder / FAILURES
    if not failures:
        path.unlink(missing_ok=True)
        return
    rows = [
        {"unit": one.unit.name, "folder": str(one.unit.folder), "error": one.error, "details": one.details}
        for one in failures
    ]
    write_json(path, rows)


def raise_failures(work: Work, failures: Sequence[Failure]) -> None:
    """End with an error where units failed.

    Raises:
        RunError: Some did.
    """
    if not failures:
        return
    lines = [f"{len(failures)} of {len(work.units)} units failed, all others are done:"]
    lines += [f"  - {one.unit.name}: {one.error.splitlines()[0]}" for one in failures[:20]]
    lines += [f"  - and {len(failures) - 20} more"] if len(failures) > 20 else []
    raise RunError(
        "\n".join(lines),
        where=work.folder / FAILURES,
        remedy="look there for each error whole; the same command again tries only these",
    )
