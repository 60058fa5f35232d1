"""The frame of every adaptation verb: check, prepare, write the run folder, give the result.

Settings that a method has its own defaults for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from lightning_fabric import Fabric

from metaseg.adapt.methods import find_method
from metaseg.adapt.methods.registry import Family
from metaseg.adapt.setup import AdaptationResult, Setting, adaptation_result, prepare_setting
from metaseg.config.segmentation import AdaptOptions, MetatuneConfig, NaivetuneConfig
from metaseg.models.device import fabric_of
from metaseg.runs.folder import RunFolder
from metaseg.runs.session import in_run_folder
from metaseg.store.stored_case import share_cache

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


C_method_defaults = TypeVar("C_method_defaults", NaivetuneConfig, MetatuneConfig)


def resolve_defaults(config: C_method_defaults) -> C_method_defaults:
    """The settings with the method's defaults where nothing was given; those that are given stand.

    Raises:
        UsageError: There is no such method in the verb's family.
    """
    family: Family = "plain" if isinstance(config, NaivetuneConfig) else "meta"
    defaults = find_method(config.method, family).build.defaults
    return replace(config, **{name: value for name, value in defaults.items() if getattr(config, name) is None})
