"""One start of a verb that leaves a run folder: what it reads, the frame of its work, and what it writes of itself.

``inputs.json`` is the content of all that a run reads, recorded when it begins and compared when it continues. With
other cases the same seed draws another split, and a patient that was trained on would be validated on. So a run
continues with the cases and the parts that it began with, or says what is not as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any, TypeVar

from lightning_fabric import Fabric

from metaseg.config.fields import Config, describe_fields, plugins_of
from metaseg.config.options import RunOptions
from metaseg.errors import DataError, RunError, some, warn_user
from metaseg.files import FileKind, read_json, write_json
from metaseg.models.checkpoint import checkpoint_files
from metaseg.models.device import fabric_of
from metaseg.models.processes import first_of_machine
from metaseg.runs.folder import RunFolder, config_paths, is_run
from metaseg.runs.manifest import MANIFEST_NAME, Manifest, read_manifest
from metaseg.runs.networks import PATIENTS_NAME, SOURCE, find_checkpoint, patient_rows, read_patients
from metaseg.runs.state import STATE_NAME, RunState
from metaseg.runs.together import is_companion, open_run, together
from metaseg.runs.training_state import can_go_on, load_training_state
from metaseg.store.store import SliceStore
from metaseg.store.stored_case import FORMAT_VERSION

STATE_FILE = "last.state.pt"
RESULT_NAME = "result.json"
INPUTS_NAME = "inputs.json"
_BLAKE2B = partial(blake2b, digest_size=16)
INPUTS_KIND = FileKind("what a metaseg run reads", "start the run again with --overwrite")
WRITTEN = frozenset({"out", "cache", "ask"})
"""Paths among the settings that are written to."""
NOT_BY_FILE = WRITTEN | {"data", "source", "ranking_from"}
"""Those, and the paths that hold cases, which are compared one by one, or save work."""

REMEDY = "bring back what the run began with, or start another run with another --out"

Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True)
class InputsContent:
    """What ``inputs.json`` holds; see :class:`Inputs`."""

    store_format: int
    files: dict[str, str | None]
    cases: dict[str, dict[str, str]]


@dataclass
class Inputs:
    """What a run reads; of a run that begins it is gathered, of one that continues it is compared with the record.

    Attributes:
        run: The run that continues; None for one that begins.
        cases: For each set of cases (``data``, ``source``) the key of each case's content by its id.
        files: Digest of each file that a setting names; None where the setting names no file.
        store_format: Version of the rules by which the cases were prepared.
        recorded: Whether ``cases`` and ``files`` are the run's record.
    """

    run: Path | None = None
    cases: dict[str, dict[str, str]] = field(default_factory=dict)
    files: dict[str, str | None] = field(default_factory=dict)
    store_format: int = FORMAT_VERSION
    recorded: bool = False

    @classmethod
    def of(cls, config: Any) -> Inputs:
        """The record of the run that is to be resumed, or an empty one.

        Args:
            config: The verb's settings, with ``out`` and ``resume``.

        Raises:
            DataError: The run begins, and a file or folder that a setting names is not there.
            RunError: The record is damaged.
        """
        if not config.resume or config.out is None or not is_run(config.out):
            _check_there(config)
            return cls()
        path = config.out / INPUTS_NAME
        if not path.exists():
            # Begun by an earlier version, or cut off before it had opened its data; or somebody has deleted it.
            begun_so = RunState.open(config.out / STATE_NAME).settings is not None
            if begun_so and any((config.out / "checkpoints").glob("*.safetensors")):
                warn_user(
                    "the run's record of its data is gone: only their fingerprint in the manifest is compared",
                    where=path,
                    remedy="copy the file back and resume again",
                )
            return cls(config.out)
        if not (config.out / MANIFEST_NAME).exists():
            warn_user(
                f"{MANIFEST_NAME} is gone: versions, command and warnings of earlier sessions are lost",
                where=config.out,
                remedy="copy it back, if there is a copy",
            )
        return cls(config.out, **vars(read_json(path, INPUTS_KIND, InputsContent)), recorded=True)

    def take_files(self, config: Config) -> None:
        """Note the files that settings name, such as the split and the pretrained network, or compare them.

        Raises:
            RunError: One is not as it was when the run began.
        """
        found = {name: digest_of_input(value) for name, value in config_paths(config) if name not in NOT_BY_FILE}
        if not self.recorded:
            self.files = found
            return
        changed = [name for name, digest in found.items() if digest != self.files.get(name, digest)]
        if changed:
            flags = {item.name: item.flag for item in describe_fields(type(config))}
            named = dict(config_paths(config))
            what = ", ".join(f"{flags[name]} {named[name]}" for name in changed)
            state = "has changed" if all(found[name] for name in changed) else "has changed or is gone"
            raise self._refusal(f"what the run reads {state} since it began: {what}", "files")

    def take(self, name: str, store: SliceStore) -> SliceStore:
        """Note a set of cases, or compare it: cases that came to it since the run began are left out, with a warning.

        Args:
            name: ``data`` or ``source``.
            store: All cases that were opened.

        Returns:
            The cases to continue with, in the order in which the run had them.

        Raises:
            RunError: Cases are gone, or their images or labels are not as they were.
        """
        keys = {case.id: case.folder.name for case in store}
        if not self.recorded:
            self.cases[name] = keys
            return store
        before = self.cases.get(name, {})
        gone = [case for case in before if case not in keys]
        comparable = self.store_format == FORMAT_VERSION
        changed = [case for case, key in before.items() if comparable and keys.get(case, key) != key]
        if gone or changed:
            told = [_counted(gone, "not there any more"), _counted(changed, "not as before (image, label or patient)")]
            raise self._refusal("the cases are not those that the run began with: " + "; ".join(filter(None, told)))
        if not comparable:
            warn_user(
                "this version prepares cases by other rules than the run began with: whether they changed is not known",
                where=self.run,
            )
        added = [case for case in keys if case not in before]
        if added:
            warn_user(
                f"{_counted(added, 'new since the run began')}: left out, so that its parts stay as they were",
                where=self.run,
                remedy="start another run with another --out to use them",
            )
        return store.select(list(before))

    def part(self, name: str, store: SliceStore) -> SliceStore | None:
        """The cases of a part as the run recorded them; None for a run that begins.

        Args:
            name: Part of ``patients.json``.
            store: The cases.

        Raises:
            RunError: The run has trained but no longer says on whom, or a case is gone.
        """
        if self.run is None:
            return None
        rows = read_patients(self.run).get(name)
        if rows is None:
            if not any((self.run / "checkpoints").glob("*")):
                return None
            raise RunError(
                f"the run does not say any more which patients are its part '{name}'",
                where=self.run / PATIENTS_NAME,
                remedy="copy the file again, or start the run again with --overwrite",
            )
        names = [row.case for row in rows]
        here = {case.id for case in store}
        gone = [name for name in names if name not in here]
        if gone:
            raise self._refusal(f"of the part '{name}' {_counted(gone, 'not there any more')}")
        return store.select(names)

    def check_fingerprint(self, fingerprint: str) -> None:
        """Compare the digest of all data with the manifest's, where a run of an earlier version recorded nothing else.

        Raises:
            RunError: They differ.
        """
        if self.run is None or self.recorded:
            return
        before = read_manifest(self.run).get("data_fingerprint")
        if before not in (None, fingerprint):
            raise self._refusal(
                "the cases are not those that the run began with: their fingerprint differs", MANIFEST_NAME
            )

    @property
    def parent(self) -> str | None:
        """The run or checkpoint that the run began from, as its manifest names it."""
        name = None if self.run is None else read_manifest(self.run).get("parent")
        return None if name is None else str(Path(name).expanduser())

    def save(self, folder: Path) -> None:
        """Write ``inputs.json`` into a run folder that has none yet."""
        if not (folder / INPUTS_NAME).exists():
            write_json(folder / INPUTS_NAME, asdict(InputsContent(self.store_format, self.files, self.cases)))

    def _refusal(self, found: str, name: str = "cases") -> RunError:
        where = None if self.run is None else self.run / (MANIFEST_NAME if name == MANIFEST_NAME else INPUTS_NAME)
        return RunError(found, where=where, expected="the data and files that the run recorded", remedy=REMEDY)


def _check_there(config: Config) -> None:
    """Raise for a file or folder that is not there: before anything is prepared or trained that would need it."""
    for item in describe_fields(type(config)):
        value = getattr(config, item.name)
        named = value if item.element is Path else (value,) if item.annotation is Path and value is not None else ()
        absent = [path for path in named if not path.exists()]
        if absent and item.name not in WRITTEN:
            raise DataError(
                f"what {item.flag} names does not exist",
                where=absent[0],
                expected=item.help.rstrip("."),
                remedy=f"check the path, or omit {item.flag}",
            )


def content_digest(name: str | Path, hasher: Callable[[bytes], Any] = sha256) -> str:
    """Digest of a file, or of the weights of the run or checkpoint of this name; what a study or a run was made from.

    Args:
        name: The file, run or checkpoint.
        hasher: As those of ``hashlib``; studies record SHA-256.

    Raises:
        DataError: The file cannot be read.
        RunError: There is no such run or checkpoint.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        path = checkpoint_files(find_checkpoint(path)[0])[0]
    elif not path.exists() and checkpoint_files(path)[0].exists():
        path = checkpoint_files(path)[0]
    try:
        state = path.stat()
        return _digest_of_file(path, state.st_mtime_ns, state.st_size, hasher)
    except OSError as error:
        raise DataError(f"the file cannot be read: {error.strerror or error}", where=path) from error


@lru_cache(maxsize=64)
def _digest_of_file(path: Path, modified: int, size: int, hasher: Callable[[bytes], Any]) -> str:
    # Studies ask often, and weights may be large.
    return str(hasher(path.read_bytes()).hexdigest())


def digest_of_input(name: str) -> str | None:
    """Digest of what a setting of a run names; None if there is no such file, run or checkpoint."""
    try:
        return content_digest(name, _BLAKE2B)
    except (DataError, RunError):
        return None


def _counted(names: Sequence[str], what: str) -> str:
    """How many cases are so, and the first of them; empty if none is."""
    return f"{len(names)} {'is' if len(names) == 1 else 'are'} {what} ({some(names)})" if names else ""


class RunSession:
    """One start of a verb in its run folder: what the run is made from, where it continues, and what comes out.

    Args:
        run: The folder, locked.
        config: The verb's settings.
        fabric: Devices and precision.

    Attributes:
        state_file: Where the training state lies from which the run continues.
        also: What else ``result.json`` shall hold, beside what :meth:`finish` is given.
    """

    manifest: Manifest

    def __init__(self, run: RunFolder, config: Any, fabric: Fabric) -> None:
        self.run, self.config, self.fabric = run, config, fabric
        self.state_file = run.checkpoints / STATE_FILE
        self.also: dict[str, Any] = {}
        self._begun = False

    def saved_state(self) -> dict[str, Any] | None:
        """The training state to continue from; None where the training begins.

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
        **extra: Any,
    ) -> None:
        """Write down what the run is made from: ``patients.json``, ``inputs.json`` and ``manifest.json``; once.

        Args:
            inputs: All that is read.
            patients: Cases by part.
            inherited: Patients of earlier trainings, see :func:`~metaseg.runs.networks.inherited_rows`.
            fingerprint: Digest of the data.
            synthetic: Whether phantoms are among them.
            parent: The run or checkpoint that this one starts from.
            extra: What else the manifest shall hold, as JSON values.
        """
        if self._begun:
            return
        self._begun = True
        rows = {part: patient_rows(cases) for part, cases in patients.items()}
        self.run.write_json(PATIENTS_NAME, {**rows, "inherited": inherited})
        inputs.save(self.run.path)
        self.manifest = Manifest(
            verb=self.run.verb,
            seed=self.config.seed,
            device=str(self.fabric.device),
            data_fingerprint=fingerprint,
            synthetic=synthetic,
            parent=parent,
            **({"plugins": plugins} if (plugins := plugins_of(self.config)) else {}),
            **extra,
        )
        self.manifest.save(self.run.path)

    def record(self, **values: Any) -> None:
        """Enter JSON values into this start's entry of the manifest."""
        self.manifest.record["sessions"][-1].update(values)
        self.manifest.save(self.run.path)

    def finish(self, result: Any, metrics: Mapping[str, float]) -> None:
        """Write ``result.json``, the best metrics into the state, and what the start has cost into the manifest."""
        self.run.write_json(RESULT_NAME, {**result, **self.also} if self.also else result)
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
        if all(file.stem == SOURCE for file in (finished.path / "checkpoints").glob("*.safetensors")):
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
