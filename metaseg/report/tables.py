"""The tables of the report: all methods at equal work and at equal seconds, and the paper's table beside ours.

The sentences that open a report on segmentation.
"""

from __future__ import annotations

import math

import pandas as pd

from metaseg.report.analysis import Analysis, Comparison, Group
from metaseg.report.blocks import LEVEL, Cell, Column, Row, Table, interval, number, p_value, with_interval
from metaseg.studies.pairs import SHARE


def findings(analysis: Analysis) -> list[str]:
    """What the metrics say, a few sentences a target; no difference is claimed that its test does not carry."""
    told = [_finding(analysis, group) for group in analysis.main_groups]
    return [text for text in told if text]


def _finding(analysis: Analysis, group: Group) -> str:
    methods = analysis.methods(group)
    best = analysis.work.row(group, methods[0])
    if best is None:
        return ""
    if len(methods) == 1:
        return _one_method(analysis, group, best)
    if math.isnan(best["balanced_mean"]):
        return f"{group.title}: no source patients were watched, so that nothing can be said of forgetting."
    rows = group.of(analysis.work.summary).set_index("method")
    within = [name for name in methods[1:] if rows.loc[name, "balanced_mean"] >= best["balanced_mean_low"]]
    text = (
        f"{group.title}: of {len(methods)} methods, {methods[0]} has the highest balanced mean of target and source "
        f"Dice {analysis.region}, {with_interval(best, 'balanced_mean')}"
    )
    if within:
        text += f"; {_listed(within)} {'lies' if len(within) == 1 else 'lie'} within that interval"
    text += ". " + _against_reference(analysis, group, methods[0])
    return text + _least_forgetting(analysis, group, rows) + _how_many(best)


def _against_reference(analysis: Analysis, group: Group, method: str) -> str:
    reference = analysis.roles.reference
    if method == reference:
        return ""
    told = [
        _verdict(analysis.work.test(group, method, metric), more, less, what)
        for metric, more, less, what in (
            ("target_after", "is higher", "is lower", "its target Dice"),
            ("forgetting", "is greater", "is smaller", "its forgetting"),
        )
    ]
    return f"Against {reference}: {'; '.join(text for text in told if text)}. " if any(told) else ""


def _verdict(test: pd.Series | None, more: str, less: str, what: str) -> str:
    if test is None:
        return ""
    if math.isnan(test["p_holm"]):
        return f"{what} was not tested (too few patients)"
    p = p_value(test["p_holm"])
    p = f"p {p}" if p.startswith("<") else f"p = {p}"
    if test["p_holm"] >= LEVEL:
        return f"{what} is not shown to differ ({p}, Holm)"
    difference = number(abs(test["mean_difference"]))
    return f"{what} {more if test['mean_difference'] > 0 else less} by {difference} ({p}, Holm)"


def _least_forgetting(analysis: Analysis, group: Group, rows: pd.DataFrame) -> str:
    known = rows.dropna(subset=["forgetting"])
    if known.empty:
        return ""
    least = str(known["forgetting"].idxmin())
    text = f"Least source Dice is forgotten by {least}, {with_interval(known.loc[least], 'forgetting')}"
    reference = analysis.roles.reference
    if least != reference and reference in known.index:
        text += f" ({reference}: {with_interval(known.loc[reference], 'forgetting')})"
        if least != analysis.methods(group)[0]:
            test = analysis.work.test(group, least, "forgetting")
            verdict = _verdict(test, "is greater", "is smaller", f"against {reference} its forgetting")
            text += f"; {verdict}" if verdict else ""
    return text + ". "


def _one_method(analysis: Analysis, group: Group, row: pd.Series) -> str:
    text = (
        f"{group.title}: target Dice {analysis.region} {number(row['target_before'])} before and "
        f"{with_interval(row, 'target_after')} after"
    )
    if not math.isnan(row["forgetting"]):
        text += (
            f"; source Dice {number(row['source_before'])} before and {with_interval(row, 'source_after')} after, "
            f"{with_interval(row, 'forgetting')} forgotten"
        )
    return text + ". " + _how_many(row).strip()


def _how_many(row: pd.Series) -> str:
    seeds = int(row["n_seeds"])
    patients = f"{int(row['n_target_patients'])} target and {int(row['n_source_patients'])} source patients"
    if seeds == 1:
        return f"One seed, {patients}: the intervals hold for this draw of labelled patients alone."
    return f"{seeds} seeds, {patients}."


def _listed(names: list[str]) -> str:
    if len(names) > 4:
        return f"{len(names)} other methods"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


PAPER = (
    ("pretrained, on BraTS", None, "0.66"),
    ("naive", "naive", "0.33 ± 0.34"),
    ("passive", "passive", "0.41 ± 0.28"),
    ("active", "active", "0.45 ± 0.23"),
)
"""Row, our name of its method, and enhancing-tumour Dice (mean ± SD over patients) of Han et al. 2018."""

_DICE = (
    Column("target before", "Mean Dice on the target's patients before tuning; below it the SD over patients."),
    Column("target after", "The same at the end; below it the 95 % interval and the SD over patients."),
    Column("source before", "Mean Dice on the source's patients before tuning."),
    Column("source after", "The same at the end."),
    Column("forgotten", "Source Dice before minus after; positive means lost."),
)
_MORE = (
    Column("backward transfer", "Source Dice after minus before: the negative of what was forgotten."),
    Column("forward transfer", "Target Dice before tuning minus that of a network trained from scratch."),
    Column("balanced mean", "Mean of target and source Dice at the end."),
    Column("area", "Area under the retention curves over the work, mean of target and source."),
    Column("steps to 90 %", "Work at which a run reaches 90 % of its own final target Dice."),
)
_TESTS = (
    Column("p target", "Paired Wilcoxon over patients against the reference, target Dice, Holm-corrected."),
    Column("p forgotten", "The same for what was forgotten."),
)

COLUMNS = (*_DICE, *_MORE, *_TESTS)
"""Columns of the table at equal work, behind the method."""


def work_table(analysis: Analysis, group: Group) -> Table:
    """All methods of a group at equal work, the best balanced mean first."""
    alone = analysis.work.tests.empty
    columns = [Column("method", number=False), *(COLUMNS[: -len(_TESTS)] if alone else COLUMNS)]
    rows = []
    for method in analysis.methods(group):
        row = analysis.work.row(group, method)
        if row is not None:
            cells = [_method(analysis, row), *_dice_cells(row), *_more_cells(row)]
            tests = [] if alone else _test_cells(analysis.work, group, method)
            rows.append(Row([*cells, *tests], _role(analysis, method)))
    caption = f"{group.title}: Dice {analysis.region}"
    if not alone:
        caption += f" at equal work, sorted by balanced mean; p against {analysis.roles.reference}"
    return Table(caption, columns, rows)


def seconds_table(analysis: Analysis, group: Group) -> Table | None:
    """All methods of a group at equal seconds; None where the seconds are not known."""
    if analysis.seconds is None:
        return None
    cut = group.of(analysis.seconds_table)
    columns = [
        Column("method", number=False),
        Column("runs that got there", "Runs that computed as long; the others count with their last mark."),
        Column("work done", "Slice gradient evaluations by then."),
        *_DICE[1:2],
        *_DICE[3:],
        _MORE[2],
        *_TESTS,
    ]
    overview = group.of(analysis.seconds.summary).sort_values("balanced_mean", ascending=False, na_position="last")
    rows = []
    for _, row in overview.iterrows():
        method = str(row["method"])
        runs = cut[cut["method"] == method].groupby("seed")["reached"].all()
        dice = _dice_cells(row)
        cells = [
            _method(analysis, row),
            Cell(f"{int(runs.sum())} of {len(runs)}"),
            Cell(number(row["spent"], 0)),
            dice[1],
            *dice[3:],
            _interval_cell(row, "balanced_mean"),
            *_test_cells(analysis.seconds, group, method),
        ]
        rows.append(Row(cells, _role(analysis, method)))
    caption = (
        f"{group.title}: Dice {analysis.region} at equal seconds of computing ({number(_seconds(cut), 1)} s, as long "
        "as the quickest method took for its whole budget), sorted by balanced mean"
    )
    return Table(caption, columns, rows)


def both_axes_table(analysis: Analysis, group: Group) -> Table | None:
    """Who is as good as the reference on the target and forgets at most half as much; None with one method only."""
    rows = group.of(analysis.both)
    # A training from random weights has nothing to forget.
    rows = rows[~rows["method"].isin(analysis.roles.floors)].sort_values(["both", "gain"], ascending=False)
    if rows.empty:
        return None
    reference = analysis.roles.reference
    columns = [
        Column("method", number=False),
        Column("target gain", f"Final target Dice minus that of {reference}."),
        Column("p", "Paired Wilcoxon over patients, not corrected."),
        Column("forgotten"),
        Column("spared", f"What {reference} forgot minus what the method forgot."),
        Column("p"),
        Column(f"half of {reference}'s"),
        Column("excess", "Forgotten minus that half; negative keeps within it."),
        Column("p"),
        Column("both", "Gain of at least 0, and excess below 0 with p < 0.05.", number=False),
    ]
    table = []
    for _, row in rows.iterrows():
        cells = [Cell(str(row["method"]))]
        cells += [_interval_cell(row, "gain", sign=True), _p_cell(row["gain_p"])]
        cells += [Cell(number(row["forgotten"], sign=True))]
        cells += [_interval_cell(row, "spared", sign=True), _p_cell(row["spared_p"])]
        cells.append(Cell(number(SHARE * row["forgotten_by_baseline"])))
        cells += [_interval_cell(row, "excess", sign=True), _p_cell(row["excess_p"])]
        cells.append(Cell("yes" if row["both"] else "no", strong=bool(row["both"])))
        table.append(Row(cells, _role(analysis, str(row["method"]))))
    return Table(
        f"{group.title}: target Dice as good as {reference}'s, and at most half of it forgotten", columns, table
    )


def paper_table(analysis: Analysis, groups: list[Group]) -> Table:
    """The paper's four metrics, and ours of the methods that have its settings."""
    columns = [Column("method", number=False), Column("Han et al. 2018"), *(Column(group.title) for group in groups)]
    rows = []
    for title, name, published in PAPER:
        method = analysis.roles.paper.get(name) if name else analysis.roles.reference
        cells = [Cell(title), Cell(published)]
        for group in groups:
            row = analysis.work.row(group, method) if method else None
            metric = "target_after" if name else "source_before"
            cells.append(Cell("–") if row is None else Cell(_mean_sd(row, metric), interval(row, metric)))
        role = analysis.roles.colours.get(method, "") if name and method else ""
        rows.append(Row(cells, role if role != "other" else ""))
    return Table(
        f"Enhancing-tumour Dice of the paper (mean ± SD over patients) beside Dice {analysis.region} here",
        columns,
        rows,
    )


def _dice_cells(row: pd.Series) -> list[Cell]:
    before = [Cell(number(row[name]), _sd(row, name)) for name in ("target_before", "source_before")]
    after = [_interval_cell(row, name, sd=True) for name in ("target_after", "source_after")]
    return [before[0], after[0], before[1], after[1], _interval_cell(row, "forgetting", sign=True)]


def _more_cells(row: pd.Series) -> list[Cell]:
    return [
        Cell(number(row["backward_transfer"], sign=True)),
        _interval_cell(row, "forward_transfer", sign=True),
        _interval_cell(row, "balanced_mean", strong=True),
        _interval_cell(row, "balanced_area"),
        Cell(number(row["steps_to_90"], 0)),
    ]


def _test_cells(compared: Comparison, group: Group, method: str) -> list[Cell]:
    cells = []
    for metric in ("target_after", "forgetting"):
        test = compared.test(group, method, metric)
        if test is None:
            cells.append(Cell("–"))
            continue
        sure = not math.isnan(test["p_holm"]) and test["p_holm"] < LEVEL
        cells.append(Cell(p_value(test["p_holm"]), f"{number(test['mean_difference'], sign=True)}", strong=sure))
    return cells


def _p_cell(p: float) -> Cell:
    return Cell(p_value(p), strong=not math.isnan(p) and p < LEVEL)


def _interval_cell(row: pd.Series, metric: str, sd: bool = False, sign: bool = False, strong: bool = False) -> Cell:
    small = [interval(row, metric), _sd(row, metric) if sd else ""]
    return Cell(number(row[metric], sign=sign), "\n".join(text for text in small if text), strong)


def _sd(row: pd.Series, metric: str) -> str:
    value = row[f"{metric}_sd"]
    return "" if math.isnan(value) else f"SD {number(value)}"


def _mean_sd(row: pd.Series, metric: str) -> str:
    value = row[f"{metric}_sd"]
    return number(row[metric], 2) + ("" if math.isnan(value) else f" ± {number(value, 2)}")


def _method(analysis: Analysis, row: pd.Series) -> Cell:
    method, seeds = str(row["method"]), int(row["n_seeds"])
    return Cell(method, f"{analysis.families.get(method, '')}, {seeds} seed{'s' if seeds != 1 else ''}")


def _role(analysis: Analysis, method: str) -> str:
    return analysis.roles.colours.get(method, "other")


def _seconds(cut: pd.DataFrame) -> float:
    """Where the runs were cut: the last moment of those that came so far."""
    reached = cut[cut["reached"].astype(bool)]
    return float(reached["seconds"].max()) if len(reached) else math.nan
