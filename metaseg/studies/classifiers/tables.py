"""Tables of a comparison of classifiers: means with intervals, paired tests and charts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from metaseg.classify.fitting import METRICS
from metaseg.classify.rounds import CURVE_NAME, read_curve
from metaseg.files import FileKind, read_frame
from metaseg.inference.classification_files import PREDICTIONS
from metaseg.metrics.classification import weighted_metrics
from metaseg.metrics.curves import area_under_budget_curve, labels_saved, labels_to_reach
from metaseg.metrics.statistics import draw_weights, holm, known_deviation, paired_wilcoxon, percentile_interval
from metaseg.pictures.charts import chart_file, draw_bands, draw_intervals, series_roles
from metaseg.studies.classifiers.plan import ClassifierWork
from metaseg.studies.workers import Unit

CURVE_COLUMNS = ("entry", "seed", "round", "labels", "part", *METRICS)


@dataclass(frozen=True)
class Predictions:
    """What one run predicted of its test part.

    Attributes:
        probabilities: ``(n, c)``.
        labels: ``(n,)``.
        patients: ``(n,)``.
        classes: Names of the classes.
    """

    probabilities: np.ndarray
    labels: np.ndarray
    patients: np.ndarray
    classes: tuple[str, ...]

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
    return Predictions(probabilities, labels, table["patient"].to_numpy(str), classes)


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
    """
    rows = []
    for label in work.entries:
        of_seeds = {cell.seed: found for cell, found in predictions.items() if cell.label == label}
        if not of_seeds:
            continue
        row = {"entry": label, "n_seeds": len(of_seeds), **final_metrics(of_seeds, work.study.resamples)}
        rows.append({**row, **label_metrics(curves, label, baseline, work.study.metric, work.study.resamples)})
    return pd.DataFrame(rows)


def final_metrics(of_seeds: dict[int, Predictions], resamples: int) -> dict[str, float]:
    """Mean over seeds of each metric, its deviation over seeds, and the interval over patients and seeds.

    The bootstrap draws seeds, and patients with all their slices: the same draw for all seeds where their test patients
    are the same, one for each where every seed has its own.
    """
    rng = np.random.default_rng(0)
    seeds = sorted(of_seeds)
    first = np.unique(of_seeds[seeds[0]].patients)
    shared = all(np.array_equal(np.unique(found.patients), first) for found in of_seeds.values())
    common = draw_weights(len(first), resamples, rng)
    values: dict[str, list[float]] = {name: [] for name in METRICS}
    resampled: dict[str, list[np.ndarray]] = {name: [] for name in METRICS}
    for seed in seeds:
        found = of_seeds[seed]
        names, of_slice = np.unique(found.patients, return_inverse=True)
        drawn = common if shared else draw_weights(len(names), resamples, rng)
        weights = np.concatenate([np.ones((1, len(of_slice))), drawn[:, of_slice]])
        metrics = weighted_metrics(found.probabilities, found.labels, weights, found.classes)
        for name, full in METRICS.items():
            values[name].append(float(metrics[full][0]))
            resampled[name].append(metrics[full][1:])
    of_draws = draw_weights(len(seeds), resamples, rng)
    row: dict[str, float] = {}
    for name in METRICS:
        samples = (np.stack(resampled[name], axis=1) * of_draws).sum(axis=1) / len(seeds)
        low, high = percentile_interval(samples) if len(first) > 1 else (math.nan, math.nan)
        row |= {name: float(np.mean(values[name])), f"{name}_low": low, f"{name}_high": high}
        row[f"{name}_sd_seeds"] = known_deviation(np.array(values[name]))
    return row


def label_metrics(curves: pd.DataFrame, label: str, baseline: str, metric: str, resamples: int) -> dict[str, float]:
    """What the labels of active learning were worth: area, and labels for the baseline's final metric.

    Intervals are over seeds. The metric that is to be reached is the baseline's mean over seeds at its end.
    """
    mine, theirs = (list(seed_curves(curves, name, metric).values()) for name in (label, baseline))
    if not mine:
        return {}
    rng = np.random.default_rng(0)
    areas = [area_under_budget_curve(curve.index, curve.to_numpy()) for curve in mine if len(curve) > 1]
    row = {"labels": float(max(curve.index[-1] for curve in mine))}
    if areas:
        draws = draw_weights(len(areas), resamples, rng) @ np.array(areas) / len(areas)
        low, high = percentile_interval(draws) if len(areas) > 1 else (math.nan, math.nan)
        row |= {"area": float(np.mean(areas)), "area_low": low, "area_high": high}
    if not theirs or label == baseline:
        return row
    mean, reference = mean_curve(mine), mean_curve(theirs)
    if len(mean) < 2 or len(reference) < 2:
        return row
    row["labels_needed"] = labels_to_reach(mean.index, mean.to_numpy(), float(reference.iloc[-1]))
    row["labels_saved"] = _saved(mean, reference)
    saved = np.array([_saved(_drawn(mine, rng), _drawn(theirs, rng)) for _ in range(min(resamples, 500))])
    # A resample that never gets there saves nothing: it counts below all others, not as missing.
    saved[~np.isfinite(saved)] = -math.inf
    low, high = np.quantile(saved, [0.025, 0.975], method="inverted_cdf")
    return row | {"labels_saved_low": float(low), "labels_saved_high": float(high)}


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
    """Each entry against the baseline: accuracy of each patient, the mean of its seeds, paired (Wilcoxon, Holm)."""
    of_patients = {}
    for label in work.entries:
        parts = [found.accuracies for cell, found in predictions.items() if cell.label == label]
        if parts:
            of_patients[label] = pd.concat(parts, axis=1).mean(axis=1)
    if (reference := of_patients.pop(baseline, None)) is None:
        return pd.DataFrame()
    rows = []
    for label, accuracies in of_patients.items():
        both = pd.concat([accuracies, reference], axis=1, join="inner").to_numpy()
        if len(both):
            # Entries on other data have no patient in common.
            test = paired_wilcoxon(both[:, 0], both[:, 1])
            effect = {"difference": test.mean_difference, "p": test.p, "rank_biserial": test.rank_biserial}
            rows.append({"entry": label, "baseline": baseline, "n_patients": test.n, **effect})
    table = pd.DataFrame(rows)
    return table.assign(p_holm=holm(table["p"].to_numpy())) if rows else table


NAMES = {"auc": "AUC", "accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "f1": "macro F1"}


def label_bands(curves: pd.DataFrame, metric: str, titles: Mapping[str, str], part: str = "test") -> pd.DataFrame:
    """Mean over seeds of each entry's metric on a part by number of labels, with a band of one standard error.

    Args:
        curves: As from :func:`curve_rows`.
        metric: The metric.
        titles: Entry to title.
        part: ``test``, or another of :data:`PARTS`.

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
        mean, error = of_seeds.mean(axis=1), of_seeds.sem(axis=1).fillna(0.0)
        band = {"step": mean.index, "mean": mean, "low": mean - error, "high": mean + error}
        bands.append(pd.DataFrame(band).assign(method=titles[label]))
    return pd.concat(bands, ignore_index=True) if bands else pd.DataFrame(columns=["method", "step", *BAND])


PARTS = {"test": "test part", "pool": "rest of the pool", "val": "validation part"}
"""Parts on which rounds of active learning are measured, in words."""
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
        axis.set_title("mean over seeds, bands of one standard error")
        draw_bands(axis, bands, series_roles(bands["method"].unique()))


def write_metric_plot(path: Path, summarised: pd.DataFrame, metric: str, titles: Mapping[str, str]) -> None:
    """Draw the final metric of each entry with its interval, the best above."""
    rows = summarised.sort_values(metric, ascending=False)
    values = zip(rows["entry"].map(titles), *(rows[f"{metric}{end}"] for end in ("", "_low", "_high")), strict=True)
    with chart_file(path, 7.0, 1.2 + 0.34 * len(rows)) as (axis,):
        draw_intervals(axis, [(*row, "passive") for row in values])
        axis.set_xlabel(f"{NAMES[metric]} on the test part, 95 % interval over patients and seeds")
