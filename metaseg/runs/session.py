"""One start of a verb that leaves a run folder: check, prepare, make the folder, work in it, give the result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from lightning_fabric import Fabric

from metaseg.config.options import RunOptions
from metaseg.errors import RunError
from metaseg.models.device import fabric_of
from metaseg.models.processes import first_of_machine
from metaseg.runs.folder import RunFolder
from metaseg.runs.manifest import make_manifest
from metaseg.runs.networks import PATIENTS_NAME, Inputs, patient_rows
from metaseg.runs.state import can_go_on, load_training_state
from metaseg.runs.together import is_companion, open_run, together

STATE_FILE = "last.state.pt"
RESULT_NAME = "result.json"

Job = TypeVar("Job")
Result = TypeVar("Result")


class RunSession:
    """One start of a verb in its run folder: what the run is made from, where it goes on, and what comes out.

    Args:
        run: The folder, locked.
        config: The verb's settings.
        fabric: Devices and precision.

    Attributes:
        state_file: Where the training state lies from which the run goes on.
    """

    def __init__(self, run: RunFolder, config: Any, fabric: Fabric) -> None:
        self.run, self.config, self.fabric = run, config, fabric
        self.state_file = run.checkpoints / STATE_FILE

    def saved_state(self) -> dict[str, Any] | None:
        """The training state to go on from; None where the training begins.

        Raises:
            RunError: It is damaged.
        """
        return load_training_state(self.state_file) if can_go_on(self.state_file, self.config.resume) else None

    def begin(
        self,
        inputs: Inputs,
        patients: Mapping[str, Iterable[Any]],
        inherited: list[dict[str, str]],
        *,
        fingerprint: str,
        synthetic: bool,
        parent: str | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """Write down what the run is made from: ``patients.json``, ``inputs.json`` and ``manifest.json``.

        Args:
            inputs: All that is read.
            patients: Cases by part.
            inherited: Patients of earlier trainings, see :func:`~metaseg.runs.networks.inherited_rows`.
            fingerprint: Digest of the data.
            synthetic: Whether phantoms are among them.
            parent: The run or checkpoint that this one starts from.
            extra: What else the manifest shall hold, as JSON values.
        """
        rows = {part: patient_rows(cases) for part, cases in patients.items()}
        self.run.write_json(PATIENTS_NAME, {**rows, "inherited": inherited})
        inputs.save(self.run.path)
        self.manifest = make_manifest(
            verb=self.run.verb,
            seed=self.config.seed,
            device=str(self.fabric.device),
            data_fingerprint=fingerprint,
            synthetic=synthetic,
            parent=parent,
            extra=extra,
        )
        self.manifest.save(self.run.path)

    def record(self, **values: Any) -> None:
        """Enter JSON values into this start's entry of the manifest."""
        self.manifest.record["sessions"][-1].update(values)
        self.manifest.save(self.run.path)

    def finish(self, result: Any, metrics: Mapping[str, float]) -> None:
        """Write ``result.json``, the best metrics into the state, and what the start has cost into the manifest."""
        self.run.write_json(RESULT_NAME, result)
        self.run.state.set_metrics(metrics)
        self.manifest.finish(self.run.path)


def finished_run(config: RunOptions) -> RunFolder | None:
    """The run that these settings would continue, if there is nothing left to do in it; says so.

    Args:
        config: The verb's settings, with ``out``, ``overwrite`` and ``resume``.

    Raises:
        RunError: The run folder cannot be written or resumed.
    """
    finished = RunFolder.check(config)
    if finished is not None:
        if not any((finished.path / "checkpoints").glob("*.safetensors")):
            raise RunError(
                "the run says that it is finished, but its weights are gone",
                where=finished.path / "checkpoints",
                remedy="copy them back, or start the run again with --overwrite",
            )
        print(f"{finished.path} is finished; nothing to resume")
    return finished


def run_session(
    config: RunOptions,
    prepare: Callable[[], Job],
    work: Callable[[RunSession, Job], object],
    result: Callable[[RunFolder], Result],
) -> Result:
    """Do a verb in its run folder, in as many processes as its settings ask for; or say that it is done.

    Args:
        config: The verb's settings.
        prepare: What comes before the folder is made: data that cannot be used leave none behind. One process of each
            machine does it first.
        work: Does the work inside the folder.
        result: Reads off the folder what the verb gives.

    Raises:
        RunError: The run folder cannot be written or resumed.
        ProcessLostError: Another process died.
    """
    fabric = fabric_of(config)
    # The first process has looked. If its companions looked too, a run that is finished meanwhile would part them.
    finished = None if is_companion() else finished_run(config)
    if finished is not None:
        return result(finished)
    with together(fabric, config):
        with first_of_machine(fabric):
            job = prepare()
        with open_run(fabric, config) as run:
            work(RunSession(run, config, fabric), job)
        # Here, since the folders of the other processes end with their work.
        return result(run)
