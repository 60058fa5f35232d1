"""``metaseg naivetune``: plain fine-tuning (Han et al. 2018), or with a guard against forgetting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import cast

from safetensors.torch import save as save_safetensors
from torch import nn

from metaseg.adapt.batches import BatchSource
from metaseg.adapt.choice import choose_and_tune
from metaseg.adapt.folds import cross_validate, cross_validated_result
from metaseg.adapt.methods import find_method
from metaseg.adapt.methods.naive import Interpolation, Naive
from metaseg.adapt.methods.registry import resolve_defaults
from metaseg.adapt.setup import AdaptationResult, AdaptationSetup, prepare_setup
from metaseg.adapt.watch import Watch, due_marks, is_first_mark
from metaseg.config.segmentation import NaivetuneConfig
from metaseg.errors import UsageError, recorded_warnings
from metaseg.files import replacing
from metaseg.runs.session import RunSession, run_session
from metaseg.store.stored_case import share_cache
from metaseg.training.loop import LoopPlan, LoopState, fit
from metaseg.training.optimization import build_optimizer, learning_rate


@dataclass
class _Listener:
    """Marks and logs around the loop."""

    watch: Watch
    method: Naive
    slices: BatchSource
    interpolation: Callable[[nn.Module], nn.Module]
    prepared: int
    state: LoopState

    def spent(self, step: int) -> int:
        """Slice gradient evaluations after so many steps."""
        return self.prepared + step * self.method.config.batch_size

    def on_step(self, step: int, values: dict[str, float]) -> None:
        spent = self.spent(step)
        self.watch.log.scalars({"train/loss": values["loss"]}, step=spent)
        self.watch.selection.add(self.slices.selections(step - 1, spent))
        self.watch.advance(self.method.config.batch_size, loss=values["loss"])

    def on_mark(self, step: int, model: nn.Module) -> bool:
        with self.watch.uncounted():
            kept = self.interpolation(self.method.export(model))
        self.state.extra["after"] = self.watch.mark(kept, self.spent(step), step)
        self.watch.save(kept, self.spent(step))
        for name, tensors in self.method.files(model).items():
            with replacing(self.watch.run.checkpoints / f"{name}.safetensors") as stream:
                stream.write(save_safetensors({key: tensor.cpu().contiguous() for key, tensor in tensors.items()}))
        self.state.extra["rows"] = self.watch.sync()
        return True


@recorded_warnings()
def run_naivetune(config: NaivetuneConfig) -> AdaptationResult:
    """Fine-tune a pretrained network on few target patients.

    Args:
        config: All settings; see :class:`~metaseg.config.segmentation.NaivetuneConfig`.

    Raises:
        DataError: The data cannot be used.
        UsageError: Settings contradict each other or the data.
        RunError: There is no such pretrained run, or the run folder cannot be written or resumed.
        TrainingError: The loss became non-finite.
    """
    config, info = resolve_defaults(config), find_method(config.method, "plain")
    draws_from_source = info.needs_source == "always"
    tune = partial(choose_and_tune, tune=_tune, inherits=info.build.inherits)
    work = partial(cross_validate, tune=tune, inherits=info.build.inherits)
    return run_session(config, lambda: prepare_setup(config, draws_from_source), work, cross_validated_result)


def _tune(session: RunSession, setup: AdaptationSetup) -> None:
    config, fabric = session.config, session.fabric
    share_cache(setup.cases, config.cache_gb)
    method: Naive = find_method(config.method, "plain").build(config, setup, fabric)
    state, saved = LoopState(), session.saved_state()
    before = fabric.to_device(setup.network.model)
    extra = {} if saved is None else saved["extra"]
    spent = None if saved is None else int(extra["prepared"]) + int(saved["step"]) * config.batch_size
    with Watch(session, setup, spent, extra.get("rows"), inherits=method.inherits) as watch:
        if saved is None:
            state.extra["before"] = watch.mark(before, 0, 0)
        interpolation = setup.way_back or Interpolation(before, config.interpolation or 1.0)
        model = fabric.to_device(method.network(setup.network.model))
        prepared = method.prepare(model)
        plan = _plan(config, prepared)
        if saved is None:
            watch.advance(prepared)
        slices = method.batches(plan.total_steps)
        state.extra["prepared"] = prepared
        listener = _Listener(watch, method, slices, interpolation, prepared, state)
        optimizer = build_optimizer(config.optimizer, model.parameters(), plan.rate(0), momentum=0.0)
        final = fit(
            model,
            optimizer,
            fabric,
            plan,
            slices.draw,
            method.objective,
            listener,
            state,
            session.state_file,
            resume=saved is not None,
        )
        spent = listener.spent(plan.total_steps)
        watch.finish(interpolation(method.export(final)), spent, state.extra["before"], state.extra["after"])


def _plan(config: NaivetuneConfig, prepared: int) -> LoopPlan:
    """Whole batches only: a budget that is no multiple of them ends, and is marked for the last time, before it."""
    # resolve_defaults has filled in whatever a method has its own default for.
    rate, schedule = cast(float, config.learning_rate), cast(str, config.schedule)
    size, steps = config.batch_size, (config.budget - prepared) // config.batch_size
    if prepared and steps < 1:
        raise UsageError(
            f"a budget of {config.budget} slice gradient evaluations, {prepared} taken by preparation",
            expected=f"a batch of {size} slices at least beside it",
            remedy="raise --budget, or let the method prepare with less (--fisher-slices)",
        )
    steps = max(1, steps)
    total = prepared + steps * size
    marks = (
        step
        for step in range(1, steps + 1)
        if is_first_mark(step, config.first_marks)
        or due_marks(total - (steps - step + 1) * size, total - (steps - step) * size, total, config.marks)
    )
    return LoopPlan(
        total_steps=steps,
        mark_every=steps,
        mark_steps=frozenset(marks),
        rate=lambda step: learning_rate(step, steps, rate, schedule),
        clip_norm=config.clip_norm,
        average=cast(float, config.ema),
        seed=config.seed,
    )
