"""What a comparison can find out before it prepares anything: names, parts of the split, patients, the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from metaseg.adapt.setup import check_modalities, no_source_to_draw_from
from metaseg.cases.case import Case
from metaseg.cases.splits import Absent, Split
from metaseg.config.segmentation import AdaptOptions, PretrainConfig
from metaseg.errors import DataError, MetasegError, UsageError, unknown_name
from metaseg.runs.folder import RunFolder
from metaseg.runs.networks import LoadedNetwork, load_network
from metaseg.runs.state import STATE_NAME
from metaseg.store.prepare import list_cases
from metaseg.store.stored_case import StoredCase
from metaseg.studies.phantoms import PARTS, is_phantom_split
from metaseg.studies.plan import Plan
from metaseg.studies.search import open_database
from metaseg.training.source import absent_cases

Member = Case | StoredCase
"""A case as read from its files, or a prepared one."""
Cases = Callable[[PretrainConfig | AdaptOptions, Sequence[Path], Sequence[str]], list[Member]]
"""Reads the cases of folders, once however often it is asked."""


def check_data(plan: Plan) -> None:
    """Find out whether the data allow the plan, from the files' names and the split; writes nothing.

    Raises:
        UsageError: A part of the split is missing or empty, there are fewer patients than shots, or a search would see
            the test patients.
        DataError: The data or the split cannot be read.
        RunError: The source network is not there.
    """
    seen: dict[tuple[Any, ...], list[Member]] = {}

    def cases(config: PretrainConfig | AdaptOptions, folders: Sequence[Path], classes: Sequence[str]) -> list[Member]:
        key = (tuple(folders), config.format, config.label_scheme, tuple(classes))
        if key not in seen:
            listed = list_cases(
                folders,
                format=config.format,
                label_scheme=config.label_scheme,
                classes=classes,
                patients=config.patients,
                need_labels=True,
                allow_missing=config.allow_missing,
            )
            seen[key] = [case for case in listed if case.labelled]
        return seen[key]

    network = None
    if plan.pretrain is None or (plan.network / STATE_NAME).exists():
        network = load_network(plan.network)
    elif not is_phantom_split(plan.pretrain.split, plan.folder):
        _check_pretraining(plan.pretrain, cases)
    if plan.study.storage is not None and plan.study.trials:
        open_database(plan.folder, plan.study.storage)
    for target in plan.targets:
        config = plan.config(next(unit for unit in plan.cells if unit.target == target))
        if is_phantom_split(config.split, plan.folder):
            patients = int(int(config.data[0].name.partition("-")[2]) * PARTS["train"])
            _check_shots(plan, target, patients)
        else:
            _check_target(plan, target, config, network, cases)


def _check_pretraining(config: PretrainConfig, cases: Cases) -> None:
    members = cases(config, config.data, config.classes)
    if config.split is None:
        return
    split = Split.load(config.split)
    parts = {config.train_part, config.val_part} if config.fold is None else {f"fold-{config.fold}"}
    for part in sorted(parts):
        _check_part(split, members, part, "the source", config.split)


def _check_target(plan: Plan, target: str, config: AdaptOptions, network: LoadedNetwork | None, cases: Cases) -> None:
    study = plan.study
    assert config.split is not None
    split = Split.load(config.split)
    members = cases(config, config.data, config.classes)
    parts = {config.train_part, study.test_part} | ({study.search_part} if study.trials else set())
    for part in sorted(parts):
        _check_part(split, members, part, f"target {target}", config.split, absent_cases(config))
    ids = set(split.parts[config.train_part])
    _check_shots(plan, target, len({case.patient for case in members if case.id in ids}))
    watched = cases(config, config.source, config.source_classes) if config.source else []
    if any(case.id in split.patients for case in watched):
        for part in sorted(parts - {config.train_part}):
            _check_part(split, watched, part, f"the source of target {target}", config.split)
    elif study.trials:
        raise UsageError(
            f"the search for target {target} would see the source patients that the metrics are of",
            where=config.split,
            expected="'source', and its patients in the split with the target's",
            remedy="split both together with 'metaseg data split', or set 'trials: 0'",
        )
    if network is not None:
        check_modalities(config, network)
        _check_network(plan, target, network, members, watched, split)
        if any(entry.needs_memory for entry in plan.entries.values()):
            _check_rehearsal(config, network, watched, split, cases)


def _check_network(
    plan: Plan,
    target: str,
    network: LoadedNetwork,
    members: Sequence[Member],
    watched: Sequence[Member],
    split: Split,
) -> None:
    """Whether cases fit the network, and whether anyone is left to watch and to rehearse."""
    for case in (*members, *watched):
        missing = [name for name in network.card.modalities if name not in case.modalities]
        if missing:
            raise DataError(
                f"target {target}: case {case.id} lacks modality {', '.join(missing)}",
                expected=", ".join(network.card.modalities) + ", as the network takes",
                remedy="add the files, or leave the case out of the data",
            )
    study, judged = plan.study, split.parts.get(plan.study.search_part, ())
    left = [case for case in watched if case.id in judged and case.patient not in network.trained_patients]
    if study.trials and study.objective == "balanced" and not left:
        raise UsageError(
            f"no source patient of target {target} is left to watch: the network was trained on all of them",
            remedy="name others with 'source', or judge trials by 'objective: target'",
        )


def _check_rehearsal(
    config: AdaptOptions, network: LoadedNetwork, watched: Sequence[Member], split: Split, cases: Cases
) -> None:
    """Whether there are source cases that methods can draw from."""
    source, listed = watched, set(split.parts[config.train_part])
    if not config.source and network.run is not None and RunFolder.open(network.run).verb == "pretrain":
        pretraining = RunFolder.open(network.run).config(PretrainConfig)
        if not pretraining.data:
            return  # Phantoms, which are made when they are needed.
        try:
            source, listed = cases(pretraining, pretraining.data, pretraining.classes), set()
        except MetasegError as error:
            error.found = f"the source cases that methods rehearse cannot be read: {error.found}"
            raise
    if not any(case.patient in network.trained_patients or case.id in listed for case in source):
        raise no_source_to_draw_from()


def _check_part(
    split: Split, members: Sequence[Member], part: str, what: str, where: Path, absent: Absent = "ignore"
) -> None:
    if part not in split.parts:
        raise unknown_name("part of the split", part, sorted(split.parts), where)
    ids = set(split.parts[part])
    if not any(case.id in ids for case in members):
        raise UsageError(f"part '{part}' of the split holds no cases of {what}", where=where)
    split.select(members, part, absent=absent)


def _check_shots(plan: Plan, target: str, patients: int) -> None:
    wanted = max([*plan.study.shots, *([plan.search_shots] if plan.study.trials else [])])
    if wanted > patients:
        raise UsageError(
            f"{wanted} shots are asked for, but the training part of target {target} has {patients} patients",
            remedy="lower 'shots' or 'search_shots', or use a split with more patients in it",
        )
