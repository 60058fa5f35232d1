"""Cross-validation in a comparison of classifiers: the predictions of all folds as those of one test part."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from metaseg.studies.classifiers.tables import Predictions
from metaseg.studies.workers import Unit


def pool_folds(predictions: Mapping[Unit, Predictions], folds: int) -> dict[Unit, Predictions]:
    """Put the predictions of an entry's and seed's folds together: every patient once, by a network that never saw it.

    Metrics of the pooled predictions are of all patients, where a mean over folds would weigh small folds more and
    could not be had of a fold without a class. Ranking metrics compare probabilities of different networks with each
    other, so that a pooled AUC also suffers from networks that are calibrated differently.

    Args:
        predictions: Of the finished cells.
        folds: How many the study has; 0 hands the predictions back as they are.

    Returns:
        Predictions by the cell without its fold; none of those of which a fold is missing, since they would be of
        fewer patients than the others.
    """
    if not folds:
        return dict(predictions)
    of_cell: defaultdict[Unit, list[Predictions]] = defaultdict(list)
    for unit, found in sorted(predictions.items(), key=lambda item: item[0].fold or 0):
        of_cell[replace(unit, fold=None)].append(found)
    return {unit: _together(parts) for unit, parts in of_cell.items() if len(parts) == folds}


def _together(parts: list[Predictions]) -> Predictions:
    """All predictions in one; folds that were read of one study have the same classes."""
    return Predictions(
        np.concatenate([part.probabilities for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.patients for part in parts]),
        parts[0].classes,
    )
