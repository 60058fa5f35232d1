from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import metaseg
from metaseg.adapt.methods.registry import resolve_defaults
from metaseg.adapt.methods.replay import Rehearse
from metaseg.adapt.setup import prepare_setup
from metaseg.config.io import load_config
from metaseg.config.segmentation import MetatuneConfig, NaivetuneConfig, TuneConfig
from metaseg.errors import UsageError
from metaseg.models.device import make_fabric
from metaseg.runs.networks import load_network

SMALL = {"shots": 2, "slices": 6, "budget": 24, "marks": 1, "watch_cases": 1, "pictures": False}


class TestDefaults:
    def test_a_method_has_its_own_where_nothing_is_given(self) -> None:
        naive, rehearse = (resolve_defaults(NaivetuneConfig(method=name)) for name in ("naive", "rehearse"))
        assert (naive.learning_rate, naive.schedule, naive.augment) == (3e-4, "constant", "none")
        assert (naive.ema, naive.interpolation) == (0.0, 1.0)
        assert (rehearse.learning_rate, rehearse.schedule, rehearse.augment) == (2e-3, "cosine", "full")
        assert (rehearse.ema, rehearse.interpolation) == (0.99, 0.75)
        assert resolve_defaults(NaivetuneConfig(method="wise-ft")).interpolation == 0.5
        assert resolve_defaults(MetatuneConfig()).augment == "none"

    def test_what_is_given_stands(self) -> None:
        config = resolve_defaults(NaivetuneConfig(method="rehearse", augment="none", learning_rate=0.1))
        assert (config.augment, config.learning_rate, config.schedule) == ("none", 0.1, "cosine")


class TestRehearse:
    def test_tune_runs_it_and_its_config_says_how(self, pretrained: dict[str, Any], tmp_path: Path) -> None:
        run = metaseg.tune(**pretrained, **SMALL, effort="none", out=tmp_path / "r").run
        config = load_config(TuneConfig, run / "config.yaml")
        assert (config.method, config.augment, config.schedule) == ("rehearse", "full", "cosine")
        chosen = list(csv.DictReader((run / "selection.csv").open()))
        assert sum(row["task"] == "source" for row in chosen) == 6
        trained = {row["patient"] for row in chosen if row["task"] == "source"}
        assert trained.isdisjoint({row["patient"] for row in chosen if row["task"] == "plain"})

    def test_share_of_nothing_is_naive_tuning_to_the_bit(self, pretrained: dict[str, Any], tmp_path: Path) -> None:
        same = {"augment": "none", "schedule": "constant", "learning_rate": 3e-4, "ema": 0, "interpolation": 1}
        one = metaseg.naivetune(**pretrained, **SMALL, out=tmp_path / "a", method="rehearse", replay_fraction=0, **same)
        other = metaseg.naivetune(**pretrained, **SMALL, out=tmp_path / "b")
        first, second = (load_network(result.run).model.state_dict() for result in (one, other))
        assert all(torch.equal(value, second[name]) for name, value in first.items())

    def test_loss_weighs_the_domains_by_their_slices(self, pretrained: dict[str, Any]) -> None:
        config = resolve_defaults(
            load_config(
                NaivetuneConfig,
                None,
                pretrained | {"from_run": str(pretrained["from_run"]), "method": "rehearse", "shots": 2},
            )
        )
        method = Rehearse(config, prepare_setup(config, draws_from_source=True), make_fabric("cpu", "32-true"))
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(4, 4, 16, 16, generator=generator)
        classes = torch.randint(4, (4, 16, 16), generator=generator)
        classes[3] = 0  # A small lesion, which one term over all slices would drown.
        classes[3, 0, :2] = 3
        model = nn.Conv2d(4, 4, 1)
        logits = model(images)
        expected = 0.75 * method.loss(logits[:3], classes[:3]) + 0.7 * 0.25 * method.loss(logits[3:], classes[3:])
        torch.testing.assert_close(method.objective(model, images, classes), expected)
        # One term over all would pool the pixels of both domains.
        assert not torch.isclose(method.loss(logits, classes), expected, rtol=1e-4)


class TestTransplantedSlices:
    def batches(self, pretrained: dict[str, Any], share: float) -> Any:
        given = {"from_run": str(pretrained["from_run"]), "method": "rehearse", "shots": 2, "augment": "none"}
        config = resolve_defaults(
            load_config(
                NaivetuneConfig, None, pretrained | given | {"replay_fraction": 0.5, "transplant_fraction": share}
            )
        )
        return Rehearse(config, prepare_setup(config, draws_from_source=True), make_fabric("cpu", "32-true")).batches(4)

    def test_target_slices_stay_and_source_slices_gain_lesion(self, pretrained: dict[str, Any]) -> None:
        plain, pasted = self.batches(pretrained, 0), self.batches(pretrained, 1)
        grown = []
        for step in range(4):
            (images, labels), (new_images, new_labels) = plain.draw(step), pasted.draw(step)
            assert torch.equal(images[:2], new_images[:2])
            assert torch.equal(labels[:2], new_labels[:2])
            assert new_labels.dtype == labels.dtype
            assert new_images.dtype == images.dtype
            grown += [not torch.equal(old, new) for old, new in zip(labels[2:], new_labels[2:], strict=True)]
        assert sum(grown) > len(grown) / 2
        assert plain.selections(0, 4) == pasted.selections(0, 4)

    def test_a_batch_is_a_function_of_its_step(self, pretrained: dict[str, Any]) -> None:
        one, other = self.batches(pretrained, 0.5), self.batches(pretrained, 0.5)
        other.draw(0)
        assert all(torch.equal(a, b) for a, b in zip(one.draw(2), other.draw(2), strict=True))


def test_tuned_run_can_be_evaluated_on_its_own_data(pretrained: dict[str, Any], tmp_path: Path) -> None:
    run = metaseg.tune(**pretrained, **SMALL, effort="none", out=tmp_path / "r").run
    result = metaseg.evaluate(run=run, surface=False, pictures=0, tta=False, cache=pretrained["cache"])
    assert len(result.cases)


@pytest.mark.parametrize("learning_rate", [0.0, -1.0])
def test_rate_must_be_positive(learning_rate: float) -> None:
    with pytest.raises(UsageError, match="learning_rate"):
        load_config(NaivetuneConfig, None, {"learning_rate": learning_rate})
