"""What a comparison checks before it prepares anything, and what it makes before its first cell."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from metaseg.adapt.setup import check_modalities, no_source_to_draw_from, open_domain, open_source, prepare_setup
from metaseg.cases.case import Case
from metaseg.cases.labels import LABEL_SPACES
from metaseg.cases.splits import Absent, Split
from metaseg.config.io import dump_config
from metaseg.config.segmentation import AdaptOptions, PretrainConfig
from metaseg.errors import DataError, MetasegError, RunError, UsageError, unknown_name
from metaseg.runs.folder import RunFolder, is_run
from metaseg.runs.networks import LoadedNetwork, load_network
from metaseg.runs.session import content_digest
from metaseg.runs.state import STATE_NAME
from metaseg.store.prepare import list_cases
from metaseg.store.stored_case import StoredCase
from metaseg.studies.cells import NETWORK, BusyError, check_inputs, run_unit, state_of
from metaseg.studies.phantoms import PARTS, is_phantom_split, make_phantom_domain
from metaseg.studies.plan import Plan, with_patients
from metaseg.studies.search import open_database
from metaseg.studies.workers import CELLS, PRETRAIN, SEARCHES, Unit
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
        if any(entry.needs_source_cases for entry in plan.entries.values()):
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
    judged = split.parts.get(plan.study.search_part, ())
    left = [case for case in watched if case.id in judged and case.patient not in network.trained_patients]
    if not left:
        _check_watched(plan, target)


def _check_watched(plan: Plan, target: str) -> None:
    """Raise where trials are judged by source patients, of whom there are none."""
    if plan.study.trials and plan.study.objective == "balanced":
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


STUDY_FILE = "study.yaml"
SECONDS_BETWEEN_LOOKS = 5.0


def prepare_study(plan: Plan) -> Plan:
    """Make everything that cells start from; what is there stays.

    Returns:
        The plan with its region and with the numbers of usable patients.

    Raises:
        MetasegError: Something cannot be made or read.
    """
    plan.folder.mkdir(parents=True, exist_ok=True)
    dump_config(plan.study, plan.folder / STUDY_FILE)
    _make_phantoms(plan)
    _pretrain(plan)
    network = load_network(plan.network)
    inputs = {NETWORK: content_digest(plan.network)}
    check_inputs(plan.folder, inputs, _has_results(plan))
    plan = with_region(plan, network)
    if any(unit.kind == "search" for unit in plan.units):
        open_database(plan.folder, plan.study.storage)
    patients = {}
    for target in plan.targets:
        patients[target], digests = _prepare_target(plan, target, network)
        inputs |= digests
    check_inputs(plan.folder, inputs, _has_results(plan))
    return with_patients(plan, patients)


def with_region(plan: Plan, network: LoadedNetwork) -> Plan:
    """The plan with the region of its tables: the one asked for, or the network's smallest.

    Raises:
        UsageError: The network knows no such region.
    """
    regions = list(LABEL_SPACES[network.card.label_space].regions)
    region = plan.study.region or regions[-1]
    if region not in regions:
        raise unknown_name("region", region, regions, network.checkpoint)
    return replace(plan, study=replace(plan.study, region=region))


def known_region(plan: Plan) -> Plan:
    """The plan with its region, or as it is where the source network is still to be pretrained."""
    return with_region(plan, load_network(plan.network)) if is_run(plan.network) or plan.pretrain is None else plan


def _make_phantoms(plan: Plan) -> None:
    splits = [target.get("split") for target in plan.targets.values()]
    splits += [plan.pretrain.split] if plan.pretrain else []
    for split in splits:
        if isinstance(split, Path) and is_phantom_split(split, plan.folder) and not split.exists():
            print(f"making SYNTHETIC phantoms: {split.stem}")
            make_phantom_domain(split)


def _pretrain(plan: Plan) -> None:
    if plan.pretrain is None:
        return
    folder = plan.folder / PRETRAIN
    state = state_of(folder, plan.pretrain, plan.folder)
    if state == "changed" and _has_results(plan):
        raise UsageError(
            "the settings under 'pretrain' differ from those of the study's source network, and cells start from that",
            where=folder / "config.yaml",
            remedy="name another study folder with --out, or put the settings back",
        )
    waited = False
    while state_of(folder, plan.pretrain, plan.folder) != "done":
        try:
            if not waited:
                print(f"pretraining the source network in {folder}")
            run_unit(folder, plan.pretrain, plan.folder, show=True)
        except BusyError:
            if not waited:
                print("another process pretrains it: waiting")
            waited = True
            time.sleep(SECONDS_BETWEEN_LOOKS)


def _has_results(plan: Plan) -> bool:
    roots = (plan.folder / CELLS, plan.folder / SEARCHES)
    return any(is_run(path.parent) for root in roots for path in root.rglob("state.json"))


def _prepare_target(plan: Plan, target: str, network: LoadedNetwork) -> tuple[int, dict[str, str]]:
    """Prepare a target's cases before workers ask for them at once; gives its usable patients, and digests."""
    units = [unit for unit in plan.units if unit.target == target]
    cell = plan.config(max((unit for unit in units if unit.kind == "cell"), key=lambda unit: unit.shots or 0))
    draws_from_source = any(entry.needs_source_cases for entry in plan.entries.values())
    configs: list[AdaptOptions] = [cell]
    configs += [plan.config(unit) for unit in units if unit.kind == "search"][:1]
    for config in configs:
        with contextlib.redirect_stdout(io.StringIO()):
            setup = prepare_setup(replace(config, jobs=0), draws_from_source)
        if not len(setup.source):
            _check_watched(plan, target)
    assert cell.split is not None
    store = open_domain(cell, network, cell.data, cell.classes)
    part = store.part(cell.split, cell.train_part, absent=absent_cases(cell))
    # Those with tumour in two slices or more: as many shots as can be drawn.
    usable = {case.patient for case in part if (case.areas()[:, 1:].sum(axis=1) > 0).sum() >= 2}
    return len(usable), {
        f"data of target {target}": store.fingerprint,
        f"source of target {target}": open_source(cell, network).fingerprint,
        f"split of target {target}": content_digest(cell.split),
    }


def dry_patients(plan: Plan) -> Mapping[str, int]:
    """Numbers of patients as recorded by oracle runs that are there, for a dry run."""
    found = {}
    for target in plan.targets:
        folder = plan.folder / Unit("oracle", target).folder
        with contextlib.suppress(RunError, UsageError):
            config = plan.config(Unit("oracle", target))
            found[target] = RunFolder.open(folder).config(type(config)).shots
    return found
