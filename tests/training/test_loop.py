from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from metaseg.errors import TrainingError, UsageError
from metaseg.models import ModelCard, build_segmenter, resolve_options, save_checkpoint
from metaseg.models.device import keep_freed_memory, make_fabric
from metaseg.runs.training_state import load_training_state
from metaseg.training.loop import LoopPlan, LoopState, fit, supervised
from metaseg.training.optimization import AveragedModel, build_optimizer


def batch(step):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(2, 1, 6, 6, generator=generator), torch.randint(0, 2, (2, 6, 6), generator=generator)


class Quiet:
    def __init__(self, stop_at=None):
        self.marks, self.stop_at = [], stop_at

    def on_step(self, step, values):
        pass

    def on_mark(self, step, model):
        self.marks.append(step)
        return step != self.stop_at


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.Dropout(0.3), nn.SiLU(), nn.Conv2d(3, 2, 1))


def train(tmp_path, plan, listener=None, resume=False, model=None, loss=None):
    model = model or net()
    optimizer = build_optimizer("adamw", model.parameters(), 0.01, 0.01)
    state = LoopState()
    final = fit(
        model,
        optimizer,
        make_fabric("cpu", "32-true"),
        plan,
        batch,
        supervised(loss or nn.functional.cross_entropy),
        listener or Quiet(),
        state,
        tmp_path / "state.pt",
        resume,
    )
    return model, final, state


def plan(steps=10, **changes):
    return LoopPlan(**({"total_steps": steps, "mark_every": 4, "rate": lambda step: 0.01 / (1 + step)} | changes))


class TestFit:
    def test_equals_a_plain_torch_loop(self, tmp_path):
        reference = net()
        for module in reference.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        model = copy.deepcopy(reference)
        optimizer = torch.optim.AdamW(reference.parameters(), lr=0.01, weight_decay=0.01)
        for step in range(10):
            optimizer.param_groups[0]["lr"] = 0.01 / (1 + step)
            images, classes = batch(step)
            optimizer.zero_grad()
            nn.functional.cross_entropy(reference(images), classes).backward()
            nn.utils.clip_grad_norm_(reference.parameters(), 0.5)
            optimizer.step()
        train(tmp_path, plan(clip_norm=0.5), model=model)
        for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)

    def test_marks_come_at_their_steps_and_at_the_end(self, tmp_path):
        listener = Quiet()
        train(tmp_path, plan(10), listener)
        assert listener.marks == [4, 8, 10]

    def test_listener_can_stop_early(self, tmp_path):
        _, _, state = train(tmp_path, plan(10), Quiet(stop_at=4))
        assert state.step == 4
        assert state.stopped

    @pytest.mark.parametrize("average", [0.0, 0.9])
    def test_resumed_run_has_the_same_bits(self, tmp_path, average):
        # Dropout is on: its masks must come out alike too.
        whole, whole_average, _ = train(tmp_path / "a", plan(10, average=average, seed=3))

        class Cut(Quiet):
            def on_step(self, step, values):
                if step == 6:
                    raise KeyboardInterrupt

        (tmp_path / "b").mkdir()
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "b", plan(10, average=average, seed=3), Cut())
        again, again_average, _ = train(tmp_path / "b", plan(10, average=average, seed=3), resume=True)
        for one, other in ((whole, again), (whole_average, again_average)):
            for name, value in one.state_dict().items():
                assert torch.equal(value, other.state_dict()[name]), name

    def test_non_finite_loss_stops_and_keeps_the_last_state(self, tmp_path):
        def exploding(logits, classes):
            value = nn.functional.cross_entropy(logits, classes)
            exploding.calls += 1
            return value * float("nan") if exploding.calls == 6 else value

        exploding.calls = 0
        with pytest.raises(TrainingError, match="loss became non-finite at step 6"):
            train(tmp_path, plan(10), loss=exploding)
        assert load_training_state(tmp_path / "state.pt")["step"] == 4

    @pytest.mark.parametrize("average", [0.0, 0.9])
    def test_weights_that_the_last_step_spoils_are_not_saved(self, tmp_path, average):
        listener = Quiet()
        rates = plan(10, average=average, rate=lambda step: 1e38 if step == 9 else 0.01)
        with pytest.raises(TrainingError, match=r"tensor .* of the network became non-finite at step 10"):
            train(tmp_path, rates, listener, loss=lambda logits, classes: 1e6 * logits.square().sum())
        assert listener.marks == [4, 8]
        assert load_training_state(tmp_path / "state.pt")["step"] == 8

    def test_images_and_not_the_rate_are_blamed(self, tmp_path, monkeypatch):
        good = batch

        def spoiled(step):
            images, classes = good(step)
            return images * float("inf"), classes

        monkeypatch.setitem(globals(), "batch", spoiled)
        with pytest.raises(TrainingError, match="images of the batch hold non-finite values at step 1"):
            train(tmp_path, plan(10))

    @pytest.mark.parametrize("saved", [False, True])
    def test_message_says_which_weights_are_good(self, tmp_path, saved):
        if saved:
            options = {"channels": (4, 8), "strides": (2,)}
            model = build_segmenter("unet", 1, 2, seed=0, **options)
            card = ModelCard("unet", 1, 2, ("t1",), "whole-lesion", options=resolve_options("unet", options), step=4)
            save_checkpoint(tmp_path / "last", model, card)
        with pytest.raises(TrainingError) as caught:
            train(tmp_path, plan(10), loss=lambda logits, classes: logits.sum() * float("nan"))
        told = f"{tmp_path / 'last.safetensors'} holds the last good weights, those of step 4"
        assert (told if saved else "no weights had been saved") in caught.value.remedy


class TestAveragedModel:
    def test_follows_the_closed_form(self):
        model = nn.Linear(1, 1, bias=False)
        with torch.no_grad():
            model.weight.fill_(0.0)
        averaged = AveragedModel(model, 0.5)
        expected = 0.0
        for number in range(6):
            with torch.no_grad():
                model.weight.fill_(float(number))
            averaged.update(model)
            decay = min(0.5, (1 + number) / (10 + number))
            expected = decay * expected + (1 - decay) * number
        assert averaged.model.weight.item() == pytest.approx(expected, rel=1e-6)

    def test_buffers_are_copied(self):
        model = nn.BatchNorm2d(2)
        averaged = AveragedModel(model, 0.9)
        model.train()(torch.randn(4, 2, 3, 3))
        averaged.update(model)
        assert torch.equal(averaged.model.running_mean, model.running_mean)


class TestDevice:
    @pytest.mark.parametrize("device", ["tpu", "cuda:x", "gpu"])
    def test_unknown_devices_are_refused(self, device):
        with pytest.raises(UsageError, match="unknown device"):
            make_fabric(device, "32-true")

    @pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
    def test_missing_gpu_is_said(self):
        with pytest.raises(UsageError, match="not here"):
            make_fabric("cuda", "32-true")

    def test_half_precision_is_refused_on_a_cpu(self):
        with pytest.raises(UsageError, match="needs a GPU"):
            make_fabric("cpu", "16-mixed")

    def test_allocator_can_be_set_again_and_again(self):
        assert keep_freed_memory() == keep_freed_memory()
