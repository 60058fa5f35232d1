"""``metaseg classify predict``: class probabilities of slices, and a verdict on each case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

import numpy as np
import pandas as pd

from metaseg.cases.case import Case, FailedCase, one_case, raise_failed, record_failed
from metaseg.cases.labels import label_scheme
from metaseg.cases.readers import READERS, read_case_files, read_each_case
from metaseg.cases.readers.common import tell, unread_files
from metaseg.cases.volumes import IMAGE_SUFFIXES, ImageStack
from metaseg.classify.data import STORED_SIZE
from metaseg.classify.evaluate import open_classifier, write_grad_cams
from metaseg.classify.fitting import slice_probabilities
from metaseg.classify.slices import ClassifiedSlices, choose_slices, classified_slices, head_slices
from metaseg.config.classification import ClassifyPredictConfig
from metaseg.errors import DataError, recorded_warnings
from metaseg.files import refuse_existing, require_writable, write_text
from metaseg.models import ModelCard
from metaseg.results import Result
from metaseg.store.prepare import build_store, cache_root
from metaseg.store.prepare_case import PrepareOptions
from metaseg.store.store import SliceStore
from metaseg.terminal import progress

SLICES_NAME, CASES_NAME, GRAD_CAMS = "slices.csv", "cases.csv", "grad_cam"


@dataclass(frozen=True)
class ClassifyPredictionResult(Result):
    """What was predicted.

    Attributes:
        folder: Where the files are.
        slices: One row a slice: case, slice, predicted, and the probability of each class.
        cases: One row a case: number of slices, predicted, and the mean probability of each class.
    """

    folder: Path
    slices: pd.DataFrame
    cases: pd.DataFrame

    def table(self) -> pd.DataFrame:
        """The verdict on every case."""
        return self.cases


@recorded_warnings()
def run_classify_predict(config: ClassifyPredictConfig) -> ClassifyPredictionResult:
    """Classify the slices of cases; a case's verdict is the class with the largest mean probability.

    Args:
        config: All settings; see :class:`~metaseg.config.classification.ClassifyPredictConfig`.

    Raises:
        DataError: Nothing was found, or a case lacks a modality or cannot be read.
        UsageError: Files would be replaced.
        RunError: The run cannot be used.
    """
    network = open_classifier(config)
    card = network.card
    slices, failed = _open(config, card)
    probabilities = slice_probabilities(network.model, slices)
    by_slice = _slice_table(slices, probabilities)
    by_case = _case_table(by_slice, card.classes)
    write_text(config.out / SLICES_NAME, by_slice.to_csv(index=False, lineterminator="\n", float_format="%.6f"))
    write_text(config.out / CASES_NAME, by_case.to_csv(index=False, lineterminator="\n", float_format="%.6f"))
    if config.pictures:
        write_grad_cams(config.out / GRAD_CAMS, network.model, slices, _telling(by_slice, by_case, config.pictures))
    for row in by_case.to_dict("records"):
        print(f"{row['case']}: {row['predicted']} {row['prob_' + row['predicted']]:.2f} ({row['slices']} slices)")
    print(f"written: {config.out}. Research only, not for clinical use.")
    record_failed(config.out, failed)
    raise_failed(failed, len(by_case) + len(failed), "classified")
    return ClassifyPredictionResult(config.out, by_slice, by_case)


def _open(config: ClassifyPredictConfig, card: ModelCard) -> tuple[ClassifiedSlices, list[FailedCase]]:
    found, failed = cases_of_arguments(config.cases, config.format, card.modalities)
    cases: list[Case] = []
    for case in found:
        with one_case(case.id, failed):
            cases.append(_for_network(case, card, config))
    if not cases:
        raise_failed(failed, len(failed), "classified")
    tables = [path / name for path in config.cases for name in (".", CASES_NAME, "index.csv")]
    read = [*tables, *(file for case in found for file in case.files)]
    refuse_existing([config.out / name for name in (SLICES_NAME, CASES_NAME, GRAD_CAMS)], config.overwrite, read)
    require_writable(config.out)
    size = int(card.normalisation.get("input_size", card.options.get("image_size", 224)))
    options = PrepareOptions(card.modalities, ceil(STORED_SIZE * size))
    with progress("preparing cases", None) as bar:
        store = build_store(
            cases, cache_root(config.cache) / "cases", options, config.jobs, bar.set, publish=False, failed=failed
        )
    unknown = [-1] * len(store)
    return classified_slices(store, unknown, _slices(store, config.slices), card.classes, card.modalities, size), failed


def _slices(store: SliceStore, which: str) -> list[np.ndarray]:
    if which == "brain":
        return [head_slices(case) for case in store]
    return [choose_slices(case, None, "even", 0) for case in store]


def _for_network(case: Case, card: ModelCard, config: ClassifyPredictConfig) -> Case:
    """The case with the network's modalities alone; a label stays only where it chooses the slices."""
    images = dict(case.images)
    if len(card.modalities) == 1 == len(images):
        # Pictures do not tell what they show: one image is the one that a network of one modality asks for.
        images = {card.modalities[0]: next(iter(images.values()))}
    case = replace(case, images=images)
    case.require(card.modalities)
    wanted = {name: images[name] for name in card.modalities}
    return replace(case, images=wanted, label=case.label if config.slices == "tumour" else None)


def cases_of_arguments(
    paths: Sequence[Path], format: str, modalities: Sequence[str]
) -> tuple[list[Case], list[FailedCase]]:
    """The cases that arguments name: case folders, folders of cases or pictures, pictures, or the files of one case.

    Those of which it is not known what belongs to them are given as failed.

    Raises:
        DataError: Nothing was found, or two cases have one id.
    """
    cases: list[Case] = []
    failed: list[FailedCase] = []
    volumes: list[Path] = []
    for path in paths:
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
            cases.append(_picture(path, modalities))
        elif path.is_file() and path.suffix.lower() not in (".json", ".csv", ".tsv"):
            volumes.append(path)
        elif (
            path.is_dir()
            and (pictures := _pictures(path))
            and not any((path / name).exists() for name in ("index.csv", "cases.csv"))
        ):
            tell(list(unread_files(path, READERS.get("image-folder"), pictures)), path, refuse=False)
            cases += [_picture(file, modalities) for file in pictures]
        else:
            read, wrong = read_each_case(path, format)
            cases, failed = cases + read, failed + wrong
    if volumes:
        cases.append(read_case_files(volumes))
    ids = [case.id for case in cases]
    doubled = sorted({name for name in ids if ids.count(name) > 1})
    if doubled:
        raise DataError(
            f"two cases are named {doubled[0]}",
            expected="one case of each name",
            remedy="name each case once, or predict them into different folders with --out",
        )
    return cases, failed


def _pictures(folder: Path) -> list[Path]:
    """Pictures that lie directly in a folder."""
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())


def _picture(file: Path, modalities: Sequence[str]) -> Case:
    return Case(
        id=file.stem,
        patient=file.stem,
        cohort="unknown",
        images={modalities[0]: ImageStack((file,))},
        label=None,
        scheme=label_scheme("whole-lesion"),
        format="image",
    )


def _slice_table(slices: ClassifiedSlices, probabilities: np.ndarray) -> pd.DataFrame:
    places = zip(slices.owners, slices.indices, strict=True)
    columns = {
        "case": slices.case_ids,
        "slice": [slices.store.cases[owner].native_slice(index) for owner, index in places],
        "predicted": np.array(slices.classes)[probabilities.argmax(axis=1)],
    }
    chances = {f"prob_{name}": probabilities[:, number] for number, name in enumerate(slices.classes)}
    return pd.DataFrame({**columns, **chances})


def _case_table(by_slice: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    columns = [f"prob_{name}" for name in classes]
    groups = by_slice.groupby("case", sort=False)
    means = groups[columns].mean()
    predicted = np.array(classes)[means.to_numpy().argmax(axis=1)]
    head = pd.DataFrame({"case": means.index, "slices": groups.size().to_numpy(), "predicted": predicted})
    return head.join(means.reset_index(drop=True))


def _telling(by_slice: pd.DataFrame, by_case: pd.DataFrame, count: int) -> list[int]:
    """Of each case, the slices that speak most for its verdict."""
    places: list[int] = []
    for row in by_case.to_dict("records"):
        mine = by_slice[by_slice["case"] == row["case"]]
        places += mine[f"prob_{row['predicted']}"].sort_values(ascending=False, kind="stable").index[:count].tolist()
    return places
