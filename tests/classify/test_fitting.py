from __future__ import annotations

import pytest

from metaseg.classify import fitting
from metaseg.classify.fitting import fit_round
from metaseg.classify.slices import SliceBatches
from metaseg.models import build_classifier
from metaseg.models.device import make_fabric
from metaseg.terminal import progress
from metaseg.training.augment import Augmentation


@pytest.mark.parametrize(
    ("first", "rate", "gamma", "epochs", "head"), [(True, 1e-3, 0.95, 5, 10), (False, 1e-4, 0.1, 3, 5)]
)
def test_a_round_learns_at_its_own_rates(open_set, active_config, monkeypatch, first, rate, gamma, epochs, head):
    """As of Zhou et al. 2017, Table 3, polyps; an epoch of the paper is as many as there are patches."""
    seen, slices, patches = [], open_set(), 2
    monkeypatch.setattr(fitting, "fit", lambda model, optimizer, fabric, plan, *rest: seen.append((optimizer, plan)))
    config = active_config(
        optimizer="sgd", schedule="exponential", learning_rate=1e-3, later_learning_rate=1e-4, head_factor=10,
        later_head_factor=5, gamma=0.95, later_gamma=0.1, gamma_every=patches, epochs=5 * patches,
        later_epochs=3 * patches,
    )  # fmt: skip
    model = build_classifier("lau-cnn", 1, 2, seed=0, image_size=16)
    with progress("rounds", None) as bar:
        fit_round(model, slices, slices, config, make_fabric("cpu", "32-true"), bar, first=first, seed=0)
    [(optimizer, plan)] = seen
    per_epoch = SliceBatches(slices, config.batch_size, False, Augmentation("none"), 0).steps_per_epoch
    expected = [rate * gamma**epoch for epoch in range(epochs) for _ in range(patches * per_epoch)]
    assert [plan.rate(step) for step in range(plan.total_steps)] == pytest.approx(expected)
    assert max(group["rate_factor"] for group in optimizer.param_groups) == head
