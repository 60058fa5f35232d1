"""From what a user names to classified slices, each case's class among it, and their parts by patient."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any, Literal

import numpy as np

from metaseg.cases.case import Case, FailedCase
from metaseg.cases.labels import LABEL_SCHEMES
from metaseg.cases.phantoms import PICTURE_SETS
from metaseg.cases.readers.common import find_doubled
from metaseg.cases.splits import Split, make_split
from metaseg.classify.slices import ClassifiedSlices, choose_slices, classified_slices
from metaseg.config.classification import ClassifyActiveConfig, ClassifyTrainConfig, PartOptions, SliceOptions
from metaseg.errors import DataError, UsageError, some, unknown_name, warn_user
from metaseg.files import TABLE, read_rows
from metaseg.runs.session import Inputs
from metaseg.store.prepare import open_cases, phantom_folder, phantom_pictures
from metaseg.store.store import SliceStore
from metaseg.training.source import lone_fold, shared_modalities

CASE_PROPERTIES = ("grade", "cohort", "site")


def case_classes(store: Iterable[Any], config: SliceOptions, *, needed: bool = True) -> dict[str, str]:
    """The class of each case, by id; empty where it is not known and not ``needed``.

    Raises:
        DataError: A case has none, or the table cannot be used.
        UsageError: The property does not exist.
    """
    if config.case_table is not None:
        return _from_table(store, config.case_table, config.label, needed)
    if config.label not in CASE_PROPERTIES:
        raise UsageError(
            f"--label {config.label}",
            expected=" or ".join(CASE_PROPERTIES) + ", or a column of --case-table",
            remedy="give the table that has this column with --case-table",
        )
    found = {case.id: getattr(case, config.label) for case in store}
    without = [name for name, value in found.items() if not value]
    if without and needed:
        raise DataError(
            f"{len(without)} of {len(found)} cases have no {config.label}: {', '.join(without[:5])}",
            expected=f"a {config.label} for each case",
            remedy="name another property with --label, or classes in a table with --case-table",
        )
    return {name: str(value or "") for name, value in found.items()}


def _from_table(store: Iterable[Any], path: Path, column: str, needed: bool) -> dict[str, str]:
    rows = read_rows(path.expanduser(), TABLE)
    key = next((name for name in ("case", "patient") if rows and name in rows[0]), None)
    if key is None or column not in rows[0]:
        raise DataError(
            "the table has the columns " + (", ".join(filter(None, rows[0])) if rows else "(none)"),
            where=path,
            expected=f"'case' or 'patient', and '{column}'",
            remedy="name the column of the classes with --label",
        )
    table: dict[str, str] = {}
    for row in rows:
        name, value = (row[key] or "").strip(), (row[column] or "").strip()
        if table.setdefault(name, value) != value:
            raise DataError(
                f"the table names {key} '{name}' twice, with the classes '{table[name]}' and '{value}'",
                where=path,
                expected=f"one class for each {key}",
                remedy="correct the rows",
            )
    names = {case.id: case.id if key == "case" else case.patient for case in store}
    unknown = [name for name in table if name and name not in set(names.values())]
    if unknown:
        raise DataError(
            f"{len(unknown)} rows of the table name a {key} that the data do not have: {', '.join(unknown[:5])}",
            where=path,
            expected="names as 'metaseg data check' shows them",
            remedy="correct or leave out the rows, or give all the data with --data",
        )
    classes = {case: table.get(name, "") for case, name in names.items()}
    without = [name for name, value in classes.items() if not value]
    if without and needed:
        raise DataError(
            f"{len(without)} of {len(classes)} cases have no class in the table: {', '.join(without[:5])}",
            where=path,
            expected=f"a row with '{key}' and '{column}' for each",
            remedy="add the rows, or leave the cases out",
        )
    return classes


def class_order(names: Mapping[str, str], wanted: tuple[str, ...], config: SliceOptions) -> tuple[str, ...]:
    """The classes in their order: those asked for, or all that there are.

    Raises:
        UsageError: A class that is asked for has no case, or is named twice.
        DataError: There is one class alone.
    """
    found = sorted(set(names.values()))
    doubled = [name for name in wanted if wanted.count(name) > 1]
    if doubled:
        raise UsageError(f"--classes names {doubled[0]} twice", expected="each class once")
    absent = [name for name in config.classes if name not in found]
    if absent:
        raise unknown_name("class of --classes", absent[0], found)
    classes = wanted or tuple(found)
    if len(classes) < 2:
        raise DataError(
            f"all cases are of one class ({', '.join(classes)})",
            where=", ".join(map(str, config.data)) or None,
            expected="at least two classes",
            remedy="give the data of the other class too, or choose another --label",
        )
    return classes


STORED_SIZE = 1.25
"""Slices are stored somewhat larger than the network's input, since they are cropped to the head after that."""

RunConfig = ClassifyTrainConfig | ClassifyActiveConfig
PHANTOM_GRADES: tuple[Literal["hgg", "lgg"], ...] = ("hgg", "lgg")


@dataclass(frozen=True)
class Parts:
    """Slices by part, patients apart.

    Attributes:
        train: To train on, or to choose from.
        val: To choose the best weights by; may be none.
        test: For the metrics; may be none.
        split: The division, to be kept with the run.
    """

    train: ClassifiedSlices
    val: ClassifiedSlices
    test: ClassifiedSlices
    split: Split


def open_slices(
    config: RunConfig,
    classes: tuple[str, ...] = (),
    modalities: tuple[str, ...] = (),
    *,
    annotator: bool = False,
    inputs: Inputs | None = None,
    failed: list[FailedCase] | None = None,
) -> ClassifiedSlices:
    """Open the slices that settings name; nothing but what is needed to prepare cases is read.

    Args:
        config: Which slices, and the seed of their choice.
        classes: Classes of a network that is there already, in its order; cases of others are left out, and said so.
        modalities: Modalities of such a network.
        annotator: Keep cases of other classes than ``config.classes``, or of none: somebody will be asked.
        inputs: Notes the cases, or compares them with those that a run to resume began with.
        failed: Takes cases that cannot be read; None raises the first one's error.

    Raises:
        DataError: A case cannot be used, or its class is not known.
        UsageError: Settings contradict the data.
        RunError: Cases of the run to resume are gone or changed.
    """
    store = open_classified(config, modalities, failed)
    if inputs is not None:
        store = inputs.take("data", store)
    names = case_classes(store, config, needed=not annotator)
    wanted = tuple(classes or config.classes)
    chosen = wanted if annotator else class_order(names, wanted, config)
    if not annotator:
        store = _of_classes(store, names, chosen, say=bool(classes))
    per_case = _slices_per_case(config.slices_per_case, chosen)
    counts = [per_case.get(names[case.id], per_case[""]) for case in store]
    slices = [
        choose_slices(case, count, config.slice_choice, config.seed) for case, count in zip(store, counts, strict=True)
    ]
    labels = [chosen.index(names[case.id]) if names[case.id] in chosen else -1 for case in store]
    shared = tuple(modalities or config.modalities or shared_modalities(store))
    return classified_slices(store, labels, slices, chosen, shared, config.input_size)


def open_classified(
    config: RunConfig, modalities: tuple[str, ...] = (), failed: list[FailedCase] | None = None
) -> SliceStore:
    """The prepared cases that settings name, or phantoms."""
    folders = config.data or phantom_folders(config, config.seed)
    return open_cases(
        config,
        folders,
        labels="whole-lesion",
        modalities=modalities or config.modalities,
        classes=(),
        image_size=ceil(STORED_SIZE * config.input_size),
        group_copies=config.copies,
        failed=failed,
    )


def phantom_folders(config: RunConfig, seed: int) -> tuple[Path, ...]:
    """Folders of the phantoms that settings without data ask for, made on first use."""
    cases, cache = config.phantom_cases, config.cache
    if config.phantoms == "grades":
        return tuple(phantom_folder(grade, cases, seed, cache) for grade in PHANTOM_GRADES)
    return (phantom_pictures(config.phantoms, cases, seed, cache),)


def phantoms_in_words(config: RunConfig) -> str:
    """What those phantoms are, for messages."""
    words = {
        "grades": "phantoms of two grades",
        "four-class": "pictures of four classes",
        "yes-no": "pictures of two classes",
    }
    return f"SYNTHETIC {words[config.phantoms]}"


def phantom_classes(config: RunConfig) -> tuple[str, ...]:
    """The classes of those phantoms."""
    return (
        tuple(map(str.upper, PHANTOM_GRADES)) if config.phantoms == "grades" else tuple(PICTURE_SETS[config.phantoms])
    )


def phantom_cases(config: RunConfig) -> list[Case]:
    """The cases of those phantoms, as a split by classes sees them, before they are made."""
    numbers = range(config.phantom_cases)
    names = [(f"{name}_{number}", name) for name in phantom_classes(config) for number in numbers]
    return [graded_case(case, case, name) for case, name in names]


def graded_case(name: str, patient: str, grade: str | None) -> Case:
    """A case of which nothing else is known, as a split by classes sees it."""
    return Case(name, patient, grade or "", {}, None, LABEL_SCHEMES["brats"], grade=grade)


def check_cases(cases: Sequence[Any], config: RunConfig, folds: int = 0) -> None:
    """Find out whether classes and parts can be made of cases, before any of them is prepared.

    Args:
        cases: As read from their files, or prepared ones.
        config: Which classes and parts.
        folds: Folds that a study will divide the patients into, or that the split must have; 0 for none.

    Raises:
        DataError: A class or a part cannot be made of these cases.
        UsageError: The settings name a class, a column or a part that there is not.
    """
    annotator = getattr(config, "ask", None) is not None
    names = case_classes(cases, config, needed=not annotator)
    classes = () if annotator else class_order(names, tuple(config.classes), config)
    if config.split is None:
        if config.fold is not None:
            raise lone_fold()
        for name in classes if folds else ():
            _check_fold_patients({case.patient for case in cases if names[case.id] == name}, name, folds)
        return
    split = Split.load(config.split)
    if folds:
        check_folds(split, folds, config.split)
        config = replace(config, fold=0)
    for part in {name for group in _groups(split, config) for name in group}:
        if part not in split.parts:
            raise unknown_name("part of the split", part, split.parts, config.split)
        if config.data and not set(split.parts[part]) & set(names):
            raise DataError(
                f"part '{part}' of the split names none of the cases",
                where=config.split,
                remedy="give the split of this data set",
            )


def _check_fold_patients(patients: Collection[str], name: str, folds: int) -> None:
    if len(patients) < folds:
        raise DataError(
            f"class {name} has {len(patients)} patients for {folds} folds",
            expected="one for each fold at least",
            remedy="use fewer folds, or leave the class out with --classes",
        )


def check_folds(split: Split, folds: int, where: Path) -> None:
    """Raise UsageError unless a split has just so many folds."""
    found = sum(name.startswith("fold-") for name in split.parts)
    if found != folds:
        raise UsageError(
            f"the split has {found or 'no'} folds",
            where=where,
            expected=f"the study's {folds}",
            remedy=f"make one with 'metaseg data split --folds {folds}', or name another study folder with --out",
        )


def _of_classes(store: SliceStore, names: Mapping[str, str], classes: Sequence[str], *, say: bool) -> SliceStore:
    """The cases of some classes; with ``say``, what is left out is printed."""
    kept = tuple(case for case in store if names[case.id] in classes)
    others = ", ".join(sorted(set(names.values()) - set(classes)))
    if not kept:
        raise DataError(
            f"no case is of a class that the network knows; there are: {others}",
            expected="cases of " + ", ".join(classes),
            remedy="check --data and --label",
        )
    if say and len(kept) < len(store):
        print(f"{len(store) - len(kept)} cases are left out: the network does not know their classes ({others})")
    return SliceStore(kept)


def _slices_per_case(given: Sequence[str], classes: tuple[str, ...]) -> dict[str, int | None]:
    """Slices of a case by class, and under an empty name where the class is not known; None for all."""
    counts: dict[str, int | None] = dict.fromkeys((*classes, ""))
    for item in given:
        name, _, number = item.rpartition("=")
        whole = number.isascii() and number.isdigit() and int(number) > 0
        if not whole or (name and name not in classes) or (not name and len(given) > 1):
            raise UsageError(
                f"--slices-per-case {','.join(given)}",
                expected=f"a number such as 20, or one a class such as {','.join(f'{name}=10' for name in classes)}",
            )
        counts.update({name: int(number)} if name else dict.fromkeys(counts, int(number)))
    return counts


def into_parts(
    slices: ClassifiedSlices, config: RunConfig, *, annotator: bool = False, recorded: Path | None = None
) -> Parts:
    """Divide slices by patient: by the split file, or 70, 15 and 15 % of the patients of each class.

    Args:
        slices: All slices.
        config: The split and its parts, and the seed of a split that is drawn.
        annotator: Slices of unknown class may be trained on, since somebody will be asked; none of them is measured.
        recorded: The split that a run to resume has kept and continues with.

    Raises:
        UsageError: The split has no such part.
        DataError: The split is of other data, or a part that must not be lacks a class.
    """
    split, names = _split(slices, config, recorded)
    train, val, test = (
        slices.of_cases([case.id for name in group for case in split.select(slices.store.cases, name)])
        for group in names
    )
    if annotator:
        val, test = (part.take(np.flatnonzero(part.labels >= 0)) for part in (val, test))
    parts = Parts(train, val, test, split)
    _check_classes(parts, annotator)
    return parts


def _split(slices: ClassifiedSlices, config: RunConfig, recorded: Path | None) -> tuple[Split, list[list[str]]]:
    if config.split is None:
        if config.fold is not None:
            raise lone_fold()
        own = own_split(slices, config.seed) if recorded is None else Split.load(recorded)
        # Where few have a class, a part of an own split may be empty.
        return own, [[name] if own.parts.get(name) else [] for name in ("train", "val", "test")]
    split = _narrowed(Split.load(recorded or config.split), slices)
    return split, _groups(split, config)


def _groups(split: Split, config: PartOptions) -> list[list[str]]:
    """Names of the parts to train on, to validate on and to test on."""
    if config.fold is None:
        wanted = [config.train_part, config.val_part, config.test_part]
        if twice := find_doubled(wanted):
            raise UsageError(
                f"part '{twice}' is named twice, of train, validation and test part",
                expected="three parts",
                remedy="name others with --train-part, --val-part and --test-part",
            )
        # A split without validation or test part is one; a part that is asked for by name must be there.
        usual = ("", "val", "test")
        return [
            [] if name == usual[number] and name not in split.parts else [name] for number, name in enumerate(wanted)
        ]
    folds = [name for name in split.parts if name.startswith("fold-")]
    test, val = f"fold-{config.fold}", f"fold-{(config.fold + 1) % max(len(folds), 1)}"
    if test not in folds or len(folds) < 3:
        raise UsageError(
            f"the split has no fold {config.fold}, or fewer than three folds",
            where=config.split,
            expected="a split of at least three folds, as 'metaseg data split --folds 5' makes",
        )
    return [[name for name in folds if name not in (test, val)], [val], [test]]


def _narrowed(split: Split, slices: ClassifiedSlices) -> Split:
    """The split without cases that were left out, such as those of other classes."""
    here = {case.id for case in slices.store}
    if gone := [case for ids in split.parts.values() for case in ids if case not in here]:
        warn_user(f"{len(gone)} cases of the split are not in the data, or of other classes: {some(gone)}")
    parts = {name: tuple(case for case in ids if case in here) for name, ids in split.parts.items()}
    return Split(split.seed, split.stratify, parts, split.patients)


def own_split(slices: ClassifiedSlices, seed: int, folds: int | None = None) -> Split:
    """A split of all patients by class.

    Args:
        slices: All slices.
        seed: Of the draw.
        folds: Number of folds; None for 70, 15 and 15 % of the patients.

    Raises:
        DataError: There are fewer patients than parts.
    """
    label = dict(zip(slices.owners.tolist(), slices.labels.tolist(), strict=True))
    cases = {owner: slices.store.cases[owner] for owner in label}
    patients = {cases[owner].patient for owner, number in label.items() if number >= 0}
    known = [
        graded_case(cases[owner].id, cases[owner].patient, slices.classes[number] if number >= 0 else None)
        for owner, number in label.items()
        if cases[owner].patient in patients
    ]
    if folds is not None:
        return make_split(known, folds=folds, seed=seed, stratify="grade")
    rest = [case for case in cases.values() if case.patient not in patients]
    parts: dict[str, tuple[str, ...]] = {"train": (), "val": (), "test": ()}
    if known:
        parts.update(make_split(known, seed=seed, stratify="grade").parts)
    # Those whose class nobody knows can only be learned from, once somebody was asked.
    parts["train"] = (*parts["train"], *sorted(case.id for case in rest))
    return Split(seed, "grade", parts, {case.id: case.patient for case in cases.values()})


def _check_classes(parts: Parts, annotator: bool) -> None:
    """Training needs all classes; a metric on a part that lacks one would be of another task."""
    trained = [] if annotator else [("train", parts.train)]
    for name, part in (*trained, ("val", parts.val), ("test", parts.test)):
        lacking = part.absent_classes()
        if lacking and len(part):
            raise DataError(
                f"part '{name}' has no slice of class {', '.join(lacking)}",
                expected="all classes in every part",
                remedy="give more patients of that class, make another split ('metaseg data split --stratify grade'), "
                "or leave the class out with --classes",
            )
    if not len(parts.train):
        raise DataError("there are no slices to train on", remedy="check --split and --train-part")


def part_lines(parts: Parts) -> list[str]:
    """One line for each part: patients, slices, slices by class."""
    lines = []
    for name, part in (("train", parts.train), ("val", parts.val), ("test", parts.test)):
        if len(part):
            by_class = ", ".join(f"{count} {kind}" for kind, count in part.counts().items())
            lines.append(f"  {name}: {len(set(part.patients))} patients, {len(part)} slices ({by_class})")
    return lines
