"""What a comparison checks and makes before its first cell: data, phantoms, the source network, the database."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from metaseg.adapt.domains import open_cases, open_source
from metaseg.adapt.setting import prepare_setting
from metaseg.cases.labels import LABEL_SPACES
from metaseg.cases.readers import read_cases
from metaseg.cases.splits import Split
from metaseg.config import AdaptOptions
from metaseg.config_io import dump_config
from metaseg.errors import RunError, UsageError
from metaseg.models.checkpoint import checkpoint_files
from metaseg.runs.folder import RunFolder, is_run
from metaseg.runs.networks import LoadedNetwork, load_network
from metaseg.store.store import is_store, open_store
from metaseg.studies.cells import BusyError, run_unit, state_of
from metaseg.studies.inputs import NETWORK, check_inputs, file_digest, network_digest
from metaseg.studies.phantoms import PARTS, is_phantom_split, make_phantom_domain
from metaseg.studies.plan import CELLS, SEARCHES, Plan, Unit, with_patients
from metaseg.studies.search import open_storage
from metaseg.training.source import absent_cases, part_of

STUDY_FILE = "study.yaml"
SECONDS_BETWEEN_LOOKS = 5.0

Member = Any
"""A case as read from its files, or a prepared one."""


def check_data(plan: Plan) -> None:
    """Find out whether the data allow the plan, from the files' names and the split; writes nothing.

    Raises:
        UsageError: A part of the split is missing or empty, there are fewer patients than shots, or a search would see
            the test patients.
        DataError: The data or the split cannot be read.
        RunError: The source network is not there.
    """
    if plan.pretrain is None and not (plan.network.is_dir() or checkpoint_files(plan.network)[0].exists()):
        raise RunError(
            "the source network is not there",
            where=plan.network,
            expected="a pretrained run or a checkpoint",
            remedy="check 'from', or let the study make one with 'pretrain'",
        )
    seen: dict[tuple[Any, ...], list[Member]] = {}

    def cases(config: AdaptOptions, folders: Sequence[Path], classes: Sequence[str]) -> list[Member]:
        key = (tuple(folders), config.format, config.label_scheme, tuple(classes))
        if key not in seen:
            seen[key] = [case for folder in folders for case in _members(config, folder, classes)]
        return seen[key]

    for target in plan.targets:
        config = plan.config(next(unit for unit in plan.cells if unit.target == target))
        if is_phantom_split(config.split, plan.folder):
            patients = int(int(config.data[0].name.partition("-")[2]) * PARTS["train"])
            _check_shots(plan, target, patients)
        else:
            _check_target(plan, target, config, cases)


def _check_target(
    plan: Plan, target: str, config: AdaptOptions, cases: Callable[[AdaptOptions, Sequence[Path], Sequence[str]], Any]
) -> None:
    study = plan.study
    assert config.split is not None
    split = Split.load(config.split)
    members = cases(config, config.data, config.classes)
    parts = {config.train_part, study.test_part} | ({study.search_part} if study.trials else set())
    for part in sorted(parts):
        _check_part(split, members, part, f"target {target}", config.split)
    ids = set(split.parts[config.train_part])
    _check_shots(plan, target, len({case.patient for case in members if case.id in ids}))
    watched = cases(config, config.source, config.source_classes) if config.source else []
    if any(case.id in split.patients for case in watched):
        for part in sorted(parts - {config.train_part}):
            _check_part(split, watched, part, f"the source of target {target}", config.split)
    elif study.trials:
        raise UsageError(
            f"the search for target {target} would see the source patients that the figures are of",
            where=config.split,
            expected="'source', and its patients in the split with the target's",
            remedy="split both together with 'metaseg data split', or set 'trials: 0'",
        )


def _check_part(split: Split, members: Sequence[Member], part: str, what: str, where: Path) -> None:
    if part not in split.parts:
        raise UsageError(
            f"the split has no part '{part}'", where=where, expected="one of " + ", ".join(sorted(split.parts))
        )
    ids = set(split.parts[part])
    if not any(case.id in ids for case in members):
        raise UsageError(f"part '{part}' of the split holds no cases of {what}", where=where)
    split.select(members, part, absent="ignore")


def _check_shots(plan: Plan, target: str, patients: int) -> None:
    wanted = max([*plan.study.shots, *([plan.search_shots] if plan.study.trials else [])])
    if wanted > patients:
        raise UsageError(
            f"{wanted} shots are asked for, but the training part of target {target} has {patients} patients",
            remedy="lower 'shots' or 'search_shots', or use a split with more patients in it",
        )


def _members(config: AdaptOptions, folder: Path, classes: Sequence[str]) -> list[Member]:
    if is_store(folder):
        wanted = {name.lower() for name in classes}
        stored = [case for case in open_store(folder) if case.info.labelled]
        return [
            case
            for case in stored
            if not wanted or {str(case.info.cohort).lower(), str(case.info.grade).lower()} & wanted
        ]
    read = read_cases(
        folder,
        format=config.format,
        label_scheme=config.label_scheme,
        classes=tuple(classes) or None,
        patients=config.patients,
        need_labels=True,
        allow_missing=config.allow_missing,
    )
    return [case for case in read if case.label is not None]


def prepare(plan: Plan) -> Plan:
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
    inputs = {NETWORK: network_digest(plan.network)}
    check_inputs(plan.folder, inputs, _has_results(plan))
    plan = with_region(plan, network)
    if any(unit.kind == "search" for unit in plan.units):
        open_storage(plan)
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
        raise UsageError(f"'region' is '{region}'", expected="one of " + ", ".join(regions) + ", the network's")
    return replace(plan, study=replace(plan.study, region=region))


def known_region(plan: Plan) -> Plan:
    """The plan with its region if the source network is there already, otherwise as it is."""
    try:
        return with_region(plan, load_network(plan.network))
    except RunError:
        return plan


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
    folder = plan.folder / "pretrain"
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
    most = max(unit.shots for unit in units)
    cell = plan.config(next(unit for unit in units if unit.kind == "cell" and unit.shots == most))
    memory = any(entry.needs_memory for entry in plan.entries.values())
    configs: list[AdaptOptions] = [cell]
    configs += [plan.config(unit) for unit in units if unit.kind == "search"][:1]
    for config in configs:
        with contextlib.redirect_stdout(io.StringIO()):
            setting = prepare_setting(replace(config, jobs=0), memory)
        if not len(setting.source) and plan.study.objective == "balanced" and plan.study.trials:
            raise UsageError(
                f"no source patient of target {target} is left to watch: the network was trained on all of them",
                remedy="name others with 'source', or judge trials by 'objective: target'",
            )
    assert cell.split is not None
    store = open_cases(cell, network, cell.data, cell.classes)
    part = part_of(Split.load(cell.split), store, cell.train_part, absent_cases(cell))
    # Those with tumour in two slices or more: as many shots as can be drawn.
    usable = {case.patient for case in part if (case.areas()[:, 1:].sum(axis=1) > 0).sum() >= 2}
    return len(usable), {
        f"data of target {target}": store.fingerprint,
        f"source of target {target}": open_source(cell, network).fingerprint,
        f"split of target {target}": file_digest(cell.split),
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
