"""Which cases ``metaseg evaluate`` looks at: the data named, or what the run recorded, without training patients.

What a metric or a prediction came from, for the JSON files beside them.

What an evaluation has finished, case by case on the disk, so that one that was cut off can go on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

from lightning_fabric import Fabric

from metaseg.cases.case import FailedCase
from metaseg.cases.labels import LABEL_SPACES, LabelSpace
from metaseg.cases.patients import doubtable, warn_of_doubtful
from metaseg.cases.splits import Split
from metaseg.config.io import asked_for
from metaseg.config.segmentation import (
    AdaptOptions,
    EvaluateConfig,
    MetatuneConfig,
    NaivetuneConfig,
    PretrainConfig,
    TuneConfig,
)
from metaseg.errors import DataError, RunError, UsageError, some, warn_user
from metaseg.files import writing
from metaseg.models.card import checkpoint_files, read_card
from metaseg.models.processes import is_first, several
from metaseg.runs.folder import RunFolder, is_run
from metaseg.runs.manifest import portable
from metaseg.runs.networks import LoadedNetwork, load_network
from metaseg.store.prepare import open_cases, phantom_folder
from metaseg.store.store import SliceStore
from metaseg.store.stored_case import StoredCase

NOTICE = "Research only, not for clinical use."
SYNTHETIC = "SYNTHETIC phantoms, not patients"


def network_name(network: LoadedNetwork) -> str:
    """Short name of a network: that of its run, or of its file."""
    return network.run.resolve().name if network.run is not None else network.checkpoint.stem


def checkpoint_digest(network: LoadedNetwork) -> str:
    """Digest (blake2b) of the network's weights, as its card holds it."""
    return read_card(checkpoint_files(network.checkpoint)[1])[1]


def network_record(network: LoadedNetwork) -> dict[str, Any]:
    """Name, files, digest and history of a network as JSON values, without this machine's folders."""
    card = network.card
    return {
        "name": network_name(network),
        "run": None if network.run is None else portable(str(network.run)),
        "checkpoint": portable(str(network.checkpoint)),
        "checkpoint_digest": checkpoint_digest(network),
        "architecture": card.name,
        "modalities": list(card.modalities),
        "label_space": card.label_space,
        "trained_on": list(card.trained_on),
        "parent": None if card.parent is None else portable(card.parent),
        "synthetic": card.synthetic,
    }


PATTERN = "unfinished.*.jsonl"
_NEEDED = {"network", "case", "target", "dice"}


@dataclass(frozen=True)
class FinishedCases:
    """The rows of finished cases, in one file for each process until the metrics are written.

    Attributes:
        folder: The evaluation's.
        question: Digest of networks, data and settings.
        rank: Of this process.
        rows: Rows of the cases that were finished before, by case.
    """

    folder: Path
    question: str
    rank: int
    rows: dict[str, list[dict[str, Any]]]

    @classmethod
    def begin(cls, folder: Path, question: Mapping[str, Any], config: EvaluateConfig, fabric: Fabric) -> FinishedCases:
        """Read what is there, or begin.

        Args:
            folder: The evaluation's.
            question: What decides the metrics besides settings: networks, data, options.
            config: The settings.
            fabric: Of this process.

        Raises:
            UsageError: An evaluation was cut off there, and neither ``resume`` nor ``overwrite`` is given; or it is
                another one and ``overwrite`` is not given.
        """
        content = json.dumps([dict(question), asked_for(config)], sort_keys=True)
        digest = blake2b(content.encode(), digest_size=16).hexdigest()
        found = [] if config.overwrite else list(_lines(folder))
        if several(fabric):
            # Nobody writes before all have read.
            fabric.barrier()
        if found and not config.resume:
            raise UsageError(
                f"an evaluation was cut off here, with {len(found)} cases done",
                where=folder,
                remedy="go on with --resume, or begin anew with --overwrite",
            )
        if any(line["question"] != digest for line in found):
            raise UsageError(
                "the evaluation that was cut off here is another one (other networks, data or settings)",
                where=folder,
                expected="the same networks, data and settings",
                remedy="name another folder with --out, or begin anew with --overwrite",
            )
        finished = cls(folder, digest, fabric.global_rank, {line["case"]: line["rows"] for line in found})
        if config.overwrite and is_first(fabric):
            finished.remove()
        if several(fabric):
            fabric.barrier()
        return finished

    def add(self, case: str, rows: list[dict[str, Any]]) -> None:
        """Keep the rows of a case; they are on the disk when the call returns."""
        line = json.dumps({"question": self.question, "case": case, "rows": rows}, default=lambda value: value.item())
        path = self.folder / PATTERN.replace("*", str(self.rank))
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as stream:
                # What a kill has left of an earlier line ends here.
                stream.write(f"\n{line}\n")
                stream.flush()
                os.fsync(stream.fileno())

    def remove(self) -> None:
        """Delete all files: the metrics are written, or begun anew."""
        for path in self.folder.glob(PATTERN):
            with writing(path):
                path.unlink(missing_ok=True)


def _lines(folder: Path) -> Iterator[dict[str, Any]]:
    """Whole lines; one that a kill or a power cut has damaged is left out, so that its case is evaluated again."""
    for path in sorted(folder.glob(PATTERN)):
        for text in path.read_bytes().split(b"\n"):
            try:
                line = json.loads(text)
                rows = line["rows"]
                whole = isinstance(line["question"], str) and isinstance(line["case"], str) and rows
                whole = whole and all(row.keys() >= _NEEDED and row["case"] == line["case"] for row in rows)
            except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
                continue
            if whole:
                yield line


_RECORDING: dict[str, type[PretrainConfig | AdaptOptions]] = {
    "pretrain": PretrainConfig,
    "metatune": MetatuneConfig,
    "naivetune": NaivetuneConfig,
    "tune": TuneConfig,
}

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
    """

    store: SliceStore
    trained: frozenset[str]
    known: bool
    left_out: int
    unlabelled: int
    data: tuple[str, ...]
    found_by: str
    failed: tuple[FailedCase, ...] = ()


@dataclass(frozen=True)
class _Source:
    """Folders that are read alike."""

    folders: tuple[Path, ...]
    format: str = "auto"
    label_scheme: str | None = None
    classes: tuple[str, ...] = ()
    patients: Path | None = None


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
    store = _select_part(_open(sources, config, network, failed), config)
    labelled = [case for case in store if case.info.labelled]
    if not labelled:
        raise DataError(
            "none of the cases has a label to compare with",
            where=", ".join(str(folder) for source in sources for folder in source.folders),
            remedy="use 'metaseg predict' for cases without label",
        )
    trained = frozenset().union(*(other.trained_patients for other in networks))
    for other in networks:
        other.warn_if_patients_unknown()
    warn_of_doubtful(doubtable(labelled), set(trained))
    kept = [case for case in labelled if config.include_training or case.patient not in trained]
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
        tuple(str(folder) for source in sources for folder in source.folders),
        found_by,
        tuple(failed) if config.split is None else _of_part(failed, config),
    )


def _warn_of_other_folders(patients: Sequence[str], config: EvaluateConfig, network: LoadedNetwork) -> None:
    """Warn where names of training patients stand in folders that the network was not trained on."""
    if not patients or not config.data or network.run is None or not is_run(network.run):
        return
    known = {folder.absolute() for source in _recorded(network) for folder in source.folders}
    given = {folder.absolute() for folder in config.data}
    nested = any(one.is_relative_to(other) or other.is_relative_to(one) for one in known for other in given)
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


def _sources(config: EvaluateConfig, network: LoadedNetwork) -> tuple[list[_Source], str]:
    if config.data:
        named = _Source(config.data, config.format, config.label_scheme, config.classes, config.patients)
        return [named], "as named by --data"
    recorded = _recorded(network)
    if recorded:
        names = ", ".join(str(folder) for source in recorded for folder in source.folders)
        print(f"No --data given: evaluating on the data that the run recorded: {names}")
        return recorded, "as recorded by the run"
    if network.card.synthetic:
        print(f"No --data given: evaluating on {SYNTHETIC} (gliomas and metastases).")
        return [_Source(_phantoms(config, network))], "phantoms"
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


def _recorded(network: LoadedNetwork) -> list[_Source]:
    """Data of the run and, where a tuned run names no source cases, of the run that it was tuned from."""
    if network.run is None:
        return []
    run = RunFolder.open(network.run)
    if run.verb not in _RECORDING:
        return []
    settings = run.config(_RECORDING[run.verb])
    read = partial(_Source, format=settings.format, label_scheme=settings.label_scheme, patients=settings.patients)
    found = [read(settings.data, classes=settings.classes)] if settings.data else []
    if isinstance(settings, AdaptOptions):
        if settings.source:
            found.append(read(settings.source, classes=settings.source_classes))
        elif network.parent is not None:
            try:
                found += _recorded(load_network(network.parent))
            except RunError as error:
                print(f"The source's data is not known, since the parent cannot be read: {error.found}")
    return list(dict.fromkeys(found))


def _open(
    sources: Sequence[_Source], config: EvaluateConfig, network: LoadedNetwork, failed: list[FailedCase]
) -> SliceStore:
    cases: dict[Path, StoredCase] = {}
    for source in sources:
        store = open_cases(
            config,
            source.folders,
            format=source.format,
            label_scheme=source.label_scheme,
            labels=config.labels or network.card.label_space,
            modalities=network.card.modalities,
            classes=source.classes,
            patients=config.patients or source.patients,
            need_labels=True,
            image_size=config.image_size or network.card.normalisation.get("image_size"),
            failed=failed,
        )
        cases |= {case.folder: case for case in store}
    ids = [case.id for case in cases.values()]
    doubled = sorted({name for name in ids if ids.count(name) > 1})
    if doubled:
        raise DataError(f"case ids stand twice: {', '.join(doubled[:5])}", remedy="name the folders with --data")
    return SliceStore(tuple(cases.values()))


def _of_part(failed: Sequence[FailedCase], config: EvaluateConfig) -> tuple[FailedCase, ...]:
    chosen = Split.load(config.split or "").parts.get(config.part or "test", ())
    return tuple(one for one in failed if one.case in chosen)


def _select_part(store: SliceStore, config: EvaluateConfig) -> SliceStore:
    """The cases of the split's part, by default ``test``. A split may name cases of other folders too."""
    return store.part(config.split, config.part or "test", absent="ignore" if config.classes else "warn")
