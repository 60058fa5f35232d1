"""``metaseg metatune``: meta-tuning whose tasks are learned and unlearned slices (Han et al. 2018, Algorithm 1)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lightning_fabric import Fabric

from metaseg.adapt.meta_tuning import MetaTuning, parse_threshold
from metaseg.adapt.method_defaults import resolve_defaults
from metaseg.adapt.methods import find_method
from metaseg.adapt.methods.maml import Maml
from metaseg.adapt.order_scores import check_order
from metaseg.adapt.result import AdaptationResult
from metaseg.adapt.session import run_adaptation
from metaseg.adapt.setting import Setting
from metaseg.adapt.watch import Watch
from metaseg.config import MetatuneConfig
from metaseg.errors import DataError, UsageError, recorded_warnings
from metaseg.models.processes import agree
from metaseg.runs.folder import RunFolder
from metaseg.runs.training_state import can_go_on, load_training_state, save_training_state
from metaseg.training.fitted_run import STATE_FILE
from metaseg.training.optimizers import build_optimizer


@recorded_warnings()
def run_metatune(config: MetatuneConfig) -> AdaptationResult:
    """Meta-tune a pretrained network to a new disease.

    Args:
        config: All settings; see :class:`~metaseg.config.MetatuneConfig`.

    Raises:
        DataError: The data cannot be used.
        UsageError: Settings contradict each other or the data.
        RunError: There is no such pretrained run, or the run folder cannot be written or resumed.
        TrainingError: A loss or gradient became non-finite; the last good weights are kept.
    """
    parse_threshold(config.threshold)
    check_order(config)
    find_method(config.method, "meta").build.check(config)
    config = resolve_defaults(config)
    if config.precision == "16-mixed":
        raise UsageError("16-mixed cannot scale meta-gradients", remedy="use --precision bf16-mixed or 32-true")
    return run_adaptation(config, _tune, config.replay != "none")


def _tune(config: MetatuneConfig, run: RunFolder, fabric: Fabric, setting: Setting) -> None:
    setting = replace(setting, network=replace(setting.network, model=fabric.to_device(setting.network.model)))
    model = setting.network.model
    method: Maml = find_method(config.method, "meta").build(config, model, fabric)
    optimizer = build_optimizer(
        config.outer_optimizer, [*model.parameters(), *method.parameters()], config.outer_learning_rate, momentum=0.0
    )
    state_file: Path = run.checkpoints / STATE_FILE
    values = load_training_state(state_file) if can_go_on(state_file, config.resume) else None
    spent = None if values is None else int(values["spent"])
    with Watch(run, config, setting, fabric, spent, None if values is None else values.get("rows")) as watch:
        agree(fabric, model)
        tuning = MetaTuning(config, setting, fabric, watch, method, optimizer)
        if values is not None:
            tuning.restore(values)
        else:
            tuning.figures["before"] = watch.mark(tuning.model, 0)
        idle = 0
        while tuning.state.spent < config.budget:
            spent = tuning.state.spent
            tuning.visit()
            idle = idle + 1 if tuning.state.spent == spent else 0
            if idle == len(setting.shots):
                raise DataError(
                    "no shot has slices enough for a task",
                    expected="at least two learned or two unlearned slices in a case",
                    remedy="raise --slices, or take patients with more tumour-bearing slices",
                )
            save_training_state(state_file, {**tuning.saved(), "rows": watch.sync()})
        watch.finish(tuning.final, tuning.state.spent, tuning.figures["before"], tuning.figures["after"])
