"""How the entries of a comparison of classifiers do class by class: confusion matrices, precision, recall and F1."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from metaseg.metrics.classification import confusion_counts, weighted_confusion, weighted_decisions
from metaseg.metrics.probabilities import predicted_classes
from metaseg.metrics.statistics import draw_seeds, known_mean, percentile_interval
from metaseg.pictures.charts import chart_file, confusion_size, draw_confusion, wrapped
from metaseg.studies.classifiers.tables import Predictions, slice_weights
from metaseg.studies.tables import write_table
from metaseg.studies.workers import Unit

PER_CLASS = {"precision": "precision", "recall": "recall", "f1": "F1"}
"""Metrics of a class, with their names in tables."""
BESIDE = 3
"""Confusion matrices in a row of the picture."""

OfEntries = Mapping[str, Mapping[int, Predictions]]
"""What each entry's network of each seed predicted."""


def by_entry(predictions: Mapping[Unit, Predictions]) -> dict[str, dict[int, Predictions]]:
    """Predictions of finished cells by entry and seed."""
    found: dict[str, dict[int, Predictions]] = {}
    for cell, one in predictions.items():
        found.setdefault(cell.label, {})[cell.seed] = one
    return found


def pooled_confusion(of_seeds: Mapping[int, Predictions]) -> np.ndarray:
    """Test slices of all seeds together by true (rows) and predicted class, ``(class, class)``."""
    matrices = [
        confusion_counts(predicted_classes(found.probabilities), found.labels, len(found.classes))
        for found in of_seeds.values()
    ]
    return np.sum(matrices, axis=0)


def confusion_table(found: OfEntries) -> pd.DataFrame:
    """Confusion matrices, pooled over seeds.

    Returns:
        ``entry``, ``truth``, ``predicted``, ``slices``, and ``fraction``, of those of that true class.
    """
    rows = []
    for label, of_seeds in found.items():
        counts, classes = pooled_confusion(of_seeds), next(iter(of_seeds.values())).classes
        for (true, given), slices in np.ndenumerate(counts):
            row = {"entry": label, "truth": classes[true], "predicted": classes[given], "slices": int(slices)}
            rows.append({**row, "fraction": slices / max(counts[true].sum(), 1)})
    return pd.DataFrame(rows)


def class_table(found: OfEntries, resamples: int) -> pd.DataFrame:
    """Metrics of each class of each entry.

    Args:
        found: What was predicted.
        resamples: Of the bootstrap, over patients and seeds as
            :func:`~metaseg.studies.classifiers.tables.resample_metrics` draws them.

    Returns:
        ``entry``, ``class``, ``support`` (test slices of the class, all seeds together), and of each of ``PER_CLASS``
        the mean over seeds and its 95 % interval, ``NAME``, ``NAME_low``, ``NAME_high``. Seeds in which a metric is not
        known, as the precision of a class that is neither there nor predicted, are left out of its mean.
    """
    rows = []
    for label, of_seeds in found.items():
        classes, support = next(iter(of_seeds.values())).classes, pooled_confusion(of_seeds).sum(axis=1)
        rng = np.random.default_rng(0)
        decisions = [
            weighted_decisions(
                weighted_confusion(predicted_classes(one.probabilities), one.labels, weights, len(classes))
            )
            for one, weights in slice_weights(of_seeds, resamples, rng)
        ]
        of_draws = np.concatenate([np.ones((1, len(of_seeds))), draw_seeds(len(of_seeds), resamples, rng)])
        means = {
            name: known_mean(np.stack([one[name] for one in decisions], axis=-1), weights=of_draws[:, np.newaxis])
            for name in PER_CLASS
        }
        for place, name in enumerate(classes):
            row = {"entry": label, "class": name, "support": int(support[place])}
            for metric, values in means.items():
                low, high = percentile_interval(values[1:, place])
                row |= {metric: float(values[0, place]), f"{metric}_low": low, f"{metric}_high": high}
            rows.append(row)
    return pd.DataFrame(rows)


def write_classes(
    found: OfEntries, folder: Path, titles: Mapping[str, str], resamples: int, synthetic: bool
) -> pd.DataFrame:
    """Write ``confusion.csv``, ``confusion.png`` and ``classes.csv``; gives the last.

    Args:
        found: What was predicted, of one entry at least.
        folder: The study folder.
        titles: Entry to title.
        resamples: Of the bootstrap.
        synthetic: Whether the data are phantoms; the picture then says so.
    """
    table = class_table(found, resamples)
    write_table(table, folder / "classes")
    write_table(confusion_table(found), folder / "confusion")
    classes = {label: next(iter(of_seeds.values())).classes for label, of_seeds in found.items()}
    width, height = confusion_size(max(map(len, classes.values())))
    columns = min(BESIDE, len(found))
    rows = -(-len(found) // columns)
    size = (columns * width, rows * (height + 0.4))
    title = "test slices of all seeds, and the fraction of their true class"
    with chart_file(folder / "confusion.png", *size, title, synthetic, rows=rows, columns=columns) as axes:
        for axis, (label, of_seeds) in zip(axes, found.items(), strict=False):
            draw_confusion(axis, pooled_confusion(of_seeds), classes[label])
            axis.set_title(wrapped(titles[label], 30))
        for axis in axes[len(found) :]:
            axis.set_axis_off()
    return table
