"""What every adaptation method starts from: a network, the target's shots, and the cases watched or drawn from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from torch import nn

from metaseg.adapt.domains import (
    OTHERS,
    check_apart,
    source_split,
    source_to_choose_by,
    source_to_draw_from,
    source_to_watch,
)
from metaseg.cases.labels import LABEL_SPACES, WHOLE_LESION, LabelSpace
from metaseg.config.options import ALL
from metaseg.config.segmentation import AdaptOptions, PretrainConfig
from metaseg.errors import DataError, UsageError, some, warn_user
from metaseg.results import Result, metrics_table
from metaseg.runs.folder import RUNS, RunFolder
from metaseg.runs.networks import LoadedNetwork, load_network, newest_run
from metaseg.runs.session import Inputs
from metaseg.sampling import tumour_slices
from metaseg.store.prepare import open_cases, phantom_folder
from metaseg.store.store import SliceStore
from metaseg.store.stored_case import StoredCase
from metaseg.training.pretrain import open_pretraining_data, run_pretrain
from metaseg.training.source import absent_cases

GATE_CASES = 50
"""Most source cases that a gate is fitted on."""


@dataclass(frozen=True)
class Shot:
    """A target patient's case whose labels are used.

    Attributes:
        case: The case.
        slices: The stored slices that are used, ascending.
    """

    case: StoredCase
    slices: np.ndarray


@dataclass(frozen=True)
class AdaptationSetup:
    """One adaptation, the same for every method with the same seed.

    Attributes:
        network: The network to adapt.
        space: Its label space.
        shots: The labelled target cases.
        target: Target cases that are watched; none of a shot's patient.
        source: Source cases that are watched; none that the network was trained on.
        choosers: Source cases by which ``effort`` chooses settings; empty where nothing is chosen or none is there.
        way_back: Gives the network to keep of a tuned one, where ``effort`` chooses the fraction of the way; None where
            the settings say it.
        source_cases: Source cases that a method may draw from, empty where it asked for none; no watched patient's.
        inputs: All that was read to make it.
        gate_cases: Source training cases at hand, from which the gate learns what the source looks like.
    """

    network: LoadedNetwork
    space: LabelSpace
    shots: tuple[Shot, ...]
    target: SliceStore
    source: SliceStore
    choosers: SliceStore = field(default_factory=lambda: SliceStore(()))
    way_back: Callable[[nn.Module], nn.Module] | None = None
    source_cases: SliceStore = field(default_factory=lambda: SliceStore(()))
    inputs: Inputs = field(default_factory=Inputs)
    gate_cases: SliceStore = field(default_factory=lambda: SliceStore(()))

    @property
    def modalities(self) -> tuple[str, ...]:
        """The network's input modalities."""
        return self.network.card.modalities

    @property
    def synthetic(self) -> bool:
        """Whether phantoms are among the data."""
        return (
            self.network.card.synthetic or self.target.synthetic or any(shot.case.info.synthetic for shot in self.shots)
        )

    @property
    def cases(self) -> SliceStore:
        """All cases that are read, those of several parts several times."""
        shots = (shot.case for shot in self.shots)
        return SliceStore(
            (*shots, *self.target.cases, *self.source.cases, *self.choosers.cases, *self.source_cases.cases)
        )

    @property
    def fingerprint(self) -> str:
        """Digest of all data that is read."""
        return self.cases.fingerprint


def prepare_setup(config: AdaptOptions, draws_from_source: bool = False) -> AdaptationSetup:
    """Load the network, draw the shots and choose what is watched; a run that goes on keeps those that it recorded.

    Args:
        config: The verb's settings.
        draws_from_source: The method draws from the source's training cases.

    Raises:
        DataError: The data cannot be used, or have other labels or modalities than the network.
        UsageError: There are fewer patients than shots, or no source cases to draw from.
        RunError: There is no such run, or the run to resume began with other data or another network.
    """
    inputs = Inputs.of(config)
    config = replace(config, from_run=config.from_run or inputs.parent or run_to_tune(config))
    inputs.take_files(config)
    network = load_network(str(config.from_run))
    network.warn_if_patients_unknown()
    space = LABEL_SPACES[network.card.label_space]
    store = inputs.take("data", _open_target(config, network)).labelled()
    _check_labels(store, space)
    everything = inputs.take("source", open_source(config, network))
    parts = _recorded_parts(config, inputs, store, everything) or _drawn_parts(config, network, store, everything)
    check_folds(config, len(parts[0]))
    kept = source_to_draw_from(config, network.seen, everything.cases) if draws_from_source else ()
    known = kept or [case for case in everything if case.patient in network.trained_patients]
    setup = AdaptationSetup(
        network,
        space,
        *parts,
        choosers=_choosers(config, inputs, network, everything, kept),
        source_cases=SliceStore(tuple(kept)),
        inputs=inputs,
        gate_cases=_some(SliceStore(tuple(known)), GATE_CASES, [config.seed, 13]),
    )
    inputs.check_fingerprint(setup.fingerprint)
    return setup


_WatchedParts = tuple[tuple[Shot, ...], SliceStore, SliceStore]
"""Shots, watched target cases and watched source cases."""


def _recorded_parts(
    config: AdaptOptions, inputs: Inputs, store: SliceStore, everything: SliceStore
) -> _WatchedParts | None:
    train, target = inputs.part("train", store), inputs.part("target", store)
    source = inputs.part("source", everything)
    if train is None or target is None or source is None:
        return None
    return tuple(draw_slices(case, config.slices) for case in train), target, source


def _drawn_parts(
    config: AdaptOptions, network: LoadedNetwork, store: SliceStore, everything: SliceStore
) -> _WatchedParts:
    check_apart(config, network.seen, store.cases, everything.cases)
    pool, rest = (
        store.part(config.split, part, absent=absent_cases(config)) for part in (config.train_part, config.test_part)
    )
    try:
        shots = draw_shots(pool, config.shots, config.slices, config.seed)
    except UsageError as error:
        _explain_shots(error, config, pool, store)
        raise
    used = {shot.case.patient for shot in shots}
    target = unseen_target(network, SliceStore(tuple(case for case in rest if case.patient not in used)))
    if {case.patient for case in rest} <= used:
        how = "each is judged by the network of its fold" if config.folds else "and --folds would judge each of them"
        print(f"All target patients are tuned on: none is left to watch, {how}.")
    source = _watched_source(config, network, everything)
    source = SliceStore(tuple(case for case in source if case.patient not in used))
    count, seed = config.watch_cases, [config.seed, 12]
    return shots, _some(target, count, seed), _some(source, count, seed)


def _choosers(
    config: AdaptOptions,
    inputs: Inputs,
    network: LoadedNetwork,
    everything: SliceStore,
    drawn_from: Sequence[StoredCase],
) -> SliceStore:
    """The source cases by which settings are chosen; see :func:`~metaseg.adapt.domains.source_to_choose_by`."""
    if config.effort in (None, "none"):
        return SliceStore(())
    if (recorded := inputs.part("val", everything)) is not None:
        return recorded
    found = source_to_choose_by(config, network.seen, everything.cases)
    if not found and drawn_from:
        # By patient, every fifth: what is forgotten shows on them too, once they are not rehearsed.
        patients = sorted({case.patient for case in drawn_from})[::5]
        found = [case for case in drawn_from if case.patient in patients]
        print(
            f"No source patient validates: the choice judges by {len(patients)} whom the network was trained on, "
            "without rehearsing them."
        )
    return _some(SliceStore(tuple(found)), config.watch_cases, [config.seed, 14])


def _explain_shots(error: UsageError, config: AdaptOptions, pool: SliceStore, store: SliceStore) -> None:
    """Say of too few patients for the shots where they were looked for, and what can be done there."""
    several = "" if config.shots == ALL else "--shots all takes those there are; "
    if config.split is None:
        error.where = ", ".join(map(str, config.data)) or "the phantoms"
        error.remedy = f"{several}or add labelled patients" if several else "add labelled patients"
        return
    train, test = config.train_part, config.test_part
    error.where = f"{config.split}, part '{train}' with {_patients(pool)} of {_patients(store)} patients"
    error.remedy = (
        f"{several}without --split all {_patients(store)} patients can be tuned on, and --folds judges each by a "
        "network that has not seen it; or name another part with --train-part, or divide the patients anew, such as: "
        f"metaseg data split DATA --parts {train}=...,{test}=..."
    )


def check_folds(config: AdaptOptions, shots: int) -> None:
    """Raise where the shots cannot be divided into the folds that are asked for.

    Raises:
        UsageError: They are fewer than the folds, or there is one shot only.
    """
    wanted = config.folds if isinstance(config.folds, int) else 2
    if config.folds is not None and shots < wanted:
        raise UsageError(
            f"--folds {config.folds}, but the network is tuned on {shots} {'patient' if shots == 1 else 'patients'}",
            expected="a patient for each fold, and two patients at least",
            remedy="raise --shots, or lower --folds",
        )


def run_to_tune(config: AdaptOptions) -> str:
    """The run to tune: the one named, the newest finished pretraining under runs/, or one made on phantoms now."""
    if config.from_run is not None:
        return config.from_run
    newest = newest_run(RUNS, "pretrain")
    if config.data:
        raise UsageError(
            "--data is given without --from: which network to adapt is not told",
            expected="--from with a pretrained run or a checkpoint",
            remedy=f"the newest pretraining is {newest}: name it with --from, if it is the one"
            if newest is not None
            else "pretrain one first: metaseg pretrain --data SOURCE --out runs/source",
        )
    if newest is not None:
        print(f"No --from given: tuning the newest pretraining, {newest}")
        return str(newest)
    print("No --from given and no pretraining under runs/: pretraining on SYNTHETIC phantoms first.")
    return str(run_pretrain(PretrainConfig(seed=config.seed, device=config.device, cache=config.cache)).run)


def _patients(store: SliceStore) -> int:
    return len({case.patient for case in store})


def draw_shots(store: SliceStore, shots: int | Literal["all"], slices: int, seed: int) -> tuple[Shot, ...]:
    """Draw patients and choose their tumour-bearing slices.

    Args:
        store: Labelled target cases.
        shots: Patients wanted, or ``all`` that have tumour in two slices or more. A patient with several cases counts
            once, with the first that bears tumour.
        slices: Slices of each; fewer where a case has fewer with tumour.
        seed: Decides the draw, alike for all methods.

    Raises:
        UsageError: There are fewer patients with tumour than shots, or none.
    """
    first: dict[str, StoredCase] = {}
    for case in sorted(store, key=lambda case: case.id):
        if (case.areas()[:, 1:].sum(axis=1) > 0).sum() >= 2:
            first.setdefault(case.patient, case)
    patients = sorted(first)
    wanted = shots if isinstance(shots, int) else max(1, len(patients))
    if len(patients) < wanted:
        known = f"only {len(patients)}" if patients else "no"
        raise UsageError(
            f"--shots is {shots}, but the target has {known} {'patient' if len(patients) == 1 else 'patients'} with "
            "tumour in two slices or more",
            expected=f"{wanted} at least",
        )
    rng = np.random.default_rng([seed, 11])
    chosen = [first[patients[number]] for number in rng.permutation(len(patients))[:wanted]]
    return tuple(draw_slices(case, slices) for case in chosen)


def draw_slices(case: StoredCase, slices: int) -> Shot:
    """A case with its tumour-bearing slices: all, or so many evenly over the tumour."""
    return Shot(case, tumour_slices(case.areas()[:, 1:], slices))


def _open_target(config: AdaptOptions, network: LoadedNetwork) -> SliceStore:
    folders = config.data
    if not folders:
        print("No --data given: adapting to SYNTHETIC metastasis phantoms, not to patients.")
        folders = (phantom_folder("met", config.phantom_cases, config.seed, config.cache),)
    return open_domain(config, network, folders, config.classes)


def _check_labels(store: SliceStore, space: LabelSpace) -> None:
    if space == WHOLE_LESION:
        return
    coarse = [case.id for case in store if case.space == WHOLE_LESION]
    if coarse:
        raise DataError(
            f"case {coarse[0]} has the whole lesion outlined, but the network learns {', '.join(space.classes[1:])}",
            expected="labels of the tumour's subregions",
            remedy="pretrain a network with --labels whole-lesion and tune that one",
        )


def _some(store: SliceStore, count: int, seed: list[int]) -> SliceStore:
    """So many cases of a store, drawn; all where ``count`` is 0."""
    cases = sorted(store, key=lambda case: case.id)
    if count and len(cases) > count:
        chosen = np.sort(np.random.default_rng(seed).permutation(len(cases))[:count])
        cases = [cases[number] for number in chosen]
    return SliceStore(tuple(cases))


def open_domain(
    config: AdaptOptions, network: LoadedNetwork, folders: tuple[Path, ...], classes: tuple[str, ...]
) -> SliceStore:
    """Open folders as the network needs them.

    Raises:
        UsageError: Other modalities are asked for than the network takes.
        DataError: The cases cannot be used.
    """
    check_modalities(config, network.card.modalities)
    return open_cases(
        config,
        folders,
        labels=network.card.label_space,
        modalities=network.card.modalities,
        classes=classes,
        need_labels=True,
        image_size=config.image_size or network.card.normalisation.get("image_size"),
    )


def check_modalities(config: AdaptOptions, taken: tuple[str, ...]) -> None:
    """Raise where other modalities are asked for than the network takes.

    Raises:
        UsageError: They are.
    """
    if config.modalities and config.modalities != taken:
        raise UsageError(
            f"--modalities {','.join(config.modalities)} differ from the network's",
            expected=",".join(taken),
            remedy="omit --modalities",
        )


def open_source(config: AdaptOptions, network: LoadedNetwork) -> SliceStore:
    """All labelled source cases: those of ``--source``, or else those that the network was pretrained with."""
    if config.source:
        return open_domain(config, network, config.source, config.source_classes).labelled()
    pretraining = network.pretraining
    return SliceStore(()) if pretraining is None else open_pretraining_data(pretraining).labelled()


def unseen_target(network: LoadedNetwork, rest: SliceStore) -> SliceStore:
    """The target cases to watch, of no patient that the network was trained on; warns of the others."""
    trained = {case.patient for case in rest} & network.trained_patients
    if trained:
        warn_user(
            f"the network was trained on {len(trained)} of the target's patients, who are not watched: "
            f"{some(sorted(trained))}",
            remedy=f"nothing, if they are the same people; {OTHERS}",
        )
    return SliceStore(tuple(case for case in rest if case.patient not in trained))


def _watched_source(config: AdaptOptions, network: LoadedNetwork, source: SliceStore) -> SliceStore:
    """The source cases to watch; those that chose the network's weights where no others are known."""
    seen = network.seen
    kept = source_to_watch(config, seen, source.cases)
    if not kept and source_split(config, source.cases) is None:
        kept = [case for case in source if case.patient in seen.validated - seen.trained]
        if kept:
            print("Only source patients that chose the network's weights are there to watch: their Dice flatters it.")
    if not kept:
        print(
            "All --source patients were trained on: the source domain is not watched."
            if config.source
            else "No --source given and the network has no validation patients: the source domain is not watched."
        )
    return SliceStore(tuple(kept))


@dataclass(frozen=True)
class CrossValidation:
    """Metrics of the networks of the folds; None where nothing could be measured.

    Attributes:
        folds: How many there were.
        before: ``dice/target/ET`` and the like before tuning, as in :class:`AdaptationResult`. On the target each
            patient counts once.
        after: The same after it: on the target by the network that was tuned without the patient, on the source by
            every fold's.
        forgetting: ``forgetting/ET`` and the like, mean over the folds.
    """

    folds: int
    before: dict[str, float | None]
    after: dict[str, float | None]
    forgetting: dict[str, float | None]


@dataclass(frozen=True)
class AdaptationResult(Result):
    """Metrics of an adaptation on the watched cases; None where nothing could be measured.

    Attributes:
        run: The run folder.
        spent: Work done, in slice gradient evaluations.
        before: ``dice/target/ET`` and the like, before tuning.
        after: The same at the end.
        forgetting: ``forgetting/ET`` and the like: source Dice before minus after.
        synthetic: Whether phantoms were among the data.
        cross_validated: Metrics of the networks of ``--folds``; None without.
        choice: What ``--effort`` chose, its metrics, why, and the work that it took; None without.
    """

    spent: int
    before: dict[str, float | None]
    after: dict[str, float | None]
    forgetting: dict[str, float | None]
    synthetic: bool
    run: Path = Path()
    cross_validated: CrossValidation | None = None
    choice: dict[str, Any] | None = None

    def table(self) -> pd.DataFrame:
        """Metrics before and after, of the run's network and of those of the folds."""
        folds = self.cross_validated
        validated = {} if folds is None else {"cross_validated_before": folds.before, "cross_validated": folds.after}
        return metrics_table(before=self.before, after=self.after, **validated)


def adaptation_result(run: RunFolder) -> AdaptationResult:
    """Read a finished adaptation's result and print it."""
    result: AdaptationResult = replace(run.read_json("result.json", AdaptationResult), run=run.path)
    print(f"run: {result.run}" + ("   (SYNTHETIC phantoms, not patients)" if result.synthetic else ""))
    for name, before in result.before.items():
        print(f"  {name:<18} {change(before, result.after.get(name))}")
    for name, value in result.forgetting.items():
        print(f"  {name:<18} {_shown(value)}")
    if result.choice is not None and "way_back" in result.choice:
        kept = result.choice["way_back"]
        print(f"  kept: {kept['interpolation']:g} of the way from the pretrained weights ({kept['why']})")
    return result


def change(before: float | None, after: float | None) -> str:
    """A metric before and after, as it is printed."""
    return f"{_shown(before)} -> {_shown(after)}"


def _shown(value: float | None) -> str:
    return "   - " if value is None or math.isnan(value) else f"{value:5.3f}"
