"""Tables of a comparison of classifiers: means with intervals, paired tests and charts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from metaseg.classify.fitting import METRICS, NAMES
from metaseg.classify.rounds import CURVE_NAME, PARTS, read_curve
from metaseg.files import FileKind, read_frame, read_json
from metaseg.inference.classification_files import PREDICTIONS
from metaseg.metrics.classification import weighted_metrics
from metaseg.metrics.curves import area_under_budget_curve, labels_saved, labels_to_reach
from metaseg.metrics.probabilities import predicted_classes
from metaseg.metrics.statistics import (
    FEWEST_SEEDS,
    SAME,
    draw_seeds,
    draw_weights,
    holm,
    interval_over,
    known_deviation,
    p_against_best,
    paired_wilcoxon,
    percentile_interval,
    seeds_interval,
)
from metaseg.pictures.charts import chart_file, draw_bands, draw_intervals, series_roles
from metaseg.runs.session import RESULT_NAME
from metaseg.studies.classifiers.plan import ClassifierWork
from metaseg.studies.pairs import against_best
from metaseg.studies.tables import intervals_text
from metaseg.studies.workers import Unit

OF_CLASSES = ("precision", "recall")
"""Metrics of single classes whose least over the classes is summarised."""
CURVE_COLUMNS = ("entry", "seed", "round", "labels", "part", *METRICS)


@dataclass(frozen=True)
class Predictions:
    """What one run predicted of its test part.

    Attributes:
        probabilities: ``(n, c)``.
        labels: ``(n,)``.
        patients: ``(n,)``.
        classes: Names of the classes.
        pictures: Whether they are single pictures, each taken for a patient of its own (copies of one together).
    """

    probabilities: np.ndarray
    labels: np.ndarray
    patients: np.ndarray
    classes: tuple[str, ...]
    pictures: bool = False

    @property
    def one_class(self) -> str:
        """The class that all were given; empty where there are several, as there should be."""
        given = np.unique(predicted_classes(self.probabilities))
        return self.classes[given[0]] if len(given) == 1 and len(np.unique(self.labels)) > 1 else ""

    @property
    def accuracies(self) -> pd.Series:
        """Share of each patient's slices that were right."""
        right = self.probabilities.argmax(axis=1) == self.labels
        return pd.Series(right.astype(float)).groupby(self.patients).mean()


def predictions_in(folder: Path) -> Predictions | None:
    """The predictions that an evaluation wrote into a folder; None if there are none."""
    path = folder / PREDICTIONS
    if not path.exists():
        return None
    kind = FileKind("the predictions of an evaluation", "evaluate the run again")
    table = read_frame(path, kind, ("slice", "patient", "truth", "predicted"))
    classes = tuple(name.removeprefix("prob_") for name in table.columns if name.startswith("prob_"))
    chances = table[[f"prob_{name}" for name in classes]].apply(pd.to_numeric, errors="coerce")
    probabilities = chances.to_numpy(np.float64)
    if not (np.isfinite(probabilities).all() and (probabilities >= 0).all() and (probabilities.sum(axis=1) > 0).all()):
        raise kind.refuse("the probabilities are no probabilities", path)
    probabilities = probabilities / probabilities.sum(axis=1, keepdims=True)
    if not table["truth"].isin(classes).all():
        raise kind.refuse("a true class is none of those with a probability", path)
    labels = table["truth"].map({name: number for number, name in enumerate(classes)}).to_numpy(np.int64)
    # The slices of a volume are numbered behind the name of their case.
    pictures = "case" in table and bool((table["case"] == table["slice"]).all())
    return Predictions(probabilities, labels, table["patient"].to_numpy(str), classes, pictures)


def curve_rows(work: ClassifierWork, cells: Sequence[Unit]) -> pd.DataFrame:
    """Every metric of active learning in every round, ``CURVE_COLUMNS``."""
    tables = []
    for cell in cells:
        path = work.folder / cell.folder / CURVE_NAME
        if path.exists():
            table = read_curve(path)
            tables.append(table.assign(entry=cell.label, seed=cell.seed)[list(CURVE_COLUMNS)])
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(CURVE_COLUMNS))


def entry_summary(
    work: ClassifierWork, predictions: dict[Unit, Predictions], curves: pd.DataFrame, baseline: str
) -> pd.DataFrame:
    """One row for each entry: final metrics on the test part, and for active learning what its labels were worth.

    Args:
        work: The comparison.
        predictions: Of the finished cells.
        curves: As from :func:`curve_rows`.
        baseline: Entry against which labels are counted as saved.

    Returns:
        ``entry``; ``base``, what its networks began with; ``n_seeds``; ``unit``, ``patient`` or ``picture``, and
        ``n_units``, how many a seed's test part has; ``interval_over``, what the intervals draw; ``one_class``, the
        seeds whose network gave one class to all test slices; ``positive``, the second of two classes; the metrics of
        :class:`ResampledMetrics` and of :func:`label_metrics`, with ``labels_saved_p_holm``, corrected for all entries;
        ``<metric>_p_best``, the study's metric against the highest
        (:func:`~metaseg.metrics.statistics.p_against_best`), NaN for the highest itself and for entries with fewer
        than three seeds or six units.
    """
    rows, runs, samples, metric = [], list[pd.Series](), list[np.ndarray](), work.study.metric
    for label in work.entries:
        of_seeds = {cell.seed: found for cell, found in predictions.items() if cell.label == label}
        if not of_seeds:
            continue
        drawn = resample_metrics(of_seeds, work.study.resamples)
        named = {"entry": label, "base": work.base(label), "n_seeds": len(of_seeds)}
        row = {**named, **_of_what(of_seeds), **drawn.row()}
        runs.append(pd.Series(drawn.values[metric], sorted(of_seeds)))
        samples.append(drawn.of_patients[metric])
        rows.append({**row, **label_metrics(curves, label, baseline, metric, work.study.resamples)})
    table = pd.DataFrame(rows)
    if "labels_saved_p" in table:
        table["labels_saved_p_holm"] = holm(table["labels_saved_p"].to_numpy(np.float64))
    if rows:
        of_seeds = pd.concat(runs, axis=1).to_numpy(np.float64)
        table[f"{metric}_p_best"] = p_against_best(of_seeds, np.stack(samples, axis=1), int(table["n_units"].min()))
    return table


def _of_what(of_seeds: Mapping[int, Predictions]) -> dict[str, Any]:
    """What the metrics of an entry are of, and over what their intervals are."""
    unit = "picture" if all(found.pictures for found in of_seeds.values()) else "patient"
    units = min(len(np.unique(found.patients)) for found in of_seeds.values())
    degenerate = sum(bool(found.one_class) for found in of_seeds.values())
    over = interval_over(units, len(of_seeds), unit)
    classes = next(iter(of_seeds.values())).classes
    positive = {"positive": classes[1]} if len(classes) == 2 else {}
    return {"unit": unit, "n_units": units, "interval_over": over, "one_class": degenerate, **positive}


def summary_metrics(classes: Sequence[str]) -> dict[str, str]:
    """The metrics of a summary, with their names in :func:`~metaseg.metrics.classification.weighted_metrics`.

    Those of ``METRICS``; ``precision_least`` and ``recall_least``, those of the class that has the lowest; with two
    classes also precision, recall and F1 of the second, the positive one, and the specificity, which is the recall of
    the first.
    """
    names = METRICS | {f"{metric}_least": f"{metric}_least" for metric in OF_CLASSES}
    if len(classes) != 2:
        return names
    negative, positive = classes
    of_class = {f"{name}_positive": f"{name}/{positive}" for name in ("precision", "recall", "f1")}
    return {**names, **of_class, "specificity": f"recall/{negative}"}


@dataclass(frozen=True)
class ResampledMetrics:
    """The metrics of an entry.

    Attributes:
        values: Of each seed, ``(seed,)``, by the names of :func:`summary_metrics`.
        samples: Their mean over seeds in every resample, ``(resample,)``.
        of_patients: The same where patients alone are drawn.
        units: Patients of a seed, the fewest.
    """

    values: Mapping[str, np.ndarray]
    samples: Mapping[str, np.ndarray]
    of_patients: Mapping[str, np.ndarray]
    units: int

    def row(self) -> dict[str, float]:
        """Mean over seeds of each metric and its intervals.

        Returns:
            For every name of :func:`summary_metrics`: ``NAME``, the mean over seeds; ``NAME_low`` and ``NAME_high``,
            its 95 % interval over patients and seeds, over patients alone with fewer than three seeds, NaN with fewer
            than two patients; ``NAME_sd_seeds``, its deviation over seeds, and ``NAME_low_seeds`` and
            ``NAME_high_seeds``, Student's interval over seeds on these patients, NaN with fewer than three.
        """
        row: dict[str, float] = {}
        for name, values in self.values.items():
            low, high = percentile_interval(self.samples[name]) if self.units > 1 else (math.nan, math.nan)
            row |= {name: float(np.mean(values)), f"{name}_low": low, f"{name}_high": high}
            row[f"{name}_sd_seeds"] = known_deviation(values)
            row[f"{name}_low_seeds"], row[f"{name}_high_seeds"] = seeds_interval(values)
        return row


def resample_metrics(of_seeds: Mapping[int, Predictions], resamples: int) -> ResampledMetrics:
    """The metrics of every seed, and their means in resamples of patients and seeds.

    The bootstrap draws seeds (with fewer than three it takes each once), and patients with all their slices: the same
    draw for all seeds where their test patients are the same, one for each where every seed has its own. All entries
    draw alike, so that their resamples are paired.
    """
    rng = np.random.default_rng(0)
    names = summary_metrics(next(iter(of_seeds.values())).classes)
    values: dict[str, list[float]] = {name: [] for name in names}
    resampled: dict[str, list[np.ndarray]] = {name: [] for name in names}
    units = []
    for found, weights in slice_weights(of_seeds, resamples, rng):
        units.append(len(np.unique(found.patients)))
        metrics = weighted_metrics(found.probabilities, found.labels, weights, found.classes)
        for metric in OF_CLASSES:
            metrics[f"{metric}_least"] = np.fmin.reduce([metrics[f"{metric}/{name}"] for name in found.classes])
        for name, full in names.items():
            values[name].append(float(metrics[full][0]))
            resampled[name].append(metrics[full][1:])
    of_draws = draw_seeds(len(units), resamples, rng)
    drawn_with = {name: np.stack(of_all, axis=1) for name, of_all in resampled.items()}
    return ResampledMetrics(
        values={name: np.array(of_all) for name, of_all in values.items()},
        samples={name: (of_all * of_draws).sum(axis=1) / len(units) for name, of_all in drawn_with.items()},
        of_patients={name: of_all.mean(axis=1) for name, of_all in drawn_with.items()},
        units=min(units),
    )


def slice_weights(
    of_seeds: Mapping[int, Predictions], resamples: int, rng: np.random.Generator
) -> Iterator[tuple[Predictions, np.ndarray]]:
    """Each seed's predictions in order, and how often each of their slices counts: ``(1 + resamples, slice)``.

    The first row counts each slice once. Patients are drawn with all their slices, alike for all seeds where their test
    patients are the same.
    """
    seeds = sorted(of_seeds)
    first = np.unique(of_seeds[seeds[0]].patients)
    shared = all(np.array_equal(np.unique(found.patients), first) for found in of_seeds.values())
    common = draw_weights(len(first), resamples, rng)
    for found in (of_seeds[seed] for seed in seeds):
        names, of_slice = np.unique(found.patients, return_inverse=True)
        drawn = common if shared else draw_weights(len(names), resamples, rng)
        yield found, np.concatenate([np.ones((1, len(of_slice))), drawn[:, of_slice]])


def with_steps(work: ClassifierWork, summarised: pd.DataFrame) -> pd.DataFrame:
    """A summary with the optimiser steps of each entry's finished trainings, the mean over seeds and folds.

    Returns:
        The summary with ``steps``, and ``steps_before``, those of the entry that it starts from; NaN for active
        learning, whose rounds are trainings of their own.
    """
    if not len(summarised):
        return summarised
    steps = {label: _mean_steps(work, label) for label in work.entries}
    before = {
        cell.label: steps[parent.label] if (parent := work.parent(cell)) and parent.kind == "cell" else 0.0
        for cell in work.cells
    }
    return summarised.assign(steps=summarised["entry"].map(steps), steps_before=summarised["entry"].map(before))


def _mean_steps(work: ClassifierWork, label: str) -> float:
    kind = FileKind("the result of a training")
    files = [work.folder / cell.folder / RESULT_NAME for cell in work.cells if cell.label == label]
    steps = [read_json(path, kind).get("steps") for path in files if path.exists()]
    return float(np.mean(steps)) if steps and None not in steps else math.nan


def label_metrics(curves: pd.DataFrame, label: str, baseline: str, metric: str, resamples: int) -> dict[str, float]:
    """What the labels of active learning were worth: area, and labels for the baseline's final metric.

    Intervals are over seeds, NaN with fewer than three, like ``labels_saved_p``: twice the share of resamples that save
    nothing, or of those that save something if these are fewer. The metric that is to be reached is the baseline's mean
    over seeds at its end; of the baseline itself there are the labels at which it was there first.
    """
    mine, theirs = (list(seed_curves(curves, name, metric).values()) for name in (label, baseline))
    if not mine:
        return {}
    rng = np.random.default_rng(0)
    areas = [area_under_budget_curve(curve.index, curve.to_numpy()) for curve in mine if len(curve) > 1]
    row = {"labels": float(max(curve.index[-1] for curve in mine))}
    if areas:
        draws = draw_weights(len(areas), resamples, rng) @ np.array(areas) / len(areas)
        low, high = percentile_interval(draws) if len(areas) >= FEWEST_SEEDS else (math.nan, math.nan)
        row |= {"area": float(np.mean(areas)), "area_low": low, "area_high": high}
    if not theirs or len(mean_curve(mine)) < 2 or len(mean_curve(theirs)) < 2:
        return row
    worth = labels_worth(mine, theirs, rng, resamples)
    return row | ({"labels_needed": worth["labels_needed"]} if label == baseline else worth)


def labels_worth(
    mine: Sequence[pd.Series], theirs: Sequence[pd.Series], rng: np.random.Generator, resamples: int
) -> dict[str, float]:
    """Labels that an entry needs for the metric with which another one ends, and the fraction that it saves.

    Args:
        mine: Curves of the entry's seeds: metric by number of labels.
        theirs: Those of the other one; of a training on all labels, a single point each.
        rng: Draws the seeds.
        resamples: Resamples, of which 500 at most are drawn.

    Returns:
        ``labels_needed``, ``labels_saved``, its interval and ``labels_saved_p``, as :func:`label_metrics` has them.
    """
    mean, reference = mean_curve(mine), mean_curve(theirs)
    row = {"labels_needed": labels_to_reach(mean.index, mean.to_numpy(), float(reference.iloc[-1]))}
    row |= {"labels_saved": _saved(mean, reference), **dict.fromkeys(_OF_SAVED, math.nan)}
    if min(len(mine), len(theirs)) < FEWEST_SEEDS:
        return row
    saved = np.array([_saved(_drawn(mine, rng), _drawn(theirs, rng)) for _ in range(min(resamples, 500))])
    # A resample that never gets there saves nothing: it counts below all others, not as missing.
    saved[~np.isfinite(saved)] = -math.inf
    low, high = np.quantile(saved, [0.025, 0.975], method="inverted_cdf")
    if low == high:
        low = high = math.nan
    fewer = min(np.sum(saved <= 0), np.sum(saved >= 0))
    p = min(1.0, 2.0 * (1.0 + float(fewer)) / (1.0 + len(saved)))
    return row | dict(zip(_OF_SAVED, (float(low), float(high), p), strict=True))


_OF_SAVED = ("labels_saved_low", "labels_saved_high", "labels_saved_p")


def _drawn(curves: Sequence[pd.Series], rng: np.random.Generator) -> pd.Series:
    """The mean of as many curves, drawn with replacement."""
    return mean_curve([curves[number] for number in rng.integers(len(curves), size=len(curves))])


def _saved(curve: pd.Series, baseline: pd.Series) -> float:
    return labels_saved(curve.index, curve.to_numpy(), baseline.index, baseline.to_numpy())


def seed_curves(curves: pd.DataFrame, label: str, metric: str, part: str = "test") -> dict[int, pd.Series]:
    """The curve of each seed on a part: metric by number of labels."""
    rows = curves[(curves["entry"] == label) & (curves["part"] == part)]
    found = {
        int(seed): of_seed.drop_duplicates("labels", keep="last").set_index("labels")[metric].dropna().sort_index()
        for seed, of_seed in rows.groupby("seed")
    }
    return {seed: curve for seed, curve in found.items() if len(curve)}


def mean_curve(curves: Sequence[pd.Series]) -> pd.Series:
    """Mean over curves at the numbers of labels that all have; at all numbers, interpolated, where they share few."""
    shared = sorted(set.intersection(*(set(curve.index) for curve in curves)))
    if len(shared) >= 2:
        return sum(curve.loc[shared] for curve in curves) / len(curves)
    low, high = max(curve.index[0] for curve in curves), min(curve.index[-1] for curve in curves)
    grid = sorted({label for curve in curves for label in curve.index if low <= label <= high})
    values = [np.interp(grid, curve.index, curve.to_numpy()) for curve in curves]
    return pd.Series(np.mean(values, axis=0) if grid else [], index=grid, dtype=float)


def against_baseline(work: ClassifierWork, predictions: dict[Unit, Predictions], baseline: str) -> pd.DataFrame:
    """Each entry against the baseline: accuracy of each patient, the mean of its seeds, paired (Wilcoxon, Holm).

    ``n_seeds`` is the fewest that either has: of fewer than three, the test holds for these networks alone.
    """
    of_patients, seeds = {}, {}
    for label in work.entries:
        parts = [found.accuracies for cell, found in predictions.items() if cell.label == label]
        if parts:
            of_patients[label], seeds[label] = pd.concat(parts, axis=1).mean(axis=1), len(parts)
    if (reference := of_patients.pop(baseline, None)) is None:
        return pd.DataFrame()
    rows = []
    for label, accuracies in of_patients.items():
        both = pd.concat([accuracies, reference], axis=1, join="inner").to_numpy()
        if len(both):
            # Entries on other data have no patient in common.
            test = paired_wilcoxon(both[:, 0], both[:, 1])
            effect = {"difference": test.mean_difference, "p": test.p, "rank_biserial": test.rank_biserial}
            n_seeds = min(seeds[label], seeds[baseline])
            rows.append({"entry": label, "baseline": baseline, "n_patients": test.n, "n_seeds": n_seeds, **effect})
    table = pd.DataFrame(rows)
    return table.assign(p_holm=holm(table["p"].to_numpy())) if rows else table


def label_bands(curves: pd.DataFrame, metric: str, titles: Mapping[str, str], part: str = "test") -> pd.DataFrame:
    """Mean over seeds of each entry's metric on a part by number of labels, with a band of one standard error.

    Of fewer than three seeds there is no band: its ends are NaN.

    Args:
        curves: As from :func:`curve_rows`.
        metric: The metric.
        titles: Entry to title.
        part: ``test``, or another of :data:`~metaseg.classify.rounds.PARTS`.

    Returns:
        Columns ``method`` (the title), ``step`` (labels), ``mean``, ``low``, ``high``.
    """
    bands = []
    for label in dict.fromkeys(curves["entry"]):
        if not (known := seed_curves(curves, label, metric, part)):
            continue
        of_seeds = pd.concat(known, axis=1).sort_index()
        # At numbers of labels that few seeds have, as where rounds differ in size, a mean would jump.
        of_seeds = of_seeds[of_seeds.notna().sum(axis=1) * 2 > of_seeds.shape[1]]
        mean, error = of_seeds.mean(axis=1), of_seeds.sem(axis=1).where(of_seeds.notna().sum(axis=1) >= FEWEST_SEEDS)
        band = {"step": mean.index, "mean": mean, "low": mean - error, "high": mean + error}
        bands.append(pd.DataFrame(band).assign(method=titles[label]))
    return pd.concat(bands, ignore_index=True) if bands else pd.DataFrame(columns=["method", "step", *BAND])


BAND = ("mean", "low", "high")


def write_label_curves(
    path: Path, curves: pd.DataFrame, metric: str, titles: Mapping[str, str], part: str = "test"
) -> None:
    """Draw a metric on a part against the number of labels: mean over seeds, and its standard error."""
    bands = label_bands(curves, metric, titles, part)
    if bands.empty:
        return
    with chart_file(path, 8.0, 5.0) as (axis,):
        axis.set(xlabel="labels", ylabel=f"{NAMES[metric]}, {PARTS[part]}")
        axis.set_title("mean over seeds, bands of one standard error (three seeds at least)")
        draw_bands(axis, bands, series_roles(bands["method"].unique()))


def write_metric_plot(path: Path, summarised: pd.DataFrame, metric: str, titles: Mapping[str, str]) -> None:
    """Draw the final metric of each entry with its interval, the best above."""
    rows = summarised.sort_values(metric, ascending=False)
    values = zip(rows["entry"].map(titles), *(rows[f"{metric}{end}"] for end in ("", "_low", "_high")), strict=True)
    with chart_file(path, 7.0, 1.2 + 0.34 * len(rows)) as (axis,):
        draw_intervals(axis, [(*row, "passive") for row in values])
        axis.set_xlabel(f"{NAMES[metric]} on the test part, {intervals_text(summarised)}")


def highest_entry(summarised: pd.DataFrame, titles: Mapping[str, str], metric: str) -> str:
    """The entry with the highest metric and what that is worth, in words; empty where nothing can be compared."""
    rows = summarised.dropna(subset=[metric]).sort_values(metric, ascending=False)
    if len(rows) < 2:
        return ""
    titled = rows["entry"].map(titles)
    equal = rows[metric].round(SAME) == round(rows[metric].max(), SAME)
    if equal.sum() > 1:
        return f"{', '.join(titled[equal])} share the highest {NAMES[metric]}"
    p = dict(zip(titled[1:], rows[f"{metric}_p_best"].iloc[1:], strict=True))
    return f"{titled.iloc[0]} has the highest {NAMES[metric]}: {against_best('higher', p)}"


def _steps_in_words(summarised: pd.DataFrame, titles: Mapping[str, str]) -> str:
    """Whether the entries were trained for equally long, and who began from whose network."""
    rows = [row for row in summarised.itertuples() if not math.isnan(row.steps)]
    if len({row.steps for row in rows}) == 1:
        # Active learning fits once a round, and counts no steps.
        who = "Each network" if len(rows) == len(summarised) else "Each network of all labels"
        text = f"{who} was trained for {rows[0].steps:,.0f} steps"
    else:
        text = "Trained for differing numbers of steps: " + ", ".join(
            f"{titles[row.entry]} {row.steps:,.0f}" for row in rows
        )
    after = [f"{titles[row.entry]} after {row.steps_before:,.0f}" for row in rows if row.steps_before]
    return f"{text}{'; ' if after else ''}{', '.join(after)}{' of the network it starts from' if after else ''}."


def summary_notes(summarised: pd.DataFrame, titles: Mapping[str, str]) -> list[str]:
    """What a reader of a summary must know: bases, degenerate networks, too few seeds, units that are no patients."""
    told = [_bases(summarised, titles)]
    degenerate = [
        f"{titles[row.entry]} ({row.one_class} of {row.n_seeds} seeds)"
        for row in summarised.itertuples()
        if row.one_class
    ]
    if degenerate:
        told.append(f"Degenerate, one class for all of the test part: {', '.join(degenerate)}.")
    if (summarised["n_seeds"] < FEWEST_SEEDS).any():
        told.append(
            f"Fewer than {FEWEST_SEEDS} seeds: intervals and tests are over {summarised['unit'].iloc[0]}s alone, for "
            "the networks of these seeds."
        )
    if "steps" in summarised and summarised["steps"].notna().any():
        told.append(_steps_in_words(summarised, titles))
    if (summarised["unit"] == "picture").any():
        told.append("The data name no patients: each picture is taken for a patient of its own, copies for one.")
    return told


def _bases(summarised: pd.DataFrame, titles: Mapping[str, str]) -> str:
    """What the entries began with, and a warning where pretrained ones began with weights of different kinds."""
    of_base = summarised["entry"].map(titles).groupby(summarised["base"], sort=False).agg(", ".join)
    if len(of_base) == 1:
        return "All entries began with " + ("random weights." if of_base.index[0] == "none" else f"{of_base.index[0]}.")
    text = "Began with " + "; ".join(f"{base}: {names}" for base, names in of_base.items()) + "."
    kinds = {base.startswith("ImageNet") for base in of_base.index if base != "none"}
    return text + (" ImageNet and other bases in one table: a difference may be the base's." if len(kinds) > 1 else "")
