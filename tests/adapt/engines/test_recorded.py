"""What a recording may be replayed for; recordings themselves are tested in test_cuda.py, on a GPU."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest
import torch

from metaseg.adapt.engines import recorded as recorded_tasks
from metaseg.adapt.engines.functional import InnerLoop
from metaseg.adapt.engines.recorded import Recordings, constant_part, layout_of


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


class Told(Recordings):
    """Recordings without a GPU: tells what it would do."""

    def __init__(self, fails: bool = False, **options: int) -> None:
        super().__init__(**options)
        self.fails, self.did = fails, []

    def _record(self, model, tasks, loss, inner, autocast):
        self.did.append("record")
        self.hindrance = "too little memory" if self.fails else ""
        return None if self.fails else self

    def replay(self, tasks, positions):
        self.did.append("replay")
        return positions


@pytest.fixture
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))
    monkeypatch.setattr(recorded_tasks, "gradient_of", lambda model, tasks, positions, *_: positions)


@pytest.mark.usefixtures("without_gpu")
class TestWhatIsRecorded:
    def test_the_second_time_and_replayed_from_then_on(self, lab: SimpleNamespace):
        model, told, loss = lab.net(), Told(), torch.nn.CrossEntropyLoss()
        inner = InnerLoop({"0.weight": 0.1})
        for _ in range(4):
            assert told.task_gradient(model, lab.tasks(2), (4, 7), loss, inner) == (4, 7)
        assert told.did == ["record", "replay", "replay", "replay"]
        # Another shape, another loss and another number of tasks are others.
        for tasks, other in (
            (lab.tasks(2, 12), loss),
            (lab.tasks(2), torch.nn.CrossEntropyLoss()),
            (lab.tasks(3), loss),
        ):
            told.did.clear()
            told.task_gradient(model, tasks, (0, 1), other, inner)
            assert told.did == []

    def test_what_cannot_be_recorded_is_tried_once(self, lab: SimpleNamespace):
        model, told, loss, inner = (
            lab.net(),
            Told(fails=True),
            torch.nn.CrossEntropyLoss(),
            InnerLoop({"0.weight": 0.1}),
        )
        found = [told.task_gradient(model, lab.tasks(2), (0, 1), loss, inner) for _ in range(4)]
        assert found == [(0, 1), None, None, None]
        assert told.did == ["record"]
        assert told.hindrance
        told.task_gradient(lab.net(), lab.tasks(2), (0, 1), loss, inner)
        assert not told.hindrance  # what was said of one network is not said of the next

    def test_no_more_than_so_many(self, lab: SimpleNamespace):
        model, told, loss, inner = lab.net(), Told(most=1), torch.nn.CrossEntropyLoss(), InnerLoop({"0.weight": 0.1})
        for _ in range(2):
            told.task_gradient(model, lab.tasks(1), (0,), loss, inner)
        assert told.task_gradient(model, lab.tasks(2), (0, 1), loss, inner) is None
        assert told.task_gradient(model, lab.tasks(1), (0,), loss, inner) == (0,)

    def test_all_anew_for_another_network_or_one_that_has_moved(self, lab: SimpleNamespace):
        model, told, loss, inner = lab.net(), Told(), torch.nn.CrossEntropyLoss(), InnerLoop({"0.weight": 0.1})

        def twice(model: torch.nn.Module) -> list[str]:
            told.did.clear()
            for _ in range(2):
                told.task_gradient(model, lab.tasks(2), (0, 1), loss, inner)
            return told.did

        assert twice(model) == ["record", "replay"]
        assert twice(model) == ["replay", "replay"]
        assert twice(lab.net()) == ["record", "replay"]
        assert twice(model) == ["record", "replay"]
        held, model[0].weight.data = model[0].weight.data, model[0].weight.data.clone()
        assert twice(model) == ["record", "replay"]
        assert held is not None
