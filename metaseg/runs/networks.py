"""From what a user names (a run, a checkpoint, nothing) to a network, its card and its history."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from metaseg.cases.labels import LABEL_SPACES
from metaseg.cases.patients import patient_of
from metaseg.config.segmentation import PretrainConfig
from metaseg.errors import MetasegError, RunError, UsageError, warn_user
from metaseg.files import FileKind, read_json
from metaseg.models.card import read_card
from metaseg.models.checkpoint import ModelCard, checkpoint_files, load_checkpoint, load_classifier, save_checkpoint
from metaseg.models.classifier import Classifier
from metaseg.models.segmenters import build_segmenter, give_network, network_package
from metaseg.models.weights import unique_state
from metaseg.runs.folder import RunFolder, is_run, like_named
from metaseg.runs.manifest import portable_path
from metaseg.store.prepare import cache_root
from metaseg.verbs import ADAPTATION, verbs_of

PATIENTS_NAME = "patients.json"
FOLDS = "folds"
"""Folder in an adaptation's run of the runs of its cross-validation."""
SOURCE = "source"
"""Checkpoint of an adapted run: the network as it was before."""


@dataclass(frozen=True)
class PatientRow:
    """A case in ``patients.json``."""

    patient: str
    case: str = ""
    cohort: str = ""


@dataclass(frozen=True)
class SeenPatients:
    """Patients whom a network's trainings have seen: it must not be judged by them.

    Attributes:
        trained: Those whose labels it was trained on.
        validated: Those by whom its weights were chosen.
        part: Part of the split that the latter are; None if they were drawn without one.
    """

    trained: frozenset[str]
    validated: frozenset[str]
    part: str | None = None

    def before(self, part: str) -> frozenset[str]:
        """Those seen before the network is judged by a part: all, but for the validation patients by their own part.

        That is the part that a search of settings is judged by; a metric of it is no result.
        """
        return self.trained if part == self.part else self.trained | self.validated


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
            "run": None if self.run is None else portable_path(str(self.run)),
            "checkpoint": portable_path(str(self.checkpoint)),
            "checkpoint_digest": read_card(checkpoint_files(self.checkpoint)[1])[1],
            "architecture": self.card.name,
            "modalities": list(self.card.modalities),
            "label_space": self.card.label_space,
            "trained_on": list(self.card.trained_on),
            "parent": None if self.card.parent is None else portable_path(self.card.parent),
            "synthetic": self.card.synthetic,
        }

    @property
    def trained_patients(self) -> frozenset[str]:
        """Patients whose labels any of its trainings saw, its parents' included, as far as its run tells."""
        return frozenset() if self.run is None else trained_patients(self.run, inherited_alone=self.is_source)

    @property
    def is_source(self) -> bool:
        """Whether it is the network from before an adaptation, in that one's run."""
        return self.run is not None and self.checkpoint.stem == SOURCE

    @property
    def patients_known(self) -> bool:
        """Whether the run tells all patients that its trainings saw."""
        return self.run is not None and patients_known(self.run, inherited_alone=self.is_source)

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
    def seen(self) -> SeenPatients:
        """Whom its trainings saw, as far as its run tells."""
        return SeenPatients(frozenset(), frozenset()) if self.run is None else seen_patients(self.run)

    @property
    def pretraining(self) -> PretrainConfig | None:
        """The settings of its pretraining; None if its run is none."""
        return None if self.run is None else pretraining_of(self.run)

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


def trained_patients(run: Path, *, inherited_alone: bool = False) -> frozenset[str]:
    """Patients whose labels a run's training saw, those of the runs it began from included.

    Earlier versions took sessions for patients: such names count as the patient, too.

    Args:
        run: Its folder.
        inherited_alone: Those of the runs it began from alone.
    """
    parts = read_patients(run)
    counted = ("inherited",) if inherited_alone else ("train", "inherited")
    names = {row.patient for part in counted for row in parts.get(part, [])} - {""}
    return frozenset(names | {patient_of(name) for name in names})


def seen_patients(run: Path) -> SeenPatients:
    """Whom the training of a run, and those it began from, saw.

    Raises:
        RunError: A file of the run is damaged.
    """
    validated = frozenset(row.patient for row in read_patients(run).get("val", []))
    config = pretraining_of(run)
    part = None if config is None or config.split is None or config.fold is not None else config.val_part
    return SeenPatients(trained_patients(run), validated, part)


def fold_runs(run: Path) -> list[Path]:
    """The runs of a run's cross-validation, in the order of their folds; none where it has none."""
    folders = (folder for folder in (run / FOLDS).glob("fold-*") if is_run(folder))
    return sorted(folders, key=lambda folder: int(folder.name.rpartition("-")[2]))


def fold_of_patients(run: Path) -> dict[str, Path]:
    """Of each patient whom a finished cross-validation has held out, the run that was not tuned on it.

    Raises:
        RunError: A file of a fold is damaged.
    """
    folders = fold_runs(run)
    if not all(RunFolder.open(folder).finished for folder in folders):
        return {}
    return {row.patient: folder for folder in folders for row in read_patients(folder).get("target", ())}


def pretraining_of(run: Path) -> PretrainConfig | None:
    """The settings of a run that is a pretraining; None of another run.

    Raises:
        RunError: The file is damaged.
    """
    opened = RunFolder.open(run)
    return opened.config(PretrainConfig) if opened.verb == "pretrain" else None


def patients_known(run: Path, *, inherited_alone: bool = False) -> bool:
    """Whether a run tells all patients of :func:`trained_patients`."""
    parts = read_patients(run)
    inherited = parts.get("inherited", [])
    return bool(inherited if inherited_alone else parts.get("train")) and all(row.patient for row in inherited)


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


def keeps_source(network: LoadedNetwork) -> bool:
    """Whether a network's run keeps the one that it was tuned from, as those of earlier releases do not."""
    return network.run is not None and checkpoint_files(network.run / "checkpoints" / SOURCE)[0].exists()


def adapted_run(network: LoadedNetwork) -> Path:
    """The run that adapted a network to a second disease; ``--as`` tells the two apart.

    Raises:
        UsageError: It was not adapted, or lies in no run.
    """
    run = network.run
    if run is None or RunFolder.open(run).verb not in verbs_of(ADAPTATION):
        raise UsageError(
            "--as tells two diseases apart, but "
            + ("the checkpoint lies in no run" if run is None else "the run adapted no network to a second one"),
            where=run or network.checkpoint,
            expected=f"a run of {' or '.join(verbs_of(ADAPTATION))}",
            remedy="name the folder of such a run, or omit --as",
        )
    return run


def load_source(network: LoadedNetwork) -> LoadedNetwork:
    """The network that an adapted one was tuned from, to the bit: the one that its run keeps, else the card's parent.

    Raises:
        UsageError: It was not adapted, or lies in no run.
        RunError: The run keeps none and the parent is gone, or one of them is damaged.
    """
    run = adapted_run(network)
    kept = run / "checkpoints" / SOURCE
    if keeps_source(network):
        return load_network(kept)
    try:
        return load_network(str(network.parent))
    except RunError as error:
        raise RunError(
            f"the run keeps no network from before the adaptation, and its parent cannot be read: {error.found}",
            where=str(network.parent),
            expected=f"{checkpoint_files(kept)[0]}, or the parent where it was",
            remedy="bring the parent back, or adapt again",
        ) from error


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
        name, len(modalities), classes, tuple(modalities), label_space or fitting[0], plugin=network_package(name)
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


NO_FILES = ("none", "imagenet")
"""Words for weights that are no files."""


def weights_file(weights: str) -> str:
    """The file of weights that a user names: a run stands for its best checkpoint.

    Raises:
        RunError: The folder is no run, or the run has no checkpoint.
    """
    path = Path(weights).expanduser()
    if weights in NO_FILES or not path.is_dir():
        return weights
    if is_run(path):
        return str(checkpoint_files(find_checkpoint(path)[0])[0])
    raise RunError(
        "the folder named as weights holds no checkpoint",
        where=path,
        expected="a run that trained a network",
        remedy="name such a run, a weights file, imagenet or none",
    )


def inherited_from_weights(weights: str) -> list[dict[str, str]]:
    """Patients whom the weights that a training begins with have seen, for ``patients.json``.

    Args:
        weights: ``none``, ``imagenet``, a weights file or a run. An earlier run brings its patients along: they are no
            test patients of the new one either.
    """
    earlier = run_of_checkpoint(Path(weights_file(weights)))
    known = weights in NO_FILES or (earlier is not None and patients_known(earlier))
    return inherited_rows(trained_patients(earlier) if earlier else (), known=known)


def patient_rows(cases: Any) -> list[dict[str, Any]]:
    """Case, patient and cohort of each case, for ``patients.json``; and how many slices are outlined if not all are."""
    return [
        {"case": case.id, "patient": case.patient, "cohort": case.cohort}
        | ({"outlined_slices": len(case.outlined)} if case.partial else {})
        for case in cases
    ]
