"""Whose cases an adaptation watches and draws from, and which patients must be apart.

Everything here goes by patients, not by files: one patient may lie in the source's folder and in the target's. The
functions take cases as they were read or prepared, so that a dry run refuses what the run would.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from metaseg.cases.patients import SplitMember
from metaseg.cases.splits import Split
from metaseg.config.segmentation import AdaptOptions
from metaseg.errors import DataError, UsageError, some
from metaseg.runs.networks import SeenPatients
from metaseg.training.source import absent_cases

Member = TypeVar("Member", bound=SplitMember)


def source_split(config: AdaptOptions, source: Sequence[SplitMember]) -> Split | None:
    """The split of the source's patients: ``source_split``, or ``split`` if it names them; None if neither is."""
    if config.source_split is not None:
        return Split.load(config.source_split)
    if config.split is None:
        return None
    split = Split.load(config.split)
    return split if any(case.id in split.patients for case in source) else None


def source_part(config: AdaptOptions, source: Sequence[Member], part: str) -> list[Member]:
    """The source's cases of a part; all where no split names them.

    Raises:
        UsageError: The source's split has no such part, or it holds none of the cases.
        DataError: The split is of other patients, or its cases are not all there.
    """
    split = source_split(config, source)
    if split is None:
        return list(source)
    absent = "ignore" if config.source_split is None else absent_cases(config, config.source_classes)
    return split.select(source, part, absent=absent)


def source_to_watch(config: AdaptOptions, seen: SeenPatients, source: Sequence[Member]) -> list[Member]:
    """The source cases whose forgetting is measured: of ``test_part``, and of nobody whom the network has seen.

    Raises:
        UsageError: As :func:`source_part`.
        DataError: As :func:`source_part`.
    """
    hidden = seen.before(config.test_part)
    return [case for case in source_part(config, source, config.test_part) if case.patient not in hidden]


def source_to_choose_by(config: AdaptOptions, seen: SeenPatients, source: Sequence[Member]) -> list[Member]:
    """The source cases by which settings are chosen: of ``val_part``, else those that validated the network.

    Nobody whom the network was trained on is among them; without a split they are those that are watched, too.

    Raises:
        DataError: The split is of other patients, or its cases are not all there.
    """
    split = source_split(config, source)
    members = source_part(config, source, config.val_part) if split and config.val_part in split.parts else source
    validate = seen.validated if members is source else {case.patient for case in members}
    return [case for case in members if case.patient in validate - seen.trained]


def source_to_draw_from(config: AdaptOptions, seen: SeenPatients, source: Sequence[Member]) -> list[Member]:
    """The source cases that a method may draw from: those the network was trained on, else the split's.

    Raises:
        UsageError: There are none.
    """
    cases = [case for case in source if case.patient in seen.trained]
    if not cases and source_split(config, source) is not None:
        cases = source_part(config, source, config.train_part)
    if not cases:
        raise UsageError(
            "the method draws from the source's training cases, and there are none",
            expected="--source with patients that the network was trained on, or a split that names some",
            remedy="give the source's folder with --source, or choose a method that needs no source data",
        )
    return cases


def check_apart(
    config: AdaptOptions, seen: SeenPatients, target: Sequence[SplitMember], source: Sequence[SplitMember]
) -> None:
    """Raise where a patient would stand on two sides, across the splits of both domains.

    Args:
        config: The settings; without ``split`` nothing is checked, since no patient was said to be apart.
        seen: Whom the network has seen.
        target: All cases of the target.
        source: All cases of the source.

    Raises:
        DataError: The network has seen a patient of the part that is watched, or a patient of both domains is in
            another part as source than as target.
    """
    if config.split is None:
        return
    of_target = Split.load(config.split).parts_of(target)
    watched = {patient for patient, part in of_target.items() if part == config.test_part}
    if leaked := sorted(watched & seen.before(config.test_part)):
        raise DataError(
            f"the network has seen {_counted(leaked)} of part '{config.test_part}' of the target",
            where=config.split,
            expected="patients whom no training saw, and who chose no weights",
            remedy=f"make a split that puts them into '{config.train_part}', or leave them out of the pretraining; "
            f"{OTHERS}",
        )
    split = source_split(config, source)
    if split is not None:
        of_source = split.parts_of(source)
    else:
        of_source = {case.patient: config.test_part for case in source_to_watch(config, seen, source)}
    crossing = sorted(name for name in of_source.keys() & of_target.keys() if of_source[name] != of_target[name])
    if crossing:
        name = crossing[0]
        raise DataError(
            f"{_counted(crossing)} of both domains would stand on two sides: {name} is in part '{of_source[name]}' as "
            f"source and in part '{of_target[name]}' as target",
            where=config.split if config.source_split is None else f"{config.source_split} and {config.split}",
            expected="each patient in one part, whichever folder its scans are in",
            remedy=f"split both folders together: metaseg data split SOURCE TARGET; {OTHERS}",
        )


OTHERS = "if they are other people of the same name, rename the files of one"


def _counted(patients: Sequence[str]) -> str:
    return f"{len(patients)} {'patient' if len(patients) == 1 else 'patients'} ({some(patients)})"
