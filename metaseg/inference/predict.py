"""``metaseg predict``: segment cases and write the result on each case's own grid."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from lightning_fabric import Fabric

from metaseg.cases.case import Case, FailedCase, one_case, raise_failed, record_failed
from metaseg.cases.file_checks import reading
from metaseg.cases.labels import LABEL_SCHEMES, LABEL_SPACES, LabelScheme, LabelSpace, label_scheme
from metaseg.cases.readers import read_case_files, read_each_case
from metaseg.cases.volumes import ItkVolume, NiftiVolume
from metaseg.config.io import asked_for
from metaseg.config.segmentation import PredictConfig
from metaseg.errors import DataError, UsageError, recorded_warnings, warn_user, warnings_so_far
from metaseg.files import FileKind, read_json, refuse_existing, replacing, require_writable, write_json
from metaseg.inference.case_pictures import case_heatmap, case_overlay, heat_class
from metaseg.inference.gate import Gate, GatedPredictor
from metaseg.inference.outputs import (
    description,
    mask_names,
    mask_values,
    read_header,
    write_label,
    write_masks,
    write_probabilities,
)
from metaseg.inference.predictor import CaseSegmentation, Decision, Predictor, full_probabilities
from metaseg.models.device import fabric_of, make_fabric
from metaseg.models.processes import each_case, is_first, several
from metaseg.pictures.overlay import write_picture
from metaseg.results import Result
from metaseg.runs.manifest import NOTICE, SYNTHETIC
from metaseg.runs.networks import LoadedNetwork, adapted_run, load_network, load_source
from metaseg.runs.together import together
from metaseg.store.store import is_store
from metaseg.store.stored_case import StoredCase
from metaseg.terminal import Progress
from metaseg.version import __version__

_DEFAULT_SCHEMES = {"subregions": "brats2023", "subregions-cavity": "brats-post-cavity", "whole-lesion": "whole-lesion"}
SUMMARY_KIND = FileKind("the summary of a metaseg prediction", "predict the case again with --overwrite", DataError)

_MM3_PER_ML = 1000.0


@dataclass(frozen=True)
class CasePrediction:
    """What was written for one case.

    Attributes:
        case: The case's id.
        files: Kind of output to file, see :class:`~metaseg.inference.predict.PredictionJob`.
        volumes: Region or class to ``{"voxels": ..., "ml": ...}``; ml is None where no volume is known.
        synthetic: Whether the case or the network's training data are phantoms.
        decision: With ``--as auto``, what the gate said.
    """

    case: str
    files: dict[str, Path]
    volumes: dict[str, dict[str, float | None]]
    synthetic: bool
    decision: Decision | None = None


@dataclass(frozen=True)
class PredictionResult(Result):
    """What ``metaseg predict`` leaves.

    Attributes:
        out: The folder.
        cases: One entry for each case, in order.
        synthetic: Whether any of them is synthetic.
    """

    out: Path
    cases: tuple[CasePrediction, ...]
    synthetic: bool

    def table(self) -> pd.DataFrame:
        """Millilitres of every region of every case; pixels where no volume is known."""
        sizes = [
            {name: size["voxels"] if size["ml"] is None else size["ml"] for name, size in case.volumes.items()}
            for case in self.cases
        ]
        return pd.DataFrame([{"case": case.case} | size for case, size in zip(self.cases, sizes, strict=True)])


@recorded_warnings()
def run_predict(config: PredictConfig) -> PredictionResult:
    """Segment cases with a trained network.

    Args:
        config: All settings; see :class:`~metaseg.config.segmentation.PredictConfig`.

    Raises:
        RunError: There is no such run or checkpoint.
        DataError: A case cannot be read or lacks a modality. Cases that can be predicted are, before this is raised.
        UsageError: A setting does not fit, or files would be replaced without ``overwrite``; ``--as`` is given with a
            network that was not adapted.
    """
    network, fabric = load_network(config.run, config.checkpoint), fabric_of(config)
    with together(fabric, config):
        return predict_cases(network, config, fabric)


def predict_cases(network: LoadedNetwork, config: PredictConfig, fabric: Fabric | None = None) -> PredictionResult:
    """As :func:`run_predict`, with a network in memory; ``config.run`` and ``config.checkpoint`` are not read.

    One process does this, whatever ``config.devices`` says, unless it is given the fabric of several.
    """
    fabric = fabric or make_fabric(config.device, config.precision)
    network, predictor = _told(network, config, fabric)
    space = LABEL_SPACES[network.card.label_space]
    settings = asked_for(config)
    jobs, unfit = plan_predictions(config, network.card.modalities, space)
    earlier = _earlier(jobs, config, network, settings) if config.resume else []
    if network.card.synthetic:
        print(f"The network was trained on {SYNTHETIC}.")
    if several(fabric):
        # Nobody writes before all have looked whether the files exist.
        fabric.barrier()
    todo = {job.case.id: job for job in jobs if job.case.id not in {case.case for case in earlier}}
    writer = _PredictionWriter(network, config, predictor, settings)
    found, failed = each_case(fabric, todo, lambda job: predictor.prepare(job.case), writer.predict, "predicted")
    order = {job.case.id: number for number, job in enumerate(jobs)}
    done = sorted([*earlier, *found], key=lambda case: order[case.case])
    failed = unfit + failed
    for case in done:
        print(_line(case))
    total = len(jobs) + len(unfit)
    print(f"{len(done)} of {total} cases predicted in {config.out}. {NOTICE}")
    if done and is_first(fabric):
        record_failed(config.out, failed)
    raise_failed(failed, total, "predicted")
    return PredictionResult(config.out, tuple(done), any(case.synthetic for case in done))


def _told(network: LoadedNetwork, config: PredictConfig, fabric: Fabric) -> tuple[LoadedNetwork, Predictor]:
    """The network and the predictor that ``--as`` asks for."""
    run = None if config.as_disease is None else adapted_run(network)
    if config.as_disease == "source":
        network = load_source(network)
    predictor = Predictor.from_network(network, fabric, tta=config.tta)
    if run is not None and config.as_disease == "auto":
        source = Predictor.from_network(load_source(network), fabric, tta=config.tta)
        predictor = GatedPredictor.of(predictor, source, Gate.load(run))
    return network, predictor


def _earlier(
    jobs: list[PredictionJob], config: PredictConfig, network: LoadedNetwork, settings: dict[str, Any]
) -> list[CasePrediction]:
    """The predictions that are there already."""
    record, earlier = network.record(), []
    for job in jobs:
        found = earlier_prediction(job, config.out, record, settings)
        if found is not None:
            earlier.append(CasePrediction(job.case.id, job.files, found.volumes, found.synthetic, found.decision))
    print(f"{len(earlier)} of {len(jobs)} cases were predicted before, with the same network and settings.")
    return earlier


@dataclass(frozen=True)
class _PredictionWriter:
    """Predicts one case after the other and writes their files."""

    network: LoadedNetwork
    config: PredictConfig
    predictor: Predictor
    settings: dict[str, Any]

    def predict(self, job: PredictionJob, case: StoredCase, bar: Progress) -> CasePrediction:
        """Predict a case and write its files, the summary last."""
        segmented = self.predictor.segment(case, self._wanted())
        synthetic = self.network.card.synthetic or job.case.synthetic
        if self.config.overwrite or self.config.resume:
            remove_earlier(job, self.config)
        volumes = region_volumes(segmented.classes, self.predictor.space, case)
        try:
            self._write_maps(job, case, segmented, synthetic)
            if self.config.pictures:
                self._write_pictures(job, case, segmented, synthetic)
            write_json(job.files["summary"], self._summary(job, case, volumes, synthetic, segmented.decision))
        except BaseException:
            # A case is there whole or not at all: half of one could be taken for a prediction without pictures.
            for file in job.files.values():
                file.unlink(missing_ok=True)
            raise
        return CasePrediction(job.case.id, job.files, volumes, synthetic, segmented.decision)

    def _wanted(self) -> tuple[int, ...]:
        """Classes whose probabilities are written or drawn."""
        if self.config.probabilities:
            return tuple(range(self.predictor.space.num_classes))
        return (heat_class(self.predictor.space),) if self.config.pictures else ()

    def _write_maps(self, job: PredictionJob, case: StoredCase, segmented: CaseSegmentation, synthetic: bool) -> None:
        geometry, files = case.info.geometry, job.files
        if job.volume is None:
            masks = [file for kind, file in files.items() if kind.startswith("masks/")]
            write_masks(masks, segmented.classes, geometry, job.scheme)
        else:
            header, text = read_header(job.volume), description(self.network.name, synthetic)
            values = job.scheme.encode(segmented.classes)
            write_label(files["label"], values, geometry, header, text, largest=max(job.scheme.values))
        if "probabilities" in files:
            maps = full_probabilities(case, segmented.kept)
            if job.volume is None:
                with replacing(files["probabilities"]) as stream:
                    np.save(stream, np.stack([geometry.from_canonical(part).transpose(2, 1, 0) for part in maps]))
            else:
                write_probabilities(files["probabilities"], maps, len(segmented.kept), geometry, header, text)

    def _write_pictures(
        self, job: PredictionJob, case: StoredCase, segmented: CaseSegmentation, synthetic: bool
    ) -> None:
        chance = segmented.kept[heat_class(self.predictor.space)]
        overlay = case_overlay(
            case, segmented.classes, self.predictor.space, self.predictor.modalities, synthetic=synthetic
        )
        heatmap = case_heatmap(case, chance, self.predictor.space, self.predictor.modalities, synthetic=synthetic)
        write_picture(job.files["overlay"], overlay)
        write_picture(job.files["heatmap"], heatmap)

    def _summary(
        self,
        job: PredictionJob,
        stored: StoredCase,
        volumes: dict[str, dict[str, float | None]],
        synthetic: bool,
        decision: Decision | None,
    ) -> dict[str, Any]:
        geometry = stored.info.geometry
        outputs = {self._relative(file): file for kind, file in job.files.items() if kind != "summary"}
        digests = {name: digest_of_files([file]) for name, file in outputs.items()}
        classes = self.predictor.space.classes
        own = dict(zip(classes, job.scheme.encode(np.arange(len(classes))).tolist(), strict=True))
        return {
            "case": job.case.id,
            "synthetic": synthetic,
            "notice": NOTICE,
            # Other cases are read at the same time: a case's own warnings name it.
            "warnings": [text for text in warnings_so_far() if job.case.id in text],
            "volumes": volumes,
            "label_scheme": job.scheme.name,
            "label_values": own if job.volume else mask_values(job.scheme),
            "probability_channels": list(classes) if self.config.probabilities else None,
            "shape": list(geometry.shape),
            "unit": geometry.unit,
            "tta": self.config.tta,
            "network": self.network.record(),
            **({} if decision is None else {"decision": asdict(decision)}),
            "made_from": asdict(MadeFrom(self.settings, input_digest(job.case), digests)),
            "files": [self._relative(file) for file in job.files.values()],
            "inputs": {name: volume.files[0].name for name, volume in job.case.images.items()},
            "metaseg_version": __version__,
        }

    def _relative(self, file: Path) -> str:
        return file.relative_to(self.config.out).as_posix()


def region_volumes(classes: np.ndarray, space: LabelSpace, case: StoredCase) -> dict[str, dict[str, float | None]]:
    """Voxels and volume of every region and of every class that is no region by itself.

    Args:
        classes: Class values ``(slices, height, width)``.
        space: What they mean.
        case: Where they lie; separate 2-D images and images without a voxel size have no volume.

    Returns:
        Name to ``{"voxels": number, "ml": volume or None}``.
    """
    geometry = case.info.geometry
    ml = None if geometry.planar or geometry.unit != "mm" else geometry.voxel_volume / _MM3_PER_ML
    counts = [int(np.count_nonzero(classes == value)) for value in range(space.num_classes)]
    sizes = {region: sum(counts[value] for value in values) for region, values in space.regions.items()}
    alone = {values[0] for values in space.regions.values() if len(values) == 1}
    sizes |= {name: counts[value] for value, name in enumerate(space.classes) if value and value not in alone}
    return {name: {"voxels": size, "ml": None if ml is None else round(size * ml, 6)} for name, size in sizes.items()}


def _line(done: CasePrediction) -> str:
    """One line about a finished case."""
    sizes = [
        f"{name} {size['voxels']:.0f} px" if size["ml"] is None else f"{name} {size['ml']:.2f} ml"
        for name, size in done.volumes.items()
        if name in ("WT", "TC", "ET")
    ]
    mark = f"   ({SYNTHETIC})" if done.synthetic else ""
    told = f"   {done.decision}" if done.decision else ""
    return f"{done.case}   {'   '.join(sizes)}{told}{mark}"


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
    decision: Decision | None = None


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
    cases, failed = named_cases(config)
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


def named_cases(config: PredictConfig) -> tuple[list[Case], list[FailedCase]]:
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
        if (out / name).is_file() and digest_of_files([out / name]) != digest
    ]
    return f"{changed[0]} is not as it was written" if changed else None


def input_digest(case: Case) -> str:
    """Digest of the content of a case's files.

    Raises:
        DataError: One cannot be read.
    """
    files = [file for volume in case.images.values() for file in volume.files]
    with reading(files[0], f"file of case {case.id}"):
        return digest_of_files(files)


def digest_of_files(files: Iterable[Path]) -> str:
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
