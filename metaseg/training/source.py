"""Which cases, classes and modalities a training uses."""

from __future__ import annotations

from pathlib import Path

from metaseg.cases.labels import LABEL_SPACES, SUBREGIONS, WHOLE_LESION, LabelSpace
from metaseg.cases.splits import Split, make_split
from metaseg.config import PretrainConfig
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


def labelled(store: SliceStore) -> SliceStore:
    """The cases that have a label.

    Raises:
        DataError: None has.
    """
    cases = tuple(case for case in store if case.info.labelled)
    if not cases:
        raise DataError("none of the cases has a label", remedy="add labels; see 'metaseg data check'")
    return SliceStore(cases)


def divide(store: SliceStore, config: PretrainConfig) -> tuple[SliceStore, SliceStore]:
    """Training and validation cases, by patient: from the split file, or a seeded share.

    Raises:
        UsageError: The split has no such part, or no case is left to train on.
        DataError: A patient stands in both.
    """
    store = labelled(store)
    if config.split is not None:
        parts = _from_split(config.split, store, config)
    elif config.val_share == 0 or len({case.patient for case in store}) < 2:
        parts = (store, SliceStore(()))
    else:
        split = make_split(
            store.cases,
            parts={"train": 1 - config.val_share, "val": config.val_share},
            seed=config.seed,
        )
        parts = (store.select(split.parts["train"]), store.select(split.parts["val"]))
    if not len(parts[0]):
        raise UsageError("no case is left to train on", remedy="change --split, --fold or --val-share")
    return parts


def _from_split(path: Path, store: SliceStore, config: PretrainConfig) -> tuple[SliceStore, SliceStore]:
    split = Split.load(path)
    if config.fold is None:
        train = part_of(split, store, config.train_part, bool(config.classes))
        return train, part_of(split, store, config.val_part, bool(config.classes))
    name = f"fold-{config.fold}"
    val = part_of(split, store, name, bool(config.classes))
    others = [part for part in split.parts if part.startswith("fold-") and part != name]
    return SliceStore(tuple(case for part in others for case in part_of(split, store, part, bool(config.classes)))), val


def part_of(split: Split, store: SliceStore, part: str, partial: bool = False) -> SliceStore:
    """The labelled cases of one part of a split.

    Args:
        split: The split.
        store: The cases.
        part: Name of the part.
        partial: The store was narrowed, so the split may name cases that are not here.

    Raises:
        UsageError: There is no such part, or it holds none of these cases.
        DataError: The split names cases that are not in the data.
    """
    if partial:
        here = {case.id for case in store}
        parts = {name: tuple(case for case in ids if case in here) for name, ids in split.parts.items()}
        split = Split(split.seed, split.stratify, parts, split.patients)
    cases = split.select(store.cases, part)
    if not cases:
        raise UsageError(f"part '{part}' of the split holds none of the cases", remedy="check --split and --classes")
    return SliceStore(tuple(cases))
