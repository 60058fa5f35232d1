from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import metaseg
from metaseg.adapt.methods.naive import Interpolation
from metaseg.errors import UsageError
from metaseg.runs.networks import load_network

SMALL = {"shots": 1, "slices": 6, "budget": 12, "marks": 1, "watch_cases": 1, "pictures": False}


def net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Conv2d(2, 1, 1))


def moved(model: nn.Module) -> nn.Module:
    other = copy.deepcopy(model)
    other.train()(torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1)))
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1.0)
    return other


class TestInterpolation:
    def test_weights_and_running_statistics_lie_on_the_line(self):
        source = net(0)
        tuned = moved(source)
        kept = Interpolation(source, 0.25)(tuned)
        for name, value in kept.state_dict().items():
            before, after = source.state_dict()[name], tuned.state_dict()[name]
            if value.is_floating_point():
                torch.testing.assert_close(value, 0.75 * before + 0.25 * after)
            else:
                assert torch.equal(value, after)

    def test_function_of_a_linear_network_is_interpolated(self):
        # Of a linear map the network between two is the mean of the two.
        one, other = nn.Linear(3, 2), nn.Linear(3, 2)
        values = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
        between = Interpolation(one, 0.5)(other)
        torch.testing.assert_close(between(values), (one(values) + other(values)) / 2)

    def test_whole_way_is_the_tuned_network_itself(self):
        tuned = net(1)
        assert Interpolation(net(0), 1.0)(tuned) is tuned

    def test_neither_end_is_changed_and_the_source_may_be_tuned_in_place(self):
        source = net(0)
        interpolation, before = Interpolation(source, 0.5), copy.deepcopy(source.state_dict())
        with torch.no_grad():
            source[0].weight.add_(5.0)
        tuned = copy.deepcopy(source)
        kept = interpolation(source)
        torch.testing.assert_close(kept.state_dict()["0.weight"], before["0.weight"] + 2.5)
        assert torch.equal(source[0].weight, tuned[0].weight)

    def test_another_architecture_is_refused(self):
        with pytest.raises(UsageError, match="two architectures"):
            Interpolation(net(0), 0.5)(nn.Conv2d(1, 1, 1))


class TestVerbs:
    @pytest.mark.parametrize("verb", [metaseg.naivetune, metaseg.metatune])
    def test_checkpoint_lies_between_the_parent_and_the_whole_run(
        self, verb: Any, pretrained: dict[str, Any], tmp_path: Path
    ) -> None:
        whole = verb(**pretrained, **SMALL, out=tmp_path / "whole").run
        half = verb(**pretrained, **SMALL, out=tmp_path / "half", interpolation=0.5).run
        parent, ends, kept = (load_network(run).model.state_dict() for run in (pretrained["from_run"], whole, half))
        for name, value in kept.items():
            torch.testing.assert_close(value, (parent[name] + ends[name]) / 2)

    def test_scratch_cannot_be_interpolated(self, pretrained: dict[str, Any], tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="drawn anew"):
            metaseg.naivetune(**pretrained, **SMALL, out=tmp_path / "r", method="scratch", interpolation=0.5)
