from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from scipy.stats import entropy as binary_entropy
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from metaseg.errors import RunError
from metaseg.inference.gate import GATE_NAME, REGULARISATION, Gate
from metaseg.inference.predictor import Predictor
from metaseg.models.parts import encoder_modules
from metaseg.runs.networks import load_network
from metaseg.store.prepare import open_data


def cases(count: int, slices: int, shift: float, seed: int) -> list[tuple[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [(f"case-{seed}-{number}", rng.normal(shift, 1.0, (slices, 5))) for number in range(count)]


def test_it_is_scikit_learns_regression_with_a_vote_for_each_case_and_half_of_all_for_each_disease():
    source, target = cases(6, 4, 0.0, 1), cases(2, 9, 1.0, 2)
    gate = Gate.fit(source, target[:1])
    assert gate == Gate._regression(source, target[:1]), "of one case none can be left out"
    gate = Gate._regression(source, target)
    rows = np.concatenate([rows for _, rows in source + target])
    labels = np.repeat([0, 1], [24, 18])
    votes = np.repeat([1 / 6 / 4, 1 / 2 / 9], [24, 18]) * len(rows) / 2
    scaler = StandardScaler().fit(rows, sample_weight=votes)
    theirs = LogisticRegression(C=REGULARISATION, max_iter=1000)
    theirs.fit(scaler.transform(rows), labels, sample_weight=votes)
    for _, of_case in [*source, *target]:
        odds = theirs.decision_function(scaler.transform(of_case)).mean()
        decision = gate.decide(of_case)
        assert decision.probability == pytest.approx(1 / (1 + np.exp(-odds)), abs=1e-4)
        assert decision.domain == ("target" if odds > 0 else "source")
    assert gate.target_cases == ["case-2-0", "case-2-1"]


def test_a_constant_feature_does_no_harm():
    source, target = cases(3, 4, 0.0, 1), cases(3, 4, 2.0, 2)
    for _, rows in source + target:
        rows[:, 2] = 7.0
    gate = Gate.fit(source, target)
    assert np.isfinite([gate.decide(rows).probability for _, rows in source + target]).all()
    assert all(gate.decide(rows).domain == "target" for _, rows in target)


def test_it_is_read_as_it_was_written_and_refused_where_damaged(tmp_path):
    gate = Gate.fit(cases(3, 4, 0.0, 1), cases(3, 4, 2.0, 2))
    gate.save(tmp_path)
    assert Gate.load(tmp_path) == gate
    content = json.loads((tmp_path / GATE_NAME).read_text())
    (tmp_path / GATE_NAME).write_text(json.dumps(content | {"mean": content["mean"][:-1]}))
    with pytest.raises(RunError, match="different lengths"):
        Gate.load(tmp_path)
    (tmp_path / GATE_NAME).write_text("{")
    with pytest.raises(RunError):
        Gate.load(tmp_path)
    (tmp_path / GATE_NAME).unlink()
    with pytest.raises(RunError, match="has no gate") as caught:
        Gate.load(tmp_path)
    assert "--as source" in str(caught.value)


def test_cases_left_out_of_the_fit_lie_on_either_side_of_the_middle():
    source, target = cases(12, 4, 0.0, 1), cases(4, 4, 0.6, 2)
    odds = []
    for fold in range(4):
        rest = Gate._regression([c for n, c in enumerate(source) if n % 4 != fold], target[:fold] + target[fold + 1 :])
        odds.append(([rest.log_odds(rows) for _, rows in source[fold::4]], rest.log_odds(target[fold][1])))
    middle = (np.mean([value for of_source, _ in odds for value in of_source]) + np.mean([b for _, b in odds])) / 2
    assert Gate.fit(source, target).bias == pytest.approx(Gate._regression(source, target).bias - middle)


def test_features_are_the_means_of_the_encoders_outputs_and_the_confidence(workshop):
    network = load_network(workshop.network().checkpoint)
    workshop.case("HGG", "Brats18_A_1")
    [case] = open_data([workshop.root / "data"], cache=workshop.root / "cache")
    predictor = Predictor(network.model, network.card.modalities, case.space, batch_size=2, tta=True)
    encoded, confidence = predictor.describe_slices(case, [0, 2, 3])
    images = torch.from_numpy(case.images(np.array([0, 2, 3]), network.card.modalities))
    first, last = encoder_modules(network.model)
    assert all(size % 2 == 0 for size in images.shape[2:]), "nothing is padded, so that the first layer sees the images"
    with torch.no_grad():
        outputs = [first(images), last(first(images))]
    statistics = [
        part(output, dim=(2, 3)) for output in outputs for part in (torch.mean, partial(torch.std, correction=0))
    ]
    expected = torch.cat(statistics, dim=1)
    np.testing.assert_allclose(encoded, expected.numpy(), rtol=1e-4, atol=1e-6)
    tumour = 1 - replace(predictor, tta=False).probabilities(case, [0, 2, 3])[0].reshape(3, -1).astype(np.float64)
    entropy = binary_entropy(np.stack([tumour, 1 - tumour]), axis=0)
    np.testing.assert_allclose(confidence[:, 0], (tumour > 0.5).mean(axis=1), atol=1e-6)
    np.testing.assert_allclose(confidence[:, 1], tumour.max(axis=1), rtol=1e-5)
    np.testing.assert_allclose(confidence[:, 2], entropy.mean(axis=1), rtol=1e-4)
    inside = tumour > 0.5
    np.testing.assert_allclose(confidence[:, 4], (tumour * inside).sum(axis=1) / (inside.sum(axis=1) + 1), rtol=1e-4)
