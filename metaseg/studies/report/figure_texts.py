"""The sentences that open a report on segmentation."""

from __future__ import annotations

import math

import pandas as pd

from metaseg.studies.report.analysis import Analysis, Group
from metaseg.studies.report.numbers import LEVEL, number, p_value, with_interval


def findings(analysis: Analysis) -> list[str]:
    """What the figures say, a few sentences a target; no difference is claimed that its test does not carry."""
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
        _verdict(analysis.work.test(group, method, figure), more, less, what)
        for figure, more, less, what in (
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
