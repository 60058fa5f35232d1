"""The gate of an adapted run, which tells the two diseases apart where nobody has (``--as auto``).

A logistic regression on what both networks make of a slice: the outputs of the first one's encoder (mean and standard
deviation over the slice) and the confidence of both. It is fitted on the shots' slices against slices of source
training cases, every case with the same weight and either disease with half of all. The log-odds of a case are the mean
over its slices; they are counted from midway between both diseases' means where each case is left out of the fit, since
the regression, like the networks, is surer of cases that it has seen. How often it is wrong stands in
``docs/results.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from scipy.special import expit

from metaseg.errors import RunError
from metaseg.files import FileKind, read_json, write_json
from metaseg.inference.predictor import CaseSegmentation, Decision, Predictor
from metaseg.store.stored_case import StoredCase

GATE_NAME = "gate.json"
GATE_KIND = FileKind("the gate of an adapted run", "copy the file again, or predict with --as source or --as target")
REGULARISATION = 0.1
"""scikit-learn's C of the logistic regression: the reciprocal of the strength of the L2 penalty."""
SMALLEST_SCALE = 1e-6


NamedFeatures = tuple[str, np.ndarray]
"""Name of a case and its features ``(slices, features)``."""


def gate_features(
    source: Predictor, target: Predictor, case: StoredCase, slices: Sequence[int] | np.ndarray | None = None
) -> np.ndarray:
    """What a gate goes by in a case.

    Args:
        source: The network from before the adaptation.
        target: The adapted network.
        case: The prepared case; its label is not looked at.
        slices: Stored slices; by default all.

    Returns:
        ``(slices, features)`` of those slices in which either network sees tumour; of all if neither does.

    Raises:
        UsageError: It is not known which layers of the network are its encoder.
    """
    (encoded, before), (_, after) = source.describe_slices(case, slices), target.describe_slices(case, slices)
    seen = (before[:, 0] + after[:, 0]) > 0
    features = np.concatenate([encoded, before, after], axis=1)
    return features[seen] if seen.any() else features


@dataclass(frozen=True)
class WatchedDecision:
    """What the gate said of a case that its run watches: ``domain`` is the true one, ``decided`` the gate's."""

    domain: str
    case: str
    patient: str
    decided: str
    probability: float


@dataclass(frozen=True)
class Gate:
    """A fitted gate; plain numbers, as in ``gate.json``.

    Attributes:
        mean: Of each feature.
        scale: Of each feature, by which it is divided.
        weights: Of each standardised feature.
        bias: Log-odds of the target where all features are at their mean, counted from the middle.
        source_cases: Cases that it was fitted on.
        target_cases: The same of the target.
        regularisation: See :data:`REGULARISATION`.
        watched: Its decisions on the cases that the run watches.
    """

    mean: list[float]
    scale: list[float]
    weights: list[float]
    bias: float
    source_cases: list[str]
    target_cases: list[str]
    regularisation: float = REGULARISATION
    watched: list[WatchedDecision] = field(default_factory=list)

    @classmethod
    def fit(cls, source: Sequence[NamedFeatures], target: Sequence[NamedFeatures]) -> Gate:
        """Fit a gate.

        Args:
            source: Name and :func:`gate_features` of each case; one case at least. Of two or more cases of each
                disease, each target case in turn, with its share of the source cases, is left out to find the middle.
            target: The same of the other disease.
        """
        gate, folds = cls._regression(source, target), len(target)
        if min(len(source), len(target)) < 2:
            return gate
        odds: dict[str, list[float]] = {"source": [], "target": []}
        for fold in range(folds):
            left_out = {"source": source[fold::folds], "target": target[fold::folds]}
            kept = [[case for number, case in enumerate(cases) if number % folds != fold] for cases in (source, target)]
            other = cls._regression(*kept)
            for domain, cases in left_out.items():
                odds[domain] += [other.log_odds(features) for _, features in cases]
        middle = (np.mean(odds["source"]) + np.mean(odds["target"])) / 2
        return replace(gate, bias=float(gate.bias - middle))

    @classmethod
    def _regression(cls, source: Sequence[NamedFeatures], target: Sequence[NamedFeatures]) -> Gate:
        """The regression alone, its log-odds counted from its own intercept."""
        from sklearn.linear_model import LogisticRegression

        cases = [*source, *target]
        counts = np.array([len(rows) for _, rows in cases])
        sizes = np.repeat([len(source), len(target)], [len(source), len(target)])
        of_slices = np.repeat(1.0 / (counts * sizes), counts)
        of_slices *= len(of_slices) / of_slices.sum()
        features = np.concatenate([rows for _, rows in cases]).astype(np.float64)
        is_target = np.repeat(np.arange(len(cases)) >= len(source), counts)
        mean = np.average(features, axis=0, weights=of_slices)
        scale = np.sqrt(np.average((features - mean) ** 2, axis=0, weights=of_slices)) + SMALLEST_SCALE
        model = LogisticRegression(C=REGULARISATION, max_iter=1000)
        model.fit((features - mean) / scale, is_target, sample_weight=of_slices)
        of_source, of_target = ([name for name, _ in cases] for cases in (source, target))
        weights, intercept = model.coef_[0].tolist(), float(model.intercept_[0])
        return cls(mean.tolist(), scale.tolist(), weights, intercept, of_source, of_target)

    def log_odds(self, features: np.ndarray) -> float:
        """Of the target against the source, the mean over slices of features ``(slices, features)``."""
        standardised = (features - np.asarray(self.mean)) / np.asarray(self.scale)
        return float(np.mean(standardised @ np.asarray(self.weights) + self.bias))

    def decide(self, features: np.ndarray) -> Decision:
        """Decide on a case by the features ``(slices, features)`` of its slices."""
        odds = self.log_odds(features)
        return Decision("target" if odds > 0 else "source", float(expit(odds)))

    def save(self, run: Path) -> None:
        """Write ``gate.json`` into a run folder."""
        write_json(run / GATE_NAME, asdict(self))

    @classmethod
    def load(cls, run: Path) -> Gate:
        """Read the gate of a run.

        Raises:
            RunError: It has none, or the file is damaged.
        """
        if not (run / GATE_NAME).exists():
            raise RunError(
                "the run has no gate that could tell the two diseases apart",
                where=run / GATE_NAME,
                expected="a finished adaptation that had source training cases at hand (--source) and --gate",
                remedy="say which disease the cases are of with --as source or --as target",
            )
        gate: Gate = read_json(run / GATE_NAME, GATE_KIND, cls)
        if not len(gate.mean) == len(gate.scale) == len(gate.weights):
            raise GATE_KIND.refuse("the gate's lists are of different lengths", run / GATE_NAME)
        return gate


@dataclass(frozen=True, eq=False)
class GatedPredictor(Predictor):
    """Both networks of an adapted run and the gate that gives each case to one of them; itself the target's predictor.

    Attributes:
        source: The network from before the adaptation.
        gate: Who decides.
    """

    source: Predictor = field(kw_only=True)
    gate: Gate = field(kw_only=True)

    @classmethod
    def of(cls, target: Predictor, source: Predictor, gate: Gate) -> GatedPredictor:
        """From the predictors of both networks."""
        return cls(**vars(target), source=source, gate=gate)

    def segment(self, case: StoredCase, keep: Sequence[int] = ()) -> CaseSegmentation:
        """As :meth:`Predictor.segment` of the network that takes the case; ``decision`` says which one."""
        decision = self.decide(case)
        segmented = super().segment(case, keep) if decision.domain == "target" else self.source.segment(case, keep)
        return replace(segmented, decision=decision)

    def decide(self, case: StoredCase) -> Decision:
        """What the gate says of a case."""
        return self.gate.decide(gate_features(self.source, self, case))
