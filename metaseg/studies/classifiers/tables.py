"""From finished runs of classifiers to tables: figures of every run, means with intervals, and paired tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from metaseg.checked_files import FileKind, read_frame
from metaseg.classify.curve import CURVE_NAME, read_curve
from metaseg.classify.measure import FIGURES
from metaseg.evaluation.classification_bootstrap import weighted_figures
from metaseg.evaluation.classification_files import PREDICTIONS
from metaseg.evaluation.label_curves import area_under_budget_curve, labels_saved, labels_to_reach
from metaseg.evaluation.statistics import draw_weights, holm, known_deviation, paired_wilcoxon, percentile_interval
from metaseg.studies.classifiers.plan import Cell, ClassifierWork

CURVE_COLUMNS = ("entry", "seed", "round", "labels", "part", *FIGURES)


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


def read_predictions(work: ClassifierWork, cell: Cell) -> Predictions | None:
    """A finished run's predictions of its test part; None if it has none."""
    return predictions_in(work.folder / cell.folder / "test")


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


def curve_rows(work: ClassifierWork, cells: Sequence[Cell]) -> pd.DataFrame:
    """Every figure of active learning in every round, ``CURVE_COLUMNS``."""
    tables = []
    for cell in cells:
        path = work.folder / cell.folder / CURVE_NAME
        if path.exists():
            table = read_curve(path)
            tables.append(table.assign(entry=cell.label, seed=cell.seed)[list(CURVE_COLUMNS)])
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(CURVE_COLUMNS))


def summary(
    work: ClassifierWork, predictions: dict[Cell, Predictions], curves: pd.DataFrame, baseline: str
) -> pd.DataFrame:
    """One row for each entry: final figures on the test part, and for active learning what its labels were worth.

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
        row = {"entry": label, "n_seeds": len(of_seeds), **final_figures(of_seeds, work.study.resamples)}
        rows.append({**row, **label_figures(curves, label, baseline, work.study.figure, work.study.resamples)})
    return pd.DataFrame(rows)


def final_figures(of_seeds: dict[int, Predictions], resamples: int) -> dict[str, float]:
    """Mean over seeds of each figure, its deviation over seeds, and the interval over patients and seeds.

    The bootstrap draws seeds, and patients with all their slices: the same draw for all seeds where their test patients
    are the same, one for each where every seed has its own.
    """
    rng = np.random.default_rng(0)
    seeds = sorted(of_seeds)
    first = np.unique(of_seeds[seeds[0]].patients)
    shared = all(np.array_equal(np.unique(found.patients), first) for found in of_seeds.values())
    common = draw_weights(len(first), resamples, rng)
    values: dict[str, list[float]] = {name: [] for name in FIGURES}
    resampled: dict[str, list[np.ndarray]] = {name: [] for name in FIGURES}
    for seed in seeds:
        found = of_seeds[seed]
        names, of_slice = np.unique(found.patients, return_inverse=True)
        drawn = common if shared else draw_weights(len(names), resamples, rng)
        weights = np.concatenate([np.ones((1, len(of_slice))), drawn[:, of_slice]])
        figures = weighted_figures(found.probabilities, found.labels, weights, found.classes)
        for name, full in FIGURES.items():
            values[name].append(float(figures[full][0]))
            resampled[name].append(figures[full][1:])
    of_draws = draw_weights(len(seeds), resamples, rng)
    row: dict[str, float] = {}
    for name in FIGURES:
        samples = (np.stack(resampled[name], axis=1) * of_draws).sum(axis=1) / len(seeds)
        low, high = percentile_interval(samples) if len(first) > 1 else (math.nan, math.nan)
        row |= {
            name: float(np.mean(values[name])),
            f"{name}_low": low,
            f"{name}_high": high,
            f"{name}_sd_seeds": known_deviation(np.array(values[name])),
        }
    return row


def label_figures(curves: pd.DataFrame, label: str, baseline: str, figure: str, resamples: int) -> dict[str, float]:
    """What the labels of active learning were worth: area, and labels for the baseline's final figure.

    Intervals are over seeds. The figure that is to be reached is the baseline's mean over seeds at its end.
    """
    mine, theirs = seed_curves(curves, label, figure), seed_curves(curves, baseline, figure)
    if not len(mine):
        return {}
    rng = np.random.default_rng(0)
    areas = [area_under_budget_curve(one.index, one.to_numpy()) for one in mine.values() if len(one) > 1]
    row = {"labels": float(max(one.index[-1] for one in mine.values()))}
    if areas:
        draws = draw_weights(len(areas), resamples, rng) @ np.array(areas) / len(areas)
        low, high = percentile_interval(draws) if len(areas) > 1 else (math.nan, math.nan)
        row |= {"area": float(np.mean(areas)), "area_low": low, "area_high": high}
    if not theirs or label == baseline:
        return row
    mean, reference = mean_curve(list(mine.values())), mean_curve(list(theirs.values()))
    if len(mean) < 2 or len(reference) < 2:
        return row
    row["labels_needed"] = labels_to_reach(mean.index, mean.to_numpy(), float(reference.iloc[-1]))
    row["labels_saved"] = labels_saved(mean.index, mean.to_numpy(), reference.index, reference.to_numpy())
    saved = []
    for _ in range(min(resamples, 500)):
        mine_drawn = mean_curve([list(mine.values())[number] for number in rng.integers(len(mine), size=len(mine))])
        drawn = mean_curve([list(theirs.values())[number] for number in rng.integers(len(theirs), size=len(theirs))])
        saved.append(labels_saved(mine_drawn.index, mine_drawn.to_numpy(), drawn.index, drawn.to_numpy()))
    reached = np.array([one if math.isfinite(one) else -math.inf for one in saved])
    # A resample that never gets there saves nothing: it counts below all others, not as missing.
    low, high = np.quantile(reached, [0.025, 0.975], method="inverted_cdf")
    return row | {"labels_saved_low": float(low), "labels_saved_high": float(high)}


def seed_curves(curves: pd.DataFrame, label: str, figure: str) -> dict[int, pd.Series]:
    """The test part's curve of each seed: figure by number of labels."""
    rows = curves[(curves["entry"] == label) & (curves["part"] == "test")]
    found = {
        int(seed): one.drop_duplicates("labels", keep="last").set_index("labels")[figure].dropna().sort_index()
        for seed, one in rows.groupby("seed")
    }
    return {seed: one for seed, one in found.items() if len(one)}


def mean_curve(curves: Sequence[pd.Series]) -> pd.Series:
    """Mean over curves at the numbers of labels that all have; at all numbers, interpolated, where they share few."""
    shared = sorted(set.intersection(*(set(one.index) for one in curves)))
    if len(shared) >= 2:
        return sum(one.loc[shared] for one in curves) / len(curves)
    low, high = max(one.index[0] for one in curves), min(one.index[-1] for one in curves)
    grid = sorted({label for one in curves for label in one.index if low <= label <= high})
    values = [np.interp(grid, one.index, one.to_numpy()) for one in curves]
    return pd.Series(np.mean(values, axis=0) if grid else [], index=grid, dtype=float)


def pairwise(work: ClassifierWork, predictions: dict[Cell, Predictions], baseline: str) -> pd.DataFrame:
    """Each entry against the baseline: accuracy of each patient, the mean of its seeds, paired (Wilcoxon, Holm)."""
    of_patients = {}
    for label in work.entries:
        parts = [found.accuracies for cell, found in predictions.items() if cell.label == label]
        if parts:
            of_patients[label] = pd.concat(parts, axis=1).mean(axis=1)
    rows = []
    for label, mine in of_patients.items():
        if label == baseline or baseline not in of_patients:
            continue
        both = pd.concat([mine, of_patients[baseline]], axis=1, join="inner")
        if both.empty:
            # Entries on other data have no patient in common.
            continue
        test = paired_wilcoxon(both.iloc[:, 0].to_numpy(), both.iloc[:, 1].to_numpy())
        rows.append(
            {
                "entry": label,
                "baseline": baseline,
                "n_patients": test.n,
                "difference": test.mean_difference,
                "p": test.p,
                "rank_biserial": test.rank_biserial,
            }
        )
    table = pd.DataFrame(rows)
    if len(table):
        table["p_holm"] = holm(table["p"].to_numpy())
    return table
