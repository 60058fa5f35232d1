"""From finished runs of classifiers to tables: metrics of every run, means with intervals, and paired tests.

Pictures of a comparison of classifiers.

The metrics that the papers report, beside those of the study that follows one of them (``configs/paper``).
"""

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
from metaseg.studies.work import Unit
from metaseg.terminal import print_table

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


def read_predictions(work: ClassifierWork, cell: Unit) -> Predictions | None:
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


def curve_rows(work: ClassifierWork, cells: Sequence[Unit]) -> pd.DataFrame:
    """Every metric of active learning in every round, ``CURVE_COLUMNS``."""
    tables = []
    for cell in cells:
        path = work.folder / cell.folder / CURVE_NAME
        if path.exists():
            table = read_curve(path)
            tables.append(table.assign(entry=cell.label, seed=cell.seed)[list(CURVE_COLUMNS)])
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(CURVE_COLUMNS))


def summary(
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
        row |= {
            name: float(np.mean(values[name])),
            f"{name}_low": low,
            f"{name}_high": high,
            f"{name}_sd_seeds": known_deviation(np.array(values[name])),
        }
    return row


def label_metrics(curves: pd.DataFrame, label: str, baseline: str, metric: str, resamples: int) -> dict[str, float]:
    """What the labels of active learning were worth: area, and labels for the baseline's final metric.

    Intervals are over seeds. The metric that is to be reached is the baseline's mean over seeds at its end.
    """
    mine, theirs = seed_curves(curves, label, metric), seed_curves(curves, baseline, metric)
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


def seed_curves(curves: pd.DataFrame, label: str, metric: str) -> dict[int, pd.Series]:
    """The test part's curve of each seed: metric by number of labels."""
    rows = curves[(curves["entry"] == label) & (curves["part"] == "test")]
    found = {
        int(seed): one.drop_duplicates("labels", keep="last").set_index("labels")[metric].dropna().sort_index()
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


def against_baseline(work: ClassifierWork, predictions: dict[Unit, Predictions], baseline: str) -> pd.DataFrame:
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


NAMES = {"auc": "AUC", "accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "f1": "macro F1"}


def label_bands(curves: pd.DataFrame, metric: str, titles: Mapping[str, str]) -> pd.DataFrame:
    """Mean over seeds of each entry's metric on the test part by number of labels, with a band of one standard error.

    Args:
        curves: As from :func:`curve_rows`.
        metric: The metric.
        titles: Entry to title.

    Returns:
        Columns ``method`` (the title), ``step`` (labels), ``mean``, ``low``, ``high``.
    """
    bands = []
    for label in dict.fromkeys(curves["entry"]):
        of_seeds = pd.concat(seed_curves(curves, label, metric), axis=1).sort_index()
        # At numbers of labels that few seeds have, as where rounds differ in size, a mean would jump.
        of_seeds = of_seeds[of_seeds.notna().sum(axis=1) * 2 > of_seeds.shape[1]]
        mean, error = of_seeds.mean(axis=1), of_seeds.sem(axis=1).fillna(0.0)
        band = {"step": mean.index, "mean": mean, "low": mean - error, "high": mean + error}
        bands.append(pd.DataFrame(band).assign(method=titles[label]))
    return pd.concat(bands, ignore_index=True)


def write_label_curves(path: Path, curves: pd.DataFrame, metric: str, titles: Mapping[str, str]) -> None:
    """Draw a metric on the test part against the number of labels: mean over seeds, and its standard error."""
    bands = label_bands(curves, metric, titles)
    with chart_file(path, 8.0, 5.0) as (axis,):
        axis.set(xlabel="labels", ylabel=f"{NAMES[metric]}, test part")
        axis.set_title("mean over seeds, bands of one standard error")
        draw_bands(axis, bands, series_roles(bands["method"].unique()))


def write_metric_plot(path: Path, summarised: pd.DataFrame, metric: str, titles: Mapping[str, str]) -> None:
    """Draw the final metric of each entry with its interval, the best above."""
    rows = summarised.sort_values(metric, ascending=False)
    values = zip(rows["entry"].map(titles), *(rows[f"{metric}{end}"] for end in ("", "_low", "_high")), strict=True)
    with chart_file(path, 7.0, 1.2 + 0.34 * len(rows)) as (axis,):
        draw_intervals(axis, [(*row, "passive") for row in values])
        axis.set_xlabel(f"{NAMES[metric]} on the test part, 95 % interval over patients and seeds")


NOTE = (
    "The paper's data, patients and parts are not ours: what can be compared is the order of the methods, not the "
    "height of their metrics."
)


@dataclass(frozen=True)
class PaperRow:
    """One method of a paper.

    Attributes:
        name: As the paper calls it.
        entry: What it is called in ``configs/paper``.
        value: What the paper reports.
    """

    name: str
    entry: str
    value: str


@dataclass(frozen=True)
class Paper:
    """What a paper reports.

    Attributes:
        citation: Authors and year.
        metric: The column of our summary that stands beside it.
        what: What that is, in words.
        rows: Its methods.
    """

    citation: str
    metric: str
    what: str
    rows: Sequence[PaperRow]


PAPERS: Mapping[str, Paper] = {
    "zhou2017": Paper(
        "Zhou et al. 2017",
        "labels_saved",
        "labels saved against random choice",
        (PaperRow("AIFT, entropy and diversity of a quarter of the patches", "both-quarter", "at least half"),),
    ),
    "hao2021": Paper(
        "Hao et al. 2021",
        "auc",
        "AUC in %",
        (
            PaperRow("pretrained, all labels", "all", "79.91"),
            PaperRow("from scratch, all labels", "scratch", "71.93"),
            PaperRow("uncertainty sampling, 30 % of the slices", "committee", "82.89"),
        ),
    ),
    "hao2021-balanced": Paper(
        "Hao et al. 2021, balanced set",
        "auc",
        "AUC in %",
        (
            PaperRow("pretrained, all labels", "all", "78.48"),
            PaperRow("uncertainty sampling, 30 % of the slices", "committee", "82.00"),
        ),
    ),
    "lau2021": Paper("Lau 2021", "accuracy", "accuracy in %", (PaperRow("her own network", "lau-cnn", "about 90"),)),
    "aljanabi": Paper(
        "Al-Janabi",
        "accuracy",
        "accuracy in %",
        (
            PaperRow("Xception, frozen", "xception", "92.1"),
            PaperRow("Xception, fine-tuned", "xception-finetuned", "96"),
            PaperRow("Xception, fine-tuned block by block", "xception-gradual", "96"),
            PaperRow("VGG-16, frozen", "vgg16", "89.4"),
            PaperRow("VGG-16, fine-tuned", "vgg16-finetuned", "91.1"),
            PaperRow("VGG-16, fine-tuned block by block", "vgg16-gradual", "91.1"),
            PaperRow("2D-CNN, from scratch", "2d-cnn", "80.4"),
            PaperRow("MobileNetV2, frozen", "mobilenetv2", "79.2"),
            PaperRow("ResNet-50, frozen", "resnet50", "75.1"),
        ),
    ),
}
"""By the value of the setting ``paper``."""


def beside_paper(paper: Paper, summarised: pd.DataFrame) -> list[tuple[PaperRow, str, str]]:
    """Each row of a paper with our metric and its 95 % interval in percent; a dash where there is none.

    Args:
        paper: The paper.
        summarised: As from :func:`metaseg.studies.classifiers.tables.summary`.
    """
    ours = {} if summarised.empty else summarised.set_index("entry").to_dict("index")
    rows = []
    for row in paper.rows:
        found = ours.get(row.entry, {})
        value, low, high = (found.get(f"{paper.metric}{end}", math.nan) for end in ("", "_low", "_high"))
        between = "" if math.isnan(low) or math.isnan(high) else f"{percent(low)} to {percent(high)}"
        between = "not reached" if math.isinf(high) else between
        rows.append((row, percent(value), between))
    return rows


def percent(value: float) -> str:
    """A share in percent; a dash for NaN, ``not reached`` where a resample never got to the metric."""
    if math.isnan(value):
        return "–"
    return "not reached" if math.isinf(value) else f"{100 * value:.1f}".replace("-", "−")


def print_paper(name: str | None, summarised: pd.DataFrame) -> None:
    """Print the paper's metrics beside ours; nothing without a paper."""
    if name is None:
        return
    paper = PAPERS[name]
    rows = [
        [row.name, row.value, f"{value} ({between})" if between else value]
        for row, value, between in beside_paper(paper, summarised)
    ]
    print_table(f"beside {paper.citation}: {paper.what}", ["method", "paper", "ours (95 % interval)"], rows)
    print(NOTE)
