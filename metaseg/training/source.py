"""Which cases, classes and modalities a training uses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from metaseg.cases.labels import LABEL_SPACES, SUBREGIONS, WHOLE_LESION, LabelSpace
from metaseg.cases.splits import Absent, Split, make_split
from metaseg.config.segmentation import AdaptOptions, PretrainConfig
from metaseg.errors import DataError, UsageError
from metaseg.store.store import SliceStore


def choose_space(store: SliceStore, labels: str | None) -> LabelSpace:
    """Label space to learn: ``labels`` if given, else the finest that all cases have.

    Raises:
        DataError: Subregions are asked for where a case has the whole lesion only.
    """
    coarse = [case.id for case in store if case.space == WHOLE_LESION]
    if labels is None:
        return WHOLE_LESION if coarse else min((case.space for case in store), key=lambda space: space.num_classes)
    if labels == SUBREGIONS.name and coarse:
        raise DataError(
            f"case {coarse[0]} has the whole lesion outlined, not its subregions ({len(coarse)} such cases)",
            expected="labels of necrosis, edema and enhancing tumour",
            remedy="use --labels whole-lesion",
        )
    return LABEL_SPACES[labels]


def shared_modalities(store: SliceStore) -> tuple[str, ...]:
    """Modalities that all stored cases have, in stored order.

    Raises:
        DataError: They share none.
    """
    first = store.cases[0].info.modalities
    shared = tuple(name for name in first if all(name in case.info.modalities for case in store))
    if not shared:
        raise DataError("the cases share no modality", expected="at least one modality in every case")
    return shared


def divide(store: SliceStore, config: PretrainConfig) -> tuple[SliceStore, SliceStore]:
    """Training and validation cases, by patient: from the split file, or a seeded fraction.

    Raises:
        UsageError: The split has no such part, or no case is left to train on.
        DataError: A patient stands in both.
    """
    store = store.labelled()
    if config.fold is not None and config.split is None:
        raise lone_fold()
    if config.split is not None:
        parts = _from_split(config.split, store, config)
    elif config.val_fraction == 0 or len({case.patient for case in store}) < 2:
        parts = (store, SliceStore(()))
    else:
        split = make_split(
            store.cases,
            parts={"train": 1 - config.val_fraction, "val": config.val_fraction},
            seed=config.seed,
        )
        parts = (store.select(split.parts["train"]), store.select(split.parts["val"]))
    if not len(parts[0]):
        raise UsageError("no case is left to train on", remedy="change --split, --fold or --val-fraction")
    return parts


def lone_fold() -> UsageError:
    """The error for a fold of no split."""
    return UsageError("--fold without --split", expected="a split of folds, from 'metaseg data split --folds 5'")


def _from_split(path: Path, store: SliceStore, config: PretrainConfig) -> tuple[SliceStore, SliceStore]:
    split, absent = Split.load(path), absent_cases(config)
    train, val = pretraining_parts(config, split)
    return store.part(split, *train, absent=absent), store.part(split, val, absent=absent)


def pretraining_parts(config: PretrainConfig, split: Split) -> tuple[list[str], str]:
    """Parts of a split to train on, and the part to validate on.

    Raises:
        UsageError: They are the same.
    """
    if config.fold is not None:
        held_out = f"fold-{config.fold}"
        return [part for part in split.parts if part.startswith("fold-") and part != held_out], held_out
    if config.train_part == config.val_part:
        raise UsageError(
            f"part '{config.train_part}' is to be trained and validated on",
            expected="two parts",
            remedy="name others with --train-part and --val-part",
        )
    return [config.train_part], config.val_part


def absent_cases(config: PretrainConfig | AdaptOptions, classes: Sequence[str] | None = None) -> Absent:
    """What to do about cases of a split that are not in the data: they may have been left out on purpose.

    Args:
        config: The settings.
        classes: The classes that are kept; by default ``config.classes``.
    """
    kept = config.classes if classes is None else classes
    return "ignore" if kept else "warn" if config.allow_missing else "refuse"
