"""The frame of a verb that leaves a run folder: check, prepare, make the folder, work in it, give the result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from lightning_fabric import Fabric

from metaseg.config.fields import config_verb
from metaseg.errors import RunError
from metaseg.models.processes import first_of_machine
from metaseg.runs.folder import RunFolder
from metaseg.runs.together import is_companion, open_run, together

Job = TypeVar("Job")
Result = TypeVar("Result")


def finished_run(config: Any) -> RunFolder | None:
    """The run that these settings would continue, if there is nothing left to do in it; says so.

    Args:
        config: The verb's settings, with ``out``, ``overwrite`` and ``resume``.

    Raises:
        RunError: The run folder cannot be written or resumed.
    """
    verb = config_verb(type(config))
    finished = RunFolder.check(config.out, verb, config, overwrite=config.overwrite, resume=config.resume)
    if finished is not None:
        if not any((finished.path / "checkpoints").glob("*.safetensors")):
            raise RunError(
                "the run says that it is finished, but its weights are gone",
                where=finished.path / "checkpoints",
                remedy="copy them back, or start the run again with --overwrite",
            )
        print(f"{finished.path} is finished; nothing to resume")
    return finished


def in_run_folder(
    config: Any,
    fabric: Fabric,
    prepare: Callable[[], Job],
    work: Callable[[RunFolder, Job], object],
    result: Callable[[RunFolder], Result],
) -> Result:
    """Do a verb in its run folder, in as many processes as the fabric asks for; or say that it is done.

    Args:
        config: The verb's settings.
        fabric: Devices and precision.
        prepare: What comes before the folder is made: data that cannot be used leave none behind. One process of each
            machine does it first.
        work: Does the work inside the folder.
        result: Reads off the folder what the verb gives.

    Raises:
        RunError: The run folder cannot be written or resumed.
        ProcessLostError: Another process died.
    """
    # The first process has looked. If its companions looked too, a run that is finished meanwhile would part them.
    finished = None if is_companion() else finished_run(config)
    if finished is not None:
        return result(finished)
    with together(fabric, config):
        with first_of_machine(fabric):
            job = prepare()
        with open_run(fabric, config) as run:
            work(run, job)
        # Here, since the folders of the other processes end with their work.
        return result(run)
