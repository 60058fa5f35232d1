"""What a comparison checks before any work, from names, splits and the network alone: no voxel is read.

A dry run ends with the error that the run would end with; both ask the same functions of ``metaseg.adapt.domains``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metaseg.adapt.domains import check_apart, source_part, source_split, source_to_draw_from, source_to_watch
from metaseg.adapt.setup import check_modalities
from metaseg.cases.case import Case
from metaseg.cases.labels import LABEL_SPACES
from metaseg.cases.splits import Absent, Split
from metaseg.config.options import ALL
from metaseg.config.segmentation import AdaptOptions, PretrainConfig
from metaseg.errors import MetasegError, UsageError, unknown_name, warn_user
from metaseg.models.segmenters import check_segmenter
from metaseg.runs.folder import is_run
from metaseg.runs.networks import SeenPatients, inherited_from_weights, load_network, weights_file
from metaseg.runs.session import content_digest
from metaseg.runs.state import STATE_NAME
from metaseg.store.prepare import list_cases
from metaseg.store.stored_case import StoredCase
from metaseg.studies.cells import NETWORK, check_inputs, state_of
from metaseg.studies.phantoms import PARTS, is_phantom_split
from metaseg.studies.plan import Plan
from metaseg.studies.search import open_database
from metaseg.studies.workers import CELLS, SEARCHES
from metaseg.training.source import absent_cases, lone_fold, pretraining_parts

Member = Case | StoredCase
"""A case as read from its files, or a prepared one."""
Cases = Callable[..., list[Member]]
"""Reads the labelled cases of folders, once however often it is asked: settings, folders, classes, modalities."""


@dataclass(frozen=True)
class _Network:
    """What is known of the source network, which may still be to be pretrained.

    Attributes:
        modalities: Its input modalities; empty where only the phantoms to be made will tell.
        seen: Whom it has seen, or will have.
        pretraining: The settings of its pretraining, if it is known.
    """

    modalities: tuple[str, ...]
    seen: SeenPatients
    pretraining: PretrainConfig | None


def check_data(plan: Plan) -> None:
    """Find out whether the data allow the plan; writes nothing.

    Raises:
        UsageError: A part of a split is missing or empty, there are fewer patients than shots, a search would see the
            test patients, or what the study's cells were made from has changed.
        DataError: The data or a split cannot be read, or a patient would stand on two sides.
        RunError: The source network is not there.
    """
    cases = _reader()
    network = _network(plan, cases)
    if plan.study.storage is not None and plan.study.trials:
        open_database(plan.folder, plan.study.storage)
    for target in plan.targets:
        config = runs_to_check(plan, target)[0]
        if is_phantom_split(config.split, plan.folder):
            patients = int(int(config.data[0].name.partition("-")[2]) * PARTS["train"])
            check_shots(plan, target, patients)
        else:
            _check_target(plan, target, network, cases)
    check_inputs(plan.folder, named_inputs(plan), has_results(plan), record=False)


def named_inputs(plan: Plan) -> dict[str, str]:
    """Digests of the network and the splits that cells start from, as far as they are there."""
    found = {NETWORK: content_digest(plan.network)} if is_pretrained(plan) else {}
    for target in plan.targets:
        config = runs_to_check(plan, target)[0]
        for what, file in (("target", config.split), ("the source of target", config.source_split)):
            if file is not None and file.exists():
                found[f"split of {what} {target}"] = content_digest(file)
    return found


def is_pretrained(plan: Plan) -> bool:
    """Whether the source network is there: one from elsewhere, or the study's own whose pretraining is finished."""
    return plan.pretrain is None or state_of(plan.network, plan.pretrain, plan.folder) == "done"


def has_results(plan: Plan) -> bool:
    """Whether anything of the study has run that starts from the source network."""
    roots = (plan.folder / CELLS, plan.folder / SEARCHES)
    return any(is_run(path.parent) for root in roots for path in root.rglob(STATE_NAME))


def runs_to_check(plan: Plan, target: str) -> list[AdaptOptions]:
    """Settings of a target's cell with the most shots, and of a trial if there are any."""
    units = [unit for unit in plan.units if unit.target == target]
    cells = (unit for unit in units if unit.kind == "cell")
    cell = max(cells, key=lambda unit: unit.shots if isinstance(unit.shots, int) else math.inf)
    searches = [unit for unit in units if unit.kind == "search"]
    return [plan.config(unit) for unit in (cell, *searches[:1])]


def _reader() -> Cases:
    known: dict[tuple[Any, ...], list[Member]] = {}

    def cases(
        config: PretrainConfig | AdaptOptions,
        folders: Sequence[Path],
        classes: Sequence[str],
        modalities: Sequence[str] = (),
    ) -> list[Member]:
        outlined = config.outlined_slices
        key = (tuple(folders), config.format, config.label_scheme, outlined, tuple(classes), tuple(modalities))
        if key not in known:
            listed = list_cases(
                folders,
                modalities=modalities,
                format=config.format,
                label_scheme=config.label_scheme,
                classes=classes,
                patients=config.patients,
                outlined_slices=outlined,
                need_labels=True,
                allow_missing=config.allow_missing,
            )
            known[key] = [case for case in listed if case.labelled]
        return known[key]

    return cases


def _network(plan: Plan, cases: Cases) -> _Network:
    if plan.pretrain is not None:
        _check_same_pretraining(plan, plan.pretrain)
    if plan.pretrain is None or is_pretrained(plan):
        network = load_network(plan.network)
        return _Network(network.card.modalities, network.seen, network.pretraining)
    _check_region(plan, plan.pretrain)
    check_segmenter(plan.pretrain.model, plan.pretrain.model_options, weights_file(plan.pretrain.weights))
    if is_phantom_split(plan.pretrain.split, plan.folder):
        return _Network(plan.pretrain.modalities, SeenPatients(frozenset(), frozenset()), None)
    return _network_to_come(plan.pretrain, cases)


def _check_same_pretraining(plan: Plan, pretrain: PretrainConfig) -> None:
    if has_results(plan) and state_of(plan.network, pretrain, plan.folder) == "changed":
        raise UsageError(
            "the settings under 'pretrain' differ from those of the study's source network, and cells start from that",
            where=plan.network / "config.yaml",
            remedy="name another study folder with --out, or put the settings back",
        )


def _check_region(plan: Plan, pretrain: PretrainConfig) -> None:
    """Whether the network that is still to be trained can know the region."""
    spaces = [LABEL_SPACES[pretrain.labels]] if pretrain.labels else LABEL_SPACES.values()
    regions = {region for space in spaces for region in space.regions}
    if plan.study.region is not None and plan.study.region not in regions:
        raise unknown_name("region", plan.study.region, sorted(regions))


def _network_to_come(config: PretrainConfig, cases: Cases) -> _Network:
    """What a pretraining inside the study will know and see, as far as names tell."""
    if config.fold is not None and config.split is None:
        raise lone_fold()
    members = cases(config, config.data, config.classes, config.modalities)
    inherited = {row["patient"] for row in inherited_from_weights(config.weights)}
    shared = tuple(name for name in members[0].modalities if all(name in case.modalities for case in members))
    modalities = config.modalities or shared
    if config.split is None:
        # Which of them train and which validate is drawn when it begins.
        everybody = frozenset(case.patient for case in members)
        return _Network(modalities, SeenPatients(everybody | inherited, everybody), config)
    split = Split.load(config.split)
    train, val = pretraining_parts(config, split)
    for part in (*train, val):
        _check_part(split, members, part, "the source", config.split, absent_cases(config))
    part_of = split.parts_of(members)
    trained = frozenset(patient for patient, part in part_of.items() if part in train)
    validated = frozenset(patient for patient, part in part_of.items() if part == val)
    known = SeenPatients(trained | inherited, validated, val if config.fold is None else None)
    return _Network(modalities, known, config)


def _check_target(plan: Plan, target: str, network: _Network, cases: Cases) -> None:
    configs, study = runs_to_check(plan, target), plan.study
    config = configs[0]
    assert config.split is not None
    check_modalities(config, network.modalities or config.modalities)
    split = Split.load(config.split)
    members = cases(config, config.data, config.classes, network.modalities)
    judged = [study.test_part, *([study.search_part] if study.trials else [])]
    for part in sorted({config.train_part, *judged}):
        _check_part(split, members, part, f"target {target}", config.split, absent_cases(config))
    in_train = (part for part in split.parts_of(members).values() if part == config.train_part)
    check_shots(plan, target, sum(1 for _ in in_train))
    source = _source(config, network, cases)
    for part in judged:
        _check_source_part(target, config, source, part, searched=study.trials > 0)
    for run in configs:
        check_apart(run, network.seen, members, source)
        _check_watched(plan, target, run, network, source)
    if plan.draws_from_source and (source or config.source):
        source_to_draw_from(config, network.seen, source)


def _source(config: AdaptOptions, network: _Network, cases: Cases) -> list[Member]:
    """The source's cases: those that are named, or those of the pretraining; none if they are phantoms to be made."""
    if config.source:
        return cases(config, config.source, config.source_classes, network.modalities)
    pretraining = network.pretraining
    if pretraining is None or not pretraining.data:
        return []
    try:
        return cases(pretraining, pretraining.data, pretraining.classes, pretraining.modalities)
    except MetasegError as error:
        error.found = f"the source cases, which the network was pretrained on, cannot be read: {error.found}"
        raise


def _check_source_part(
    target: str, config: AdaptOptions, source: Sequence[Member], part: str, *, searched: bool
) -> None:
    split = source_split(config, source)
    if split is None:
        if searched:
            raise UsageError(
                f"the search for target {target} would see the source patients that the metrics are of",
                where=config.split,
                expected="'source', and its patients in this split or in one of their own, 'source_split'",
                remedy="name the split that the network was pretrained with as 'source_split', or set 'trials: 0'",
            )
        return
    _check_part(split, source, part, f"the source of target {target}", config.source_split or config.split)
    source_part(config, source, part)


def _check_watched(plan: Plan, target: str, config: AdaptOptions, network: _Network, source: Sequence[Member]) -> None:
    """Whether there are source patients to judge by who are not those that chose the network's weights."""
    watched = source_to_watch(config, network.seen, source)
    if config.test_part == plan.study.test_part and any(case.patient in network.seen.validated for case in watched):
        warn_user(
            f"the source metrics of target {target} are of patients who chose the network's weights",
            expected="a 'test_part' that the pretraining was not validated by",
            remedy="take them for a choice among methods, not for a result",
        )
    if watched:
        return
    check_unwatched(plan, target, config)
    if any(case.patient in network.seen.validated for case in source) and source_split(config, source) is None:
        raise UsageError(
            f"the source metrics of target {target} would be of patients that chose the network's weights",
            expected=f"source patients of part '{config.test_part}' whom the pretraining has not seen",
            remedy="pretrain with a split of three parts, and name it as 'source_split'",
        )


def check_unwatched(plan: Plan, target: str, config: AdaptOptions) -> None:
    """Raise where trials are judged by source patients, of whom there are none.

    Raises:
        UsageError: They are.
    """
    if plan.study.trials and plan.study.objective == "balanced":
        raise UsageError(
            f"no source patient of target {target} is left to watch: the network has seen all of them",
            where=config.source_split or config.split,
            remedy="name others with 'source', or judge trials by 'objective: target'",
        )


def _check_part(
    split: Split, members: Sequence[Member], part: str, what: str, where: Path | None, absent: Absent = "ignore"
) -> None:
    if part not in split.parts:
        raise unknown_name("part of the split", part, sorted(split.parts), where)
    ids = set(split.parts[part])
    if not any(case.id in ids for case in members):
        raise UsageError(f"part '{part}' of the split holds no cases of {what}", where=where)
    split.select(members, part, absent=absent)


def check_shots(plan: Plan, target: str, patients: int) -> None:
    """Raise where a target's training part cannot give the shots.

    Args:
        plan: The comparison.
        target: The target.
        patients: Patients of its training part.

    Raises:
        UsageError: They are too few, or two numbers of shots would be the same.
    """
    asked = [*plan.study.shots, *([plan.search_shots] if plan.study.trials else [])]
    wanted = max((shots for shots in asked if isinstance(shots, int)), default=1)
    if wanted > patients:
        raise UsageError(
            f"{wanted} shots are asked for, but the training part of target {target} has {patients} patients",
            remedy="lower 'shots' or 'search_shots', or use a split with more patients in it",
        )
    if ALL in plan.study.shots and patients in plan.study.shots:
        raise UsageError(
            f"'shots' names {patients} and all, which are the same {patients} patients of target {target}",
            expected="each number of shots once",
            remedy="leave one of the two out",
        )
