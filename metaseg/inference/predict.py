"""``metaseg predict``: segment cases and write the result on each case's own grid."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from lightning_fabric import Fabric

from metaseg.cases.case import raise_failed, record_failed
from metaseg.cases.labels import LABEL_SPACES, LabelSpace
from metaseg.config.io import asked_for
from metaseg.config.segmentation import PredictConfig
from metaseg.errors import recorded_warnings, warnings_so_far
from metaseg.files import replacing, write_json
from metaseg.inference.case_pictures import case_heatmap, case_overlay, heat_class
from metaseg.inference.each_case import each_case
from metaseg.inference.outputs import (
    description,
    mask_values,
    read_header,
    write_label,
    write_masks,
    write_probabilities,
)
from metaseg.inference.prediction_jobs import (
    MadeFrom,
    PredictionJob,
    earlier_prediction,
    file_digest,
    input_digest,
    plan_predictions,
    remove_earlier,
)
from metaseg.inference.predictor import CaseSegmentation, Predictor, full_probabilities
from metaseg.models.device import fabric_of, make_fabric
from metaseg.models.processes import is_first, several
from metaseg.pictures.overlay import write_picture
from metaseg.results import Result
from metaseg.runs.manifest import NOTICE, SYNTHETIC
from metaseg.runs.networks import LoadedNetwork, load_network
from metaseg.runs.together import together
from metaseg.store.stored_case import StoredCase
from metaseg.terminal import Progress
from metaseg.version import __version__

_MM3_PER_ML = 1000.0


@dataclass(frozen=True)
class CasePrediction:
    """What was written for one case.

    Attributes:
        case: The case's id.
        files: Kind of output to file, see :class:`~metaseg.inference.prediction_jobs.PredictionJob`.
        volumes: Region or class to ``{"voxels": ..., "ml": ...}``; ml is None where no volume is known.
        synthetic: Whether the case or the network's training data are phantoms.
    """

    case: str
    files: dict[str, Path]
    volumes: dict[str, dict[str, float | None]]
    synthetic: bool


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
        UsageError: A setting does not fit, or files would be replaced without ``overwrite``.
    """
    network, fabric = load_network(config.run, config.checkpoint), fabric_of(config)
    with together(fabric, config):
        return predict_cases(network, config, fabric)


def predict_cases(network: LoadedNetwork, config: PredictConfig, fabric: Fabric | None = None) -> PredictionResult:
    """As :func:`run_predict`, with a network in memory; ``config.run`` and ``config.checkpoint`` are not read.

    One process does this, whatever ``config.devices`` says, unless it is given the fabric of several.
    """
    fabric = fabric or make_fabric(config.device, config.precision)
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
    predictor = Predictor.from_network(network, fabric, tta=config.tta)
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


def _earlier(
    jobs: list[PredictionJob], config: PredictConfig, network: LoadedNetwork, settings: dict[str, Any]
) -> list[CasePrediction]:
    """The predictions that are there already."""
    record, earlier = network.record(), []
    for job in jobs:
        found = earlier_prediction(job, config.out, record, settings)
        if found is not None:
            earlier.append(CasePrediction(job.case.id, job.files, found.volumes, found.synthetic))
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
            write_json(job.files["summary"], self._summary(job, case, volumes, synthetic))
        except BaseException:
            # A case is there whole or not at all: half of one could be taken for a prediction without pictures.
            for file in job.files.values():
                file.unlink(missing_ok=True)
            raise
        return CasePrediction(job.case.id, job.files, volumes, synthetic)

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
    ) -> dict[str, Any]:
        geometry = stored.info.geometry
        outputs = {self._relative(file): file for kind, file in job.files.items() if kind != "summary"}
        digests = {name: file_digest([file]) for name, file in outputs.items()}
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
    ml = math.nan if geometry.planar or geometry.unit != "mm" else geometry.voxel_volume / _MM3_PER_ML
    counts = [int(np.count_nonzero(classes == value)) for value in range(space.num_classes)]
    sizes = {region: sum(counts[value] for value in values) for region, values in space.regions.items()}
    alone = {values[0] for values in space.regions.values() if len(values) == 1}
    sizes |= {name: counts[value] for value, name in enumerate(space.classes) if value and value not in alone}
    return {
        name: {"voxels": size, "ml": None if math.isnan(ml) else round(size * ml, 6)} for name, size in sizes.items()
    }


def _line(done: CasePrediction) -> str:
    """One line about a finished case."""
    sizes = [
        f"{name} {size['voxels']:.0f} px" if size["ml"] is None else f"{name} {size['ml']:.2f} ml"
        for name, size in done.volumes.items()
        if name in ("WT", "TC", "ET")
    ]
    mark = f"   ({SYNTHETIC})" if done.synthetic else ""
    return f"{done.case}   {'   '.join(sizes)}{mark}"
