"""What a run of active learning leaves, for tests that compare two of them to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from metaseg.classify.rounds import read_rounds
from metaseg.runs.networks import load_classifier_network


def left_by(run: Path) -> dict[str, Any]:
    """All of a run that must not depend on an interruption."""
    rounds = [(one.chosen, one.scores, one.labels, one.metrics, one.labelled, one.patterns) for one in read_rounds(run)]
    weights = load_classifier_network(run, "last").model.state_dict()
    files = {name: (run / name).read_text() for name in ("curve.csv", "metrics.csv", "result.json", "split.json")}
    tables = {name: (run / "test" / name).read_text() for name in ("predictions.csv", "metrics.csv")}
    return {
        "rounds": rounds,
        **files,
        **tables,
        "checkpoints": sorted(path.name for path in (run / "checkpoints").iterdir()),
        "weights": {name: value.numpy().tobytes() for name, value in weights.items()},
    }
