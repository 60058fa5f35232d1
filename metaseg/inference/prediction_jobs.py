"""What ``metaseg predict`` has to do: the cases it was given, how their labels are written, and to which files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from metaseg.cases.case import Case, FailedCase, one_case
from metaseg.cases.file_checks import reading
from metaseg.cases.labels import LABEL_SCHEMES, LabelScheme, LabelSpace, label_scheme
from metaseg.cases.readers import read_case_files, read_each_case
from metaseg.cases.volumes import ItkVolume, NiftiVolume
from metaseg.config.segmentation import PredictConfig
from metaseg.errors import DataError, UsageError, warn_user
from metaseg.files import FileKind, read_json, refuse_existing, require_writable
from metaseg.inference.outputs import mask_names
from metaseg.store.store import is_store

_DEFAULT_SCHEMES = {"subregions": "brats2023", "subregions-cavity": "brats-post-cavity", "whole-lesion": "whole-lesion"}


SUMMARY_KIND = FileKind("the summary of a metaseg prediction", "predict the case again with --overwrite", DataError)


@dataclass(frozen=True)
class MadeFrom:
    """What decides how a case is segmented, as its summary keeps it.

    Attributes:
        settings: The settings that shape results.
        inputs: Digest of the case's files.
        outputs: Digest of each file that was written, by its path below the output folder.
    """

    settings: dict[str, Any]
    inputs: str = ""
    outputs: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Summary:
    """What is read of a case's summary; one of an earlier version does not say what it was made from."""

    synthetic: bool
    volumes: dict[str, dict[str, Any]]
    network: dict[str, Any]
    made_from: MadeFrom | None = None


@dataclass(frozen=True)
class PredictionJob:
    """One case to predict.

    Attributes:
        case: The case with the network's modalities alone, in their order, and without its label.
        scheme: How class values are written.
        files: What to write by kind: ``label`` (or ``masks/<n>`` for separate 2-D images), ``probabilities``,
            ``overlay``, ``heatmap`` and, last, ``summary``.
    """

    case: Case
    scheme: LabelScheme
    files: dict[str, Path]

    @property
    def volume(self) -> NiftiVolume | ItkVolume | None:
        """The file whose grid the prediction takes; None for separate 2-D images."""
        volume = next(iter(self.case.images.values()))
        return volume if isinstance(volume, NiftiVolume | ItkVolume) else None


def plan_predictions(
    config: PredictConfig, modalities: Sequence[str], space: LabelSpace
) -> tuple[list[PredictionJob], list[FailedCase]]:
    """Find the cases and decide what is written.

    Args:
        config: The verb's settings.
        modalities: The network's input modalities, in order.
        space: The network's label space.

    Returns:
        The cases to predict, and those that cannot be: they lack a modality, or have files twice.

    Raises:
        DataError: Nothing was found, or two cases have one name.
        UsageError: The label convention does not fit the network, or files would be replaced without ``--overwrite``.
        WriteError: The output folder cannot be written.
    """
    jobs = []
    cases, failed = find_cases(config)
    for case in cases:
        scheme = output_scheme(case, space, config.label_scheme)
        with one_case(case.id, failed):
            case.require(modalities)
            # Without its label, which must not influence the crop, and without modalities that the network lacks.
            bare = replace(case, images={name: case.images[name] for name in modalities}, label=None)
            jobs.append(PredictionJob(bare, scheme, output_files(bare, config)))
    _require_distinct(jobs)
    outputs = [file for job in jobs for file in job.files.values()]
    refuse_existing(outputs, config.overwrite or config.resume, [file for case in cases for file in case.files])
    require_writable(config.out)
    return jobs, failed


def find_cases(config: PredictConfig) -> tuple[list[Case], list[FailedCase]]:
    """The cases that the arguments name: case folders, folders of cases, or the files of one case.

    Those of which it is not known what belongs to them are given as failed.

    Raises:
        DataError: Nothing was found.
        UsageError: A prepared store was named, which no longer knows the headers of its files.
    """
    cases: list[Case] = []
    failed: list[FailedCase] = []
    files = [path for path in config.cases if path.is_file() and path.suffix.lower() not in (".json", ".csv", ".tsv")]
    for path in config.cases:
        if path in files:
            continue
        if is_store(path):
            raise UsageError(
                "a prepared store does not hold the headers of its files",
                where=path,
                expected="case folders or folders of cases",
                remedy="name the folder that the store was prepared from",
            )
        found, wrong = read_each_case(path, config.format)
        cases, failed = cases + found, failed + wrong
    if files:
        cases.append(read_case_files(files))
    return cases, failed


def output_scheme(case: Case, space: LabelSpace, name: str | None) -> LabelScheme:
    """The label convention of a case's prediction.

    Args:
        case: The case.
        space: The network's label space.
        name: The convention asked for; None takes the case's own, or where that has other classes than the network
            ``brats2023`` (``whole-lesion`` for a network that knows the whole lesion alone).

    Raises:
        UsageError: There is no such convention, or it has other classes than the network.
    """
    if name is None:
        return case.scheme if case.scheme.space == space else LABEL_SCHEMES[_DEFAULT_SCHEMES[space.name]]
    scheme = label_scheme(name)
    if scheme.space != space:
        fitting = [other.name for other in LABEL_SCHEMES.values() if other.space == space]
        raise UsageError(
            f"--label-scheme {name} has other classes than the network",
            expected=f"{', '.join(space.classes[1:])}: one of {', '.join(fitting)}",
            remedy="name one of these, or omit --label-scheme",
        )
    return scheme


def output_files(case: Case, config: PredictConfig) -> dict[str, Path]:
    """The files of a case's prediction, see :class:`PredictionJob`."""
    out, name = config.out, _file_name(case.id)
    volume = next(iter(case.images.values()))
    files: dict[str, Path] = {}
    if isinstance(volume, NiftiVolume | ItkVolume):
        files["label"] = out / f"{name}_pred.nii.gz"
    else:
        names = mask_names(volume.files)
        files |= {f"masks/{number}": out / f"{name}_pred" / mask for number, mask in enumerate(names)}
    if config.probabilities:
        files["probabilities"] = out / f"{name}_prob{'.nii.gz' if 'label' in files else '.npy'}"
    if config.pictures:
        files |= {"overlay": out / f"{name}_overlay.png", "heatmap": out / f"{name}_heatmap.png"}
    return files | {"summary": out / f"{name}.json"}


def earlier_prediction(
    job: PredictionJob, out: Path, network: Mapping[str, Any], settings: Mapping[str, Any]
) -> Summary | None:
    """The prediction of a case that stands there, complete and as it was written; None if it must be done (again).

    Args:
        job: The case.
        out: The output folder.
        network: Record of the network, with its ``checkpoint_digest``.
        settings: The settings that shape results.

    Raises:
        UsageError: The case was predicted by another network or with other settings.
    """
    path = job.files["summary"]
    if not path.exists():
        return None
    try:
        found: Summary = read_json(path, SUMMARY_KIND, Summary)
    except DataError as error:
        warn_user(f"{error.found}: the case {job.case.id} is predicted again", where=path)
        return None
    before = {} if found.made_from is None else found.made_from.settings
    other = [f"--{name.replace('_', '-')}" for name in settings if before.get(name, settings[name]) != settings[name]]
    if found.network.get("checkpoint_digest") != network["checkpoint_digest"]:
        other.insert(0, "another network")
    if other:
        raise UsageError(
            f"the prediction of {job.case.id} that is there was made differently ({', '.join(other)})",
            where=path,
            expected="predictions of the same network with the same settings",
            remedy="name another folder with --out, or predict all cases anew with --overwrite",
        )
    if reason := _unusable(job, found.made_from, out):
        warn_user(f"{reason}: the case {job.case.id} is predicted again", where=path)
        return None
    return found if all(file.exists() for file in job.files.values()) else None


def _unusable(job: PredictionJob, made_from: MadeFrom | None, out: Path) -> str | None:
    """Why an earlier prediction cannot stand for a case; None if it can."""
    if made_from is None:
        return "an earlier version of metaseg did not note what it predicted from"
    try:
        if input_digest(job.case) != made_from.inputs:
            return "the case's files have changed since it was predicted"
    except DataError:
        # The prediction itself will say what is wrong with the file.
        return "the case's files cannot be read"
    changed = [
        name
        for name, digest in made_from.outputs.items()
        if (out / name).is_file() and file_digest([out / name]) != digest
    ]
    return f"{changed[0]} is not as it was written" if changed else None


def input_digest(case: Case) -> str:
    """Digest of the content of a case's files.

    Raises:
        DataError: One cannot be read.
    """
    files = [file for volume in case.images.values() for file in volume.files]
    with reading(files[0], f"file of case {case.id}"):
        return file_digest(files)


def file_digest(files: Iterable[Path]) -> str:
    """Digest of the content of files."""
    digest = blake2b(digest_size=16)
    for file in files:
        digest.update(blake2b(file.read_bytes()).digest())
    return digest.hexdigest()


def remove_earlier(job: PredictionJob, config: PredictConfig) -> None:
    """Delete what would not belong to a case's new prediction: its earlier summary, and outputs no longer asked for."""
    possible = output_files(job.case, replace(config, probabilities=True, pictures=True))
    for kind, file in possible.items():
        if kind == "summary" or kind not in job.files:
            file.unlink(missing_ok=True)


def _file_name(case_id: str) -> str:
    """The case's id without what no file name may hold on some system."""
    return re.sub(r'[\\/:*?"<>|\x00-\x1f]+', "_", case_id)


def _require_distinct(jobs: Sequence[PredictionJob]) -> None:
    by_file: dict[Path, PredictionJob] = {}
    for job in jobs:
        other = by_file.setdefault(job.files["summary"], job)
        if other is not job:
            raise DataError(
                f"two cases are named {job.case.id}",
                where=f"{other.case.files[0].parent} and {job.case.files[0].parent}",
                expected="one case of each name",
                remedy="name each case once, or predict them into different folders with --out",
            )
