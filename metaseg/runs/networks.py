"""From what a user names (a run, a checkpoint, nothing) to a network, its card and its history."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from metaseg.cases.sessions import patient_of
from metaseg.checked_files import FileKind, read_json
from metaseg.errors import MetasegError, RunError, warn_user
from metaseg.models.checkpoint import ModelCard, checkpoint_files, load_checkpoint, load_classifier
from metaseg.models.classifier import Classifier
from metaseg.runs.folder import RunFolder, is_run

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
            remedy="'metaseg runs' lists the runs there are",
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


def patient_rows(cases: Any) -> list[dict[str, str]]:
    """Case, patient and cohort of each case, for ``patients.json``."""
    return [{"case": case.id, "patient": case.patient, "cohort": case.cohort} for case in cases]
