"""What a recording may be replayed for; recordings themselves are tested in test_cuda.py, on a GPU."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from metaseg.adapt.engines.functional_engine import InnerLoop
from metaseg.adapt.engines.recorded_tasks import Recordings, constant_part, layout_of


@pytest.mark.parametrize(
    "other",
    [
        InnerLoop({"a": 0.1, "b": 0.3}),
        InnerLoop({"a": 0.1}),
        InnerLoop({"a": 0.1, "b": 0.2}, steps=2),
        InnerLoop({"a": 0.1, "b": 0.2}, first_order=True),
        InnerLoop({"a": 0.1, "b": 0.2}, query_weights=[0.5]),
        InnerLoop([{"a": 0.1, "b": 0.2}, {"a": 0.1, "b": 0.2}], steps=2),
    ],
)
def test_inner_loops_are_told_apart(other: InnerLoop):
    one = InnerLoop({"a": 0.1, "b": 0.2})
    assert constant_part(one) == constant_part(InnerLoop({"a": 0.1, "b": 0.2})) != constant_part(other)


def test_rates_that_are_tensors_are_not_constant(lab: SimpleNamespace):
    inner = InnerLoop([{"a": 0.1}, {"a": torch.tensor(0.1)}], steps=2)
    assert constant_part(inner) is None
    assert Recordings().task_gradient(lab.net(), lab.tasks(), (0, 1), torch.nn.CrossEntropyLoss(), inner) is None


def test_layout_follows_memory_mode_and_frozen_layers(lab: SimpleNamespace):
    model = lab.nets["batch norm"]()
    before = layout_of(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sum(one.sum() for one in model.parameters()).backward()
    optimizer.step()
    assert layout_of(model) == before  # a step of the optimiser moves nothing
    model.eval()
    assert layout_of(model) != before
    model.train()
    model[0].weight.requires_grad_(False)
    assert layout_of(model) != before
    model[0].weight.requires_grad_(True)
    assert layout_of(model) == before
    held, model[0].weight.data = model[0].weight.data, model[0].weight.data.clone()
    assert layout_of(model) != before
    assert held is not None
