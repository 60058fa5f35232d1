"""``metaseg classify evaluate``: metrics of a classifier by slice and by patient, with intervals and pictures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from metaseg.cases.case import FailedCase, raise_failed
from metaseg.cases.splits import Split
from metaseg.classify.data import open_slices
from metaseg.classify.fitting import slice_probabilities, softmax
from metaseg.classify.slices import ClassifiedSlices
from metaseg.classify.train import SPLIT_NAME
from metaseg.config.classification import (
    ClassifyActiveConfig,
    ClassifyEvaluateConfig,
    ClassifyPredictConfig,
    ClassifyTrainConfig,
)
from metaseg.errors import RunError, UsageError, recorded_warnings
from metaseg.files import refuse_existing, require_writable
from metaseg.inference.classification_files import (
    FEW_PATIENTS,
    METRICS,
    PATIENTS,
    PICTURES,
    PREDICTIONS,
    SUMMARY,
    write_classification_metrics,
)
from metaseg.inference.evaluation_files import refuse_run
from metaseg.models import Classifier
from metaseg.models.device import make_fabric
from metaseg.pictures.grad_cam import grad_cam, grad_cam_picture
from metaseg.pictures.overlay import write_picture
from metaseg.results import Result, metrics_table
from metaseg.runs.folder import RunFolder
from metaseg.runs.networks import LoadedClassifier, load_classifier_network
from metaseg.verbs import CLASSIFIER, verbs_of

GRAD_CAMS = "grad_cam"
OUTPUTS = (PREDICTIONS, PATIENTS, METRICS, SUMMARY, PICTURES, GRAD_CAMS)


@dataclass(frozen=True)
class ClassifyEvaluationResult(Result):
    """What an evaluation found.

    Attributes:
        folder: Where the files are.
        metrics: Metrics by level, ``slice`` and ``patient``, then by name.
        slices: Number of slices.
        patients: Number of patients.
    """

    folder: Path
    metrics: dict[str, dict[str, float]]
    slices: int
    patients: int

    def table(self) -> pd.DataFrame:
        """Metrics of patients, then of slices."""
        return metrics_table(**{level: self.metrics[level] for level in ("patient", "slice") if level in self.metrics})


@recorded_warnings()
def run_classify_evaluate(config: ClassifyEvaluateConfig) -> ClassifyEvaluationResult:
    """Measure a classifier on labelled slices.

    Without ``data`` these are the test part of the data that the run was made with.

    Args:
        config: All settings; see :class:`~metaseg.config.classification.ClassifyEvaluateConfig`.

    Raises:
        DataError: The cases cannot be used.
        UsageError: Settings contradict each other or the data.
        RunError: The run cannot be used, or ``out`` holds other files.
    """
    network = open_classifier(config)
    folder = _folder(config, network)
    failed: list[FailedCase] = []
    slices = _slices(config, network, failed)
    print(f"{len(slices)} slices of {len(set(slices.patients))} patients, classes {', '.join(slices.classes)}")
    probabilities = slice_probabilities(network.model, slices)
    metrics = write_classification_metrics(
        folder,
        probabilities,
        slices,
        seed=config.seed,
        resamples=config.resamples,
        synthetic=slices.store.synthetic or network.card.synthetic,
        record={"failed": [case.to_json() for case in failed]},
    )
    if config.pictures:
        # The most confident mistakes first, then the least confident hits.
        true = probabilities[np.arange(len(slices)), slices.labels]
        write_grad_cams(folder / GRAD_CAMS, network.model, slices, np.argsort(true, kind="stable")[: config.pictures])
    _print(metrics, len(set(slices.patients)))
    print(f"metrics: {folder}")
    raise_failed(failed, len(set(slices.case_ids)) + len(failed), "evaluated")
    return ClassifyEvaluationResult(folder, metrics, len(slices), len(set(slices.patients)))


def open_classifier(config: ClassifyEvaluateConfig | ClassifyPredictConfig) -> LoadedClassifier:
    """The classifier that settings name, on its device.

    Raises:
        UsageError: The device does not exist here.
        RunError: The run cannot be used.
    """
    fabric = make_fabric(config.device, config.precision)
    network = load_classifier_network(config.run, config.checkpoint)
    network.model.to(fabric.device)
    return network


def _folder(config: ClassifyEvaluateConfig, network: LoadedClassifier) -> Path:
    folder = config.out
    if folder is None:
        if network.run is None:
            raise UsageError("a checkpoint outside of a run needs --out", expected="a folder for the metrics")
        folder = network.run / "evaluation"
    # A run's own test part may be measured again; metrics of other data would take the place of its metrics.
    same = config.out is None and not (config.data or config.split or config.part or config.case_table)
    tables = (config.split, config.patients, config.outlined_slices, config.case_table)
    read = [path for path in (*tables, *config.data) if path is not None]
    refuse_run(folder)
    refuse_existing([folder / name for name in OUTPUTS], config.overwrite or same, read)
    require_writable(folder)
    return folder


def run_config(run: Path) -> ClassifyTrainConfig | ClassifyActiveConfig:
    """The settings that a classifier's run was made with."""
    opened = RunFolder.open(run)
    verbs = verbs_of(CLASSIFIER)
    if opened.verb not in verbs:
        raise RunError(f"this is a run of 'metaseg {opened.verb}'", where=run, expected="a run of 'metaseg classify'")
    config: Any = opened.config(verbs[opened.verb].config)
    return config


def _slices(config: ClassifyEvaluateConfig, network: LoadedClassifier, failed: list[FailedCase]) -> ClassifiedSlices:
    if network.run is None and not config.data:
        raise UsageError("a checkpoint outside of a run needs --data", expected="labelled cases")
    made = run_config(network.run) if network.run is not None else ClassifyTrainConfig()
    options = replace(
        made,
        data=config.data or made.data,
        format=config.format if config.data else made.format,
        label=config.label or made.label,
        patients=config.patients or made.patients,
        outlined_slices=config.outlined_slices or made.outlined_slices,
        allow_missing=True,
        case_table=config.case_table or (None if config.data else made.case_table),
        classes=() if config.data else network.card.classes,
        input_size=int(network.card.normalisation.get("input_size", made.input_size)),
        cache=config.cache,
        jobs=config.jobs,
    )
    card = network.card
    slices = open_slices(options, card.classes, card.modalities, annotator=not config.data, failed=failed)
    split_file, part = config.split, config.part or "test"
    if split_file is None and not config.data and network.run is not None:
        split_file = network.run / SPLIT_NAME
        part = config.part or (made.test_part if made.fold is None else f"fold-{made.fold}")
    if split_file is not None:
        split = Split.load(split_file)
        chosen = split.select(slices.store.cases, part, absent="ignore")
        failed[:] = [case for case in failed if case.case in split.parts[part]]
        slices = slices.of_cases([case.id for case in chosen])
    slices = slices.take(np.flatnonzero(slices.labels >= 0))
    network.warn_if_patients_unknown()
    if not config.include_training:
        seen = np.isin(slices.patients, sorted(network.trained_patients))
        if seen.any():
            print(f"{len(set(slices.patients[seen]))} patients were trained on and are left out (--include-training)")
        slices = slices.take(np.flatnonzero(~seen))
    if not len(slices):
        raise UsageError(
            "no slice is left to evaluate", remedy="give other --data, another --part, or --include-training"
        )
    return slices


def _print(metrics: dict[str, dict[str, float]], patients: int) -> None:
    """Print the patients' metrics first: slices of one patient are no independent samples."""
    for level in sorted(metrics):
        names = ("accuracy", "balanced_accuracy", "f1_macro", "auc_macro", "ece")
        text = "  ".join(f"{name} {metrics[level][name]:.3f}" for name in names if name in metrics[level])
        print(f"by {level}: {text}")
    if patients < FEW_PATIENTS:
        print(f"These are {patients} patients only: the metrics say little of others.")


def write_grad_cams(
    folder: Path, model: Classifier, slices: ClassifiedSlices, positions: Sequence[int] | np.ndarray
) -> None:
    """Write a picture for each slice, of what spoke for the class that was predicted.

    Args:
        folder: Where to; made if need be.
        model: The classifier.
        slices: The slices.
        positions: Which of them, in the order of the files' names.
    """
    device = next(model.parameters()).device
    folder.mkdir(parents=True, exist_ok=True)
    for number, place in enumerate(map(int, positions), start=1):
        image = slices.images([place])
        heat = grad_cam(model, image.to(device))[0]
        probabilities = softmax(model.eval()(image.to(device)).detach())[0]
        predicted = int(np.argmax(probabilities))
        name, truth = slices.ids[place], int(slices.labels[place])
        title = f"{name}: {slices.classes[predicted]} {probabilities[predicted]:.2f}"
        if truth >= 0:
            title += f" (truth: {slices.classes[truth]})"
        picture = grad_cam_picture(
            shown_channel(image[0].numpy(), slices.modalities),
            heat,
            title,
            slices.store.synthetic,
            planar=slices.store.cases[slices.owners[place]].info.geometry.planar,
        )
        path = folder / f"{number:03d}-{re.sub(r'[^A-Za-z0-9_.-]+', '_', name)}.png"
        write_picture(path, Image.fromarray(picture))


def shown_channel(image: np.ndarray, modalities: Sequence[str]) -> np.ndarray:
    """The modality of ``(modality, height, width)`` that shows enhancement, or the first, with a black background."""
    shown = image[modalities.index("t1ce") if "t1ce" in modalities else 0]
    # Scores have a background of 0, which is a middle grey; pictures take the lowest value for it.
    return np.where(shown == 0, shown.min(), shown)
