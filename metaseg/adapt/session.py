"""The frame of every adaptation verb: check, prepare, write the run folder, give the result."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from lightning_fabric import Fabric

from metaseg.adapt.result import AdaptationResult, adaptation_result
from metaseg.adapt.setting import Setting, prepare_setting
from metaseg.config import AdaptOptions
from metaseg.models.device import fabric_of
from metaseg.runs.folder import RunFolder
from metaseg.runs.verb_frame import in_run_folder
from metaseg.store.slice_cache import share_cache

C = TypeVar("C", bound=AdaptOptions)
Tune = Callable[[C, RunFolder, Fabric, Setting], None]


def run_adaptation(config: C, tune: Tune[C], memory: bool) -> AdaptationResult:
    """Run one adaptation, or say that it is finished.

    Args:
        config: The verb's settings.
        tune: Does the work inside the run folder.
        memory: The method draws from the source's training cases.

    Raises:
        DataError: The data cannot be used.
        UsageError: Settings contradict each other or the data.
        RunError: There is no such pretrained run, or the run folder cannot be written or resumed.
        TrainingError: A loss or gradient became non-finite.
    """
    fabric = fabric_of(config)

    def prepare() -> Setting:
        setting = prepare_setting(config, memory)
        share_cache(setting.cases, config.cache_gb)
        return setting

    return in_run_folder(
        config, fabric, prepare, lambda run, setting: tune(config, run, fabric, setting), adaptation_result
    )
