"""``inputs.json``: the content of all that a run reads, recorded when it begins and compared when it goes on.

With other cases the same seed draws another split, and a patient that was trained on would be validated on. So a run
goes on with the cases and the parts that it began with, or says what is not as it was.

From what a user names (a run, a checkpoint, nothing) to a network, its card and its history.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from metaseg.cases.labels import LABEL_SPACES
from metaseg.cases.patients import patient_of
from metaseg.config.fields import Config, describe_fields
from metaseg.errors import MetasegError, RunError, UsageError, some, warn_user
from metaseg.files import FileKind, read_json, write_json
from metaseg.models.card import read_card
from metaseg.models.checkpoint import ModelCard, checkpoint_files, load_checkpoint, load_classifier, save_checkpoint
from metaseg.models.classifier import Classifier
from metaseg.models.segmenters import build_segmenter, give_network, plugin_of
from metaseg.models.weights import unique_state
from metaseg.runs.folder import RunFolder, config_paths, is_run, like_named
from metaseg.runs.manifest import MANIFEST_NAME, portable, read_manifest
from metaseg.runs.state import STATE_NAME, RunState
from metaseg.store.prepare import cache_root
from metaseg.store.store import SliceStore
from metaseg.store.stored_case import FORMAT_VERSION

PATIENTS_NAME = "patients.json"


@dataclass(frozen=True)
class PatientRow:
    """A case in ``patients.json``."""

    patient: str
    case: str = ""
    cohort: str = ""


@dataclass(frozen=True)
class LoadedNetwork:
    """A network ready to use.

    Attributes:
        model: In evaluation mode, on the CPU.
        card: What it is.
        checkpoint: The weights' file.
        run: Its run folder; None for a checkpoint outside of one.
    """

    model: nn.Module
    card: ModelCard
    checkpoint: Path
    run: Path | None

    @property
    def name(self) -> str:
        """Short name: that of its run, or of its file."""
        return self.run.resolve().name if self.run is not None else self.checkpoint.stem

    def record(self) -> dict[str, Any]:
        """Name, files, digest (blake2b of the weights) and history as JSON values, without this machine's folders."""
        return {
            "name": self.name,
            "run": None if self.run is None else portable(str(self.run)),
            "checkpoint": portable(str(self.checkpoint)),
            "checkpoint_digest": read_card(checkpoint_files(self.checkpoint)[1])[1],
            "architecture": self.card.name,
            "modalities": list(self.card.modalities),
            "label_space": self.card.label_space,
            "trained_on": list(self.card.trained_on),
            "parent": None if self.card.parent is None else portable(self.card.parent),
            "synthetic": self.card.synthetic,
        }

    @property
    def trained_patients(self) -> frozenset[str]:
        """Patients whose labels any of its trainings saw, its parents' included, as far as its run tells."""
        return frozenset() if self.run is None else trained_patients(self.run)

    @property
    def patients_known(self) -> bool:
        """Whether the run tells all patients that its trainings saw."""
        return self.run is not None and patients_known(self.run)

    def warn_if_patients_unknown(self) -> None:
        """Warn if nobody can tell whether a patient was trained on."""
        if not self.patients_known:
            warn_user(
                "it cannot be told whom the network was trained on: its training patients may be among these cases",
                where=self.checkpoint if self.run is None else self.run / PATIENTS_NAME,
                expected=f"a run folder whose {PATIENTS_NAME} names all patients of all its trainings",
                remedy="bring the file back, or name cases that are surely of others with --data",
            )

    @property
    def validation_cases(self) -> tuple[str, ...]:
        """Ids of the cases that its training kept for validation."""
        return () if self.run is None else tuple(row.case for row in read_patients(self.run).get("val", []))

    @property
    def parent(self) -> str | None:
        """The run or checkpoint that it was tuned from."""
        return self.card.parent


@dataclass(frozen=True)
class LoadedClassifier(LoadedNetwork):
    """A slice classifier ready to use; attributes as of :class:`LoadedNetwork`."""

    model: Classifier


def read_patients(run: Path) -> dict[str, list[PatientRow]]:
    """The cases of each part in a run's ``patients.json``; empty if there is none.

    Raises:
        RunError: The file is damaged.
    """
    kind = FileKind("the patients of a metaseg run", "copy the file again, or start the run again with --overwrite")
    file = run / PATIENTS_NAME
    found: dict[str, list[PatientRow]] = read_json(file, kind, dict[str, list[PatientRow]]) if file.exists() else {}
    return found


def trained_patients(run: Path) -> frozenset[str]:
    """Patients whose labels a run's training saw, those of the runs it began from included.

    Earlier versions took sessions for patients: such names count as the patient, too.
    """
    parts = read_patients(run)
    names = {row.patient for part in ("train", "inherited") for row in parts.get(part, [])} - {""}
    return frozenset(names | {patient_of(name) for name in names})


def patients_known(run: Path) -> bool:
    """Whether a run tells all patients that its training, and those it began from, saw."""
    parts = read_patients(run)
    return bool(parts.get("train")) and all(row.patient for row in parts.get("inherited", []))


def run_of_checkpoint(path: Path) -> Path | None:
    """The run folder that a checkpoint file lies in; None if it lies elsewhere."""
    run = path.parent.parent
    return run if path.parent.name == "checkpoints" and is_run(run) else None


def load_network(name: str | Path, checkpoint: str = "best") -> LoadedNetwork:
    """Load the segmentation network of a run folder or a checkpoint file.

    Args:
        name: A run folder, or a checkpoint ``X.safetensors`` (or ``X``) with ``X.json`` beside it.
        checkpoint: ``best`` or ``last`` of a run. A tuned run has ``last`` alone, since it has no patients to choose
            by; ``best`` means that one then.

    Raises:
        RunError: There is no such run or checkpoint, it is damaged, or it is a classifier's.
    """
    file, run = find_checkpoint(name, checkpoint)
    model, card = load_checkpoint(file)
    return LoadedNetwork(model.eval(), card, checkpoint_files(file)[0], run)


def give_loaded(
    model: nn.Module, modalities: Sequence[str], label_space: str | None = None, cache: Path | None = None
) -> str:
    """A checkpoint of a network in memory, which stands for it wherever a run or checkpoint is named.

    Args:
        model: As for :func:`~metaseg.models.segmenters.give_network`.
        modalities: Its input modalities, in order.
        label_space: What its classes mean; by default the label space of as many classes.
        cache: Folder of prepared cases, in which the checkpoint is kept.

    Raises:
        UsageError: It does not give logits of the classes of a label space.
    """
    name = give_network(model)
    device = next((parameter.device for parameter in model.parameters()), None)
    with torch.no_grad():
        classes = copy.deepcopy(model).eval()(torch.zeros(1, len(modalities), 64, 64, device=device)).shape[1]
    fitting = [known for known, space in LABEL_SPACES.items() if space.num_classes == classes]
    if not fitting or label_space not in (None, *fitting):
        raise UsageError(
            f"the network distinguishes {classes} classes" + (f", not those of '{label_space}'" if label_space else ""),
            expected=" or ".join(f"{space.num_classes} ({known})" for known, space in LABEL_SPACES.items()),
        )
    given = build_segmenter(name, len(modalities), classes)
    card = ModelCard(
        name, len(modalities), classes, tuple(modalities), label_space or fitting[0], plugin=plugin_of(name)
    )
    weights = save({key: tensor.detach().cpu().contiguous() for key, tensor in unique_state(given).items()})
    digest = blake2b(weights + repr(card).encode(), digest_size=8).hexdigest()
    file = cache_root(cache) / "networks" / f"{type(model).__name__}-{digest}"
    return str(save_checkpoint(file, given, card))


def load_classifier_network(name: str | Path, checkpoint: str = "best") -> LoadedClassifier:
    """Load the slice classifier of a run folder or a checkpoint file, as :func:`load_network` does for segmentation.

    Raises:
        RunError: There is no such run or checkpoint, it is damaged, or it is for segmentation.
    """
    file, run = find_checkpoint(name, checkpoint)
    model, card = load_classifier(file)
    return LoadedClassifier(model.eval(), card, checkpoint_files(file)[0], run)


def find_checkpoint(name: str | Path, checkpoint: str = "best") -> tuple[Path, Path | None]:
    """The checkpoint that a user names, of any task, and the run folder it lies in, if any.

    Args are those of :func:`load_network`.

    Raises:
        RunError: There is no such run or checkpoint.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        run = RunFolder.open(path).path
        file = path / "checkpoints" / checkpoint
        if checkpoint == "best" and not checkpoint_files(file)[0].exists():
            file = path / "checkpoints" / "last"
        if not checkpoint_files(file)[0].exists():
            raise RunError(
                "the run has no checkpoint yet", where=path / "checkpoints", remedy="let it run on with --resume"
            )
        return file, run
    if not checkpoint_files(path)[0].exists():
        raise RunError(
            "there is no such run or checkpoint",
            where=path,
            expected="a run folder, or a .safetensors file with its .json",
            remedy=like_named(path) or "'metaseg runs' lists the runs there are",
        )
    return path, run_of_checkpoint(path)


def newest_run(root: Path, verb: str) -> Path | None:
    """The newest finished run of a verb under ``root``, by name and time; None if there is none."""
    runs = [path for path in root.glob("*") if path.is_dir() and is_run(path)]
    finished = [path for path in runs if _is_finished(path, verb)]
    return max(finished, key=lambda path: (path / "state.json").stat().st_mtime, default=None)


def _is_finished(path: Path, verb: str) -> bool:
    try:
        run = RunFolder.open(path)
    except MetasegError:  # one damaged run must not hide the others
        return False
    return run.verb == verb and run.finished


def inherited_rows(patients: Iterable[str], *, known: bool = True) -> list[dict[str, str]]:
    """Patients of earlier trainings, for ``patients.json``; one without a name stands for those who are not known."""
    names = [*sorted(patients), *([] if known else [""])]
    return [{"case": "", "patient": patient, "cohort": ""} for patient in names]


def inherited_from_weights(weights: str) -> list[dict[str, str]]:
    """Patients whom the weights that a training begins with have seen, for ``patients.json``.

    Args:
        weights: ``none``, ``imagenet`` or a weights file. One of an earlier run brings that run's patients along: they
            are no test patients of the new one either.
    """
    earlier = run_of_checkpoint(Path(weights))
    known = weights in ("none", "imagenet") or (earlier is not None and patients_known(earlier))
    return inherited_rows(trained_patients(earlier) if earlier else (), known=known)


def patient_rows(cases: Any) -> list[dict[str, str]]:
    """Case, patient and cohort of each case, for ``patients.json``."""
    return [{"case": case.id, "patient": case.patient, "cohort": case.cohort} for case in cases]


INPUTS_NAME = "inputs.json"
INPUTS_KIND = FileKind("what a metaseg run reads", "start the run again with --overwrite")
NOT_BY_FILE = frozenset({"out", "cache", "ask", "data", "source"})
"""Paths among the settings that are written to, or that hold cases, which are compared one by one."""

REMEDY = "bring back what the run began with, or start another run with another --out"


@dataclass(frozen=True)
class InputsContent:
    """What ``inputs.json`` holds; see :class:`Inputs`."""

    store_format: int
    files: dict[str, str | None]
    cases: dict[str, dict[str, str]]


@dataclass
class Inputs:
    """What a run reads; of a run that begins it is gathered, of one that goes on it is compared with the record.

    Attributes:
        run: The run that goes on; None for one that begins.
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
            RunError: The record is damaged.
        """
        if not config.resume or config.out is None or not is_run(config.out):
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
        found = {name: _digest(value) for name, value in config_paths(config) if name not in NOT_BY_FILE}
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
            The cases to go on with, in the order in which the run had them.

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


def _digest(name: str) -> str | None:
    """Digest of a file, or of the weights of the run or checkpoint of this name; None if there is neither."""
    path = Path(name).expanduser()
    if not path.is_file():
        try:
            path = find_checkpoint(path)[0]
        except RunError:
            return None
        path = path if path.is_file() else path.with_name(path.name + ".safetensors")
    try:
        return blake2b(path.read_bytes(), digest_size=16).hexdigest()
    except OSError:
        return None


def _counted(names: Sequence[str], what: str) -> str:
    """How many cases are so, and the first of them; empty if none is."""
    return f"{len(names)} {'is' if len(names) == 1 else 'are'} {what} ({some(names)})" if names else ""
