"""What a comparison makes before its first cell."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from metaseg.adapt.setup import open_domain, open_source, prepare_setup
from metaseg.cases.labels import LABEL_SPACES
from metaseg.config.io import dump_config
from metaseg.errors import RunError, UsageError, unknown_name
from metaseg.runs.folder import RunFolder
from metaseg.runs.networks import LoadedNetwork, load_network
from metaseg.studies.cells import BusyError, check_inputs, run_unit, state_of
from metaseg.studies.data_checks import (
    check_shots,
    check_unwatched,
    has_results,
    is_pretrained,
    named_inputs,
    runs_to_check,
)
from metaseg.studies.phantoms import is_phantom_split, make_phantom_domain
from metaseg.studies.plan import Plan, with_patients
from metaseg.studies.search import open_database
from metaseg.studies.workers import PRETRAIN, Unit
from metaseg.training.source import absent_cases

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
    inputs = named_inputs(plan)
    check_inputs(plan.folder, inputs, has_results(plan))
    plan = with_region(plan, network)
    if any(unit.kind == "search" for unit in plan.units):
        open_database(plan.folder, plan.study.storage)
    patients = {}
    for target in plan.targets:
        patients[target], digests = _prepare_target(plan, target, network)
        check_shots(plan, target, patients[target])
        inputs |= digests
    check_inputs(plan.folder, inputs, has_results(plan))
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
    return with_region(plan, load_network(plan.network)) if is_pretrained(plan) else plan


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


def _prepare_target(plan: Plan, target: str, network: LoadedNetwork) -> tuple[int, dict[str, str]]:
    """Prepare a target's cases before workers ask for them at once; gives its usable patients, and digests."""
    configs = runs_to_check(plan, target)
    for config in configs:
        with contextlib.redirect_stdout(io.StringIO()):
            setup = prepare_setup(replace(config, jobs=0), plan.draws_from_source)
        if not len(setup.source):
            check_unwatched(plan, target, config)
    cell = configs[0]
    assert cell.split is not None
    store = open_domain(cell, network, cell.data, cell.classes)
    part = store.part(cell.split, cell.train_part, absent=absent_cases(cell))
    # Those with tumour in two slices or more: as many shots as can be drawn.
    usable = {case.patient for case in part if (case.areas()[:, 1:].sum(axis=1) > 0).sum() >= 2}
    return len(usable), {
        f"data of target {target}": store.fingerprint,
        f"source of target {target}": open_source(cell, network).fingerprint,
    }


def dry_patients(plan: Plan) -> Mapping[str, int]:
    """Numbers of patients as recorded by oracle runs that are there, for a dry run."""
    found = {}
    for target in plan.targets:
        folder = plan.folder / Unit("oracle", target).folder
        with contextlib.suppress(RunError, UsageError):
            config = plan.config(Unit("oracle", target))
            found[target] = int(RunFolder.open(folder).config(type(config)).shots)
    return found
