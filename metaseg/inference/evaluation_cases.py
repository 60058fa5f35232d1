"""Which cases ``metaseg evaluate`` looks at: the data named, or what the run recorded, without training patients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from metaseg.cases.case import FailedCase
from metaseg.cases.labels import LABEL_SPACES, LabelSpace
from metaseg.cases.patients import doubtable, warn_of_doubtful
from metaseg.cases.splits import Absent, Split
from metaseg.config.segmentation import AdaptOptions, EvaluateConfig
from metaseg.errors import DataError, RunError, UsageError, some, warn_user
from metaseg.runs.folder import RunFolder, is_run
from metaseg.runs.manifest import SYNTHETIC
from metaseg.runs.networks import LoadedNetwork, fold_of_patients, load_network, trained_patients
from metaseg.store.prepare import open_cases, phantom_folder
from metaseg.store.store import SliceStore
from metaseg.store.stored_case import StoredCase
from metaseg.verbs import ADAPTATION, PRETRAINING, verbs_of

PHANTOM_COHORTS: tuple[Literal["hgg", "met"], ...] = ("hgg", "met")


@dataclass(frozen=True)
class EvaluationCases:
    """The cases to evaluate.

    Attributes:
        store: Labelled cases.
        trained: Patients that one of the networks was trained on.
        known: Whether these are all whom they were trained on.
        left_out: Cases that are not evaluated because their patients are among those.
        unlabelled: Cases that are not evaluated because they have no label.
        data: Folders that were read.
        found_by: In words, how the data was chosen.
        failed: Cases that cannot be read.
        folds: By patient, the run of the network's cross-validation that was not tuned on it: it judges in place of the
            network that was.
    """

    store: SliceStore
    trained: frozenset[str]
    known: bool
    left_out: int
    unlabelled: int
    data: tuple[str, ...]
    found_by: str
    failed: tuple[FailedCase, ...] = ()
    folds: Mapping[str, Path] = field(default_factory=dict)

    @property
    def in_folds(self) -> list[StoredCase]:
        """The cases that a fold's network judges."""
        return [case for case in self.store if case.patient in self.folds]

    def is_trained_on(self, case: StoredCase) -> bool:
        """Whether a case is judged by a network that was trained on its patient."""
        return case.patient in self.trained and case.patient not in self.folds


def choose_cases(config: EvaluateConfig, networks: Sequence[LoadedNetwork]) -> EvaluationCases:
    """Open the data and leave out what would not test the networks.

    Args:
        config: The verb's settings.
        networks: The network to evaluate, then its parent if that is evaluated too.

    Raises:
        DataError: The data cannot be used, or no case is left.
        UsageError: There is no data, or settings contradict each other or the network.
    """
    network = networks[0]
    _check_settings(config, network)
    sources, found_by = _sources(config, network)
    failed: list[FailedCase] = []
    # A split may name cases of other folders too.
    absent: Absent = "ignore" if config.classes else "warn"
    store = _open(sources, network, failed).part(config.split, config.part or "test", absent=absent)
    folders = tuple(str(folder) for source in sources for folder in source.data)
    labelled = [case for case in store if case.info.labelled]
    if not labelled:
        raise DataError(
            "none of the cases has a label to compare with",
            where=", ".join(folders),
            remedy="use 'metaseg predict' for cases without label",
        )
    trained = frozenset().union(*(other.trained_patients for other in networks))
    for other in networks:
        other.warn_if_patients_unknown()
    warn_of_doubtful(doubtable(labelled), set(trained))
    folds = {} if config.include_training else _folds(networks)
    unseen = {case.patient for case in labelled} - trained | folds.keys()
    kept = [case for case in labelled if config.include_training or case.patient in unseen]
    if not kept:
        raise DataError(
            f"all {len(labelled)} labelled cases are of patients that the network was trained on",
            expected="patients that it has not seen",
            remedy="name other cases with --data, evaluate these all the same with --include-training, or say with "
            "--patients that they are other patients of the same names, as of another hospital",
        )
    _warn_of_other_folders([case.patient for case in labelled if case.patient in trained], config, network)
    return EvaluationCases(
        SliceStore(tuple(kept)),
        trained,
        all(other.patients_known for other in networks),
        len(labelled) - len(kept),
        len(store) - len(labelled),
        folders,
        found_by,
        tuple(failure for failure in failed if config.split is None or failure.case in _part(config)),
        {case.patient: folds[case.patient] for case in kept if case.patient in folds},
    )


def _folds(networks: Sequence[LoadedNetwork]) -> dict[str, Path]:
    """By patient, the fold that judges it in place of the first network; of nobody whom a network before has seen."""
    if networks[0].run is None:
        return {}
    # One that the run keeps from before knows whom it inherited, and so do the folds.
    others = (network for network in networks[1:] if network.run != networks[0].run)
    before = frozenset[str]().union(*(network.trained_patients for network in others))
    folds = fold_of_patients(networks[0].run).items()
    return {patient: run for patient, run in folds if patient not in before | trained_patients(run)}


def _warn_of_other_folders(patients: Sequence[str], config: EvaluateConfig, network: LoadedNetwork) -> None:
    """Warn where names of training patients stand in folders that the network was not trained on."""
    if not patients or not config.data or network.run is None or not is_run(network.run):
        return
    known = {folder.absolute() for source in _recorded(config, network) for folder in source.data}
    given = {folder.absolute() for folder in config.data}
    nested = any(path.is_relative_to(other) or other.is_relative_to(path) for path in known for other in given)
    if known and not nested:
        warn_user(
            f"{len(patients)} cases have names of training patients, but lie in other folders than those trained on: "
            f"{some(patients)}; they count as the same patients",
            where=", ".join(map(str, config.data)),
            remedy="if they are others, as of another hospital, give them names of their own with --patients",
        )


def compared_space(config: EvaluateConfig, network: LoadedNetwork) -> LabelSpace:
    """Label space in which the network's prediction is compared: its own, or the whole lesion if that is asked for.

    Raises:
        UsageError: Subregions are asked for where the network knows the whole lesion alone.
    """
    space = LABEL_SPACES[network.card.label_space]
    wanted = LABEL_SPACES[config.labels] if config.labels else space
    if wanted.num_classes > space.num_classes:
        raise UsageError(
            f"--labels {wanted.name}, but the network knows the {space.name.replace('-', ' ')} alone",
            remedy="omit --labels",
        )
    return wanted


def _check_settings(config: EvaluateConfig, network: LoadedNetwork) -> None:
    if config.modalities and config.modalities != network.card.modalities:
        raise UsageError(
            f"--modalities {','.join(config.modalities)} differ from the network's",
            expected=",".join(network.card.modalities),
            remedy="omit --modalities",
        )
    if config.part is not None and config.split is None:
        raise UsageError(f"--part {config.part} without a split", remedy="name the split's file with --split")
    compared_space(config, network)


def _sources(config: EvaluateConfig, network: LoadedNetwork) -> tuple[list[EvaluateConfig], str]:
    """The settings with which each part of the data is read, and in words how it was found."""
    if config.data:
        return [config], "as named by --data"
    recorded = _recorded(config, network)
    if recorded:
        names = ", ".join(str(folder) for source in recorded for folder in source.data)
        print(f"No --data given: evaluating on the data that the run recorded: {names}")
        return recorded, "as recorded by the run"
    if network.card.synthetic:
        print(f"No --data given: evaluating on {SYNTHETIC} (gliomas and metastases).")
        phantoms = _phantoms(config, network)
        return [
            replace(config, data=phantoms, format="auto", label_scheme=None, outlined_slices=None, classes=())
        ], "phantoms"
    raise UsageError(
        "no data to evaluate on: none was named, and the checkpoint does not tell what it was trained on",
        where=network.checkpoint,
        remedy="name folders of labelled cases with --data",
    )


def _phantoms(config: EvaluateConfig, network: LoadedNetwork) -> tuple[Path, ...]:
    """Phantoms of both diseases, enough that ``phantom_cases`` of each are left without those of the training."""
    counts = {
        cohort: sum(patient.startswith(f"Phantom_{cohort.upper()}_") for patient in network.trained_patients)
        for cohort in PHANTOM_COHORTS
    }
    return tuple(
        phantom_folder(cohort, config.phantom_cases + seen, config.seed, config.cache)
        for cohort, seen in counts.items()
    )


def _recorded(config: EvaluateConfig, network: LoadedNetwork) -> list[EvaluateConfig]:
    """Data of the run and, where a tuned run names no source cases, of the run that it was tuned from."""
    if network.run is None:
        return []
    run = RunFolder.open(network.run)
    recording = verbs_of(PRETRAINING, ADAPTATION)
    if run.verb not in recording:
        return []
    settings: Any = run.config(recording[run.verb].config)
    named = [(settings.data, settings.classes)]
    if isinstance(settings, AdaptOptions):
        named.append((settings.source, settings.source_classes))
    alike = {name: getattr(settings, name) for name in ("format", "label_scheme")}
    alike |= {name: getattr(config, name) or getattr(settings, name) for name in ("patients", "outlined_slices")}
    found = [replace(config, data=data, classes=classes, **alike) for data, classes in named if data]
    if isinstance(settings, AdaptOptions) and not settings.source and network.parent is not None:
        try:
            found += _recorded(config, load_network(network.parent))
        except RunError as error:
            print(f"The source's data is not known, since the parent cannot be read: {error.found}")
    return list(dict.fromkeys(found))


def _open(sources: Sequence[EvaluateConfig], network: LoadedNetwork, failed: list[FailedCase]) -> SliceStore:
    cases: dict[Path, StoredCase] = {}
    for source in sources:
        store = open_cases(
            source,
            source.data,
            labels=source.labels or network.card.label_space,
            modalities=network.card.modalities,
            need_labels=True,
            image_size=source.image_size or network.card.normalisation.get("image_size"),
            failed=failed,
        )
        cases |= {case.folder: case for case in store}
    doubled = sorted(name for name, count in Counter(case.id for case in cases.values()).items() if count > 1)
    if doubled:
        raise DataError(f"case ids stand twice: {', '.join(doubled[:5])}", remedy="name the folders with --data")
    return SliceStore(tuple(cases.values()))


def _part(config: EvaluateConfig) -> Sequence[str]:
    return Split.load(config.split or "").parts.get(config.part or "test", ())
