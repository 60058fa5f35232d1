"""``metaseg evaluate``: whole-patient metrics of a network on one or more cohorts, and what tuning made it forget."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from lightning_fabric import Fabric

from metaseg.cases.case import FailedCase, raise_failed
from metaseg.cases.labels import LABEL_SPACES, LabelSpace
from metaseg.config.segmentation import EvaluateConfig
from metaseg.errors import RunError, UsageError, recorded_warnings
from metaseg.inference.case_pictures import KeptPrediction
from metaseg.inference.evaluation_cases import EvaluationCases, choose_cases, compared_space
from metaseg.inference.evaluation_files import (
    SAME_QUESTION,
    FinishedCases,
    complete_evaluation,
    evaluation_folder,
    evaluation_record,
    refuse_other,
    write_evaluation,
)
from metaseg.inference.gate import Gate, GatedPredictor
from metaseg.inference.predictor import Predictor
from metaseg.metrics.case_metrics import PRESETS, case_metrics
from metaseg.metrics.cohort_metrics import summarise_cohorts
from metaseg.metrics.forgetting import change_metrics, domain_metrics
from metaseg.models.device import fabric_of, make_fabric
from metaseg.models.processes import each_case, first_of_machine, gather, is_first
from metaseg.results import Result
from metaseg.runs.manifest import NOTICE, SYNTHETIC
from metaseg.runs.networks import LoadedNetwork, adapted_run, keeps_source, load_network, load_source
from metaseg.runs.together import together
from metaseg.store.store import SliceStore
from metaseg.store.stored_case import StoredCase, to_space
from metaseg.terminal import Progress, Table

BOOTSTRAP = 1000
"""Resamples of patients for every interval."""
_SHOWN = ("dice_mean", "dice_sd", "dice_low", "dice_high", "hd95_mean")
GROUPS = ("network", "cohort", "trained_on", "target")


@dataclass(frozen=True)
class EvaluationResult(Result):
    """Metrics of an evaluation.

    Attributes:
        out: The folder with ``metrics.csv``, ``metrics.json`` and ``pictures/``.
        cases: One row per case, network (``after``; ``before`` is its parent) and target, as in ``metrics.csv``.
        cohorts: One row per network, cohort and target, see
            :func:`~metaseg.metrics.cohort_metrics.summarise_cohorts`.
        changes: Dice before and after, forgetting and gain, see
            :func:`~metaseg.metrics.forgetting.change_metrics`; empty without a parent.
        pictures: Overlays, worst case first.
        synthetic: Whether the data or the network's training data are phantoms.
    """

    out: Path
    cases: pd.DataFrame
    cohorts: pd.DataFrame
    changes: pd.DataFrame
    pictures: tuple[Path, ...]
    synthetic: bool

    def table(self) -> pd.DataFrame:
        """Dice of every cohort and target, and HD95 where it was computed."""
        shown = [name for name in ("network", "cohort", "target", "n_cases", *_SHOWN) if name in self.cohorts]
        return self.cohorts[shown]


@recorded_warnings()
def run_evaluate(config: EvaluateConfig) -> EvaluationResult:
    """Evaluate a network on whole patients.

    Args:
        config: All settings; see :class:`~metaseg.config.segmentation.EvaluateConfig`.

    Raises:
        RunError: There is no such run or checkpoint.
        DataError: The data cannot be used, or no case is left.
        UsageError: Settings contradict each other, or the folder holds another evaluation.
    """
    network, fabric = load_network(config.run, config.checkpoint), fabric_of(config)
    if config.as_disease == "auto":
        Gate.load(adapted_run(network))  # one that is not there is told before any data are read
    with together(fabric, config):
        return evaluate_network(network, find_parent(config, network), config, fabric)


def find_parent(config: EvaluateConfig, network: LoadedNetwork) -> LoadedNetwork | None:
    """The network before tuning: the one named, else the one that the run keeps or the card names; None without any.

    Raises:
        RunError: The one that ``--parent`` or ``--as`` asks for is not there. Of any other, that is only told.
        UsageError: It takes other modalities or knows other classes; or ``--as`` is given with ``--parent``, or with a
            network that was not adapted.
    """
    name = config.parent or network.parent
    if config.as_disease is not None:
        if config.parent is not None:
            raise UsageError("--as and --parent are both given", remedy="omit --parent: the run knows its own")
        adapted_run(network)
    if name is None:
        return None
    kept = config.parent is None and (config.as_disease is not None or keeps_source(network))
    try:
        parent = load_source(network) if kept else load_network(name)
    except RunError as error:
        if config.parent or config.as_disease in ("source", "auto"):
            raise
        print(f"Forgetting is not computed, since the parent {name} cannot be read: {error.found} (--parent names it)")
        return None
    for what in ("modalities", "label_space"):
        mine, theirs = getattr(network.card, what), getattr(parent.card, what)
        if mine != theirs:
            raise UsageError(
                f"the parent's {what.replace('_', ' ')} differ: {theirs}",
                where=parent.checkpoint,
                expected=str(mine),
                remedy="name the network that this one was tuned from with --parent",
            )
    return parent


def evaluate_network(
    network: LoadedNetwork, parent: LoadedNetwork | None, config: EvaluateConfig, fabric: Fabric | None = None
) -> EvaluationResult:
    """As :func:`run_evaluate`, with networks in memory; ``config.run`` and ``config.parent`` are not read.

    One process does this, whatever ``config.devices`` says, unless it is given the fabric of several.
    """
    fabric = fabric or make_fabric(config.device, config.precision)
    folder = evaluation_folder(config, network)
    with first_of_machine(fabric):
        cases = choose_cases(config, [network, *([parent] if parent else [])])
    if config.as_disease == "source" and parent is not None:
        print("Told source: the network from before the adaptation, which has forgotten nothing.")
        network, parent = parent, None
    networks = {"after": network} if parent is None else {"before": parent, "after": network}
    synthetic = cases.store.synthetic or any(other.card.synthetic for other in networks.values())
    _tell(cases, synthetic)
    record = evaluation_record(config, networks, cases, synthetic, str(fabric.device), BOOTSTRAP)
    if not config.overwrite:
        refuse_other(folder, record)
    finished = FinishedCases.begin(folder, {name: record[name] for name in SAME_QUESTION}, config, fabric)
    if config.resume and not finished.rows and (whole := complete_evaluation(folder, config.pictures)) is not None:
        print(f"{folder} holds this evaluation already; nothing to do")
        rows, cohorts, changes = (pd.DataFrame(table) for table in (whole.cases, whole.cohorts, whole.changes))
        shown = tuple(folder / name for name in whole.pictures)
        return EvaluationResult(folder, rows, cohorts, changes, shown, synthetic)
    of_cases, failed, worst = _evaluate_cases(config, networks, cases, fabric, finished)
    failed = [*cases.failed, *failed]
    total = len(cases.store) + len(cases.failed)
    if not of_cases:
        raise_failed(failed, total, "evaluated")
    record |= {"failed": [failure.to_json() for failure in failed]}
    rows = pd.DataFrame(of_cases)
    generator = np.random.default_rng([config.seed, 41])
    groups = (*GROUPS, "cross_validated") if cases.folds else GROUPS
    cohorts = summarise_cohorts(rows, groups, bootstrap=BOOTSTRAP, generator=generator)
    changes, domains = pd.DataFrame(), {}
    if parent is not None:
        changes = change_metrics(rows, parent.card.trained_on, BOOTSTRAP, generator)
        domains = domain_metrics(rows, parent.card.trained_on)
    if not cases.known:
        # Nobody can tell, so that no metric claims to be of patients that were not trained on.
        for frame in (rows, cohorts, *([changes] if len(changes) else [])):
            frame["trained_on"] = frame["trained_on"].astype(object).where(frame["trained_on"], None)
    pictures: tuple[Path, ...] = ()
    if is_first(fabric):
        pictures = write_evaluation(folder, record, (rows, cohorts, changes), domains, cases.store, worst, network)
        finished.remove()
    _tell_decisions(rows)
    _print(cohorts, changes, parent, folder, synthetic, f"{total - len(failed)} of {total} " if failed else "")
    raise_failed(failed, total, "evaluated")
    return EvaluationResult(folder, rows, cohorts, changes, pictures, synthetic)


def _tell(cases: EvaluationCases, synthetic: bool) -> None:
    if synthetic:
        print(f"These metrics come from {SYNTHETIC}.")
    counts = Counter(case.cohort for case in cases.store)
    print("Evaluating " + ", ".join(f"{count} cases of {cohort}" for cohort, count in counts.items()))
    if cases.left_out:
        print(f"{cases.left_out} cases left out: the network was trained on these patients (--include-training)")
    if cases.folds:
        print(
            f"{len(cases.in_folds)} cases are of patients that the network was tuned on: each is judged by the network "
            "of its fold, which was not (cross-validated)"
        )
    trained = sum(map(cases.is_trained_on, cases.store))
    if trained:
        print(f"{trained} cases are of patients that the network was TRAINED ON: their metrics say nothing of others")
    if cases.unlabelled:
        print(f"{cases.unlabelled} cases without label left out")
    if partial := sum(case.partial and not case.info.geometry.planar for case in cases.store):
        print(
            f"{partial} cases are outlined on some slices only: Dice is of these, and HD95, lesion-wise metrics and "
            "volumes are not defined"
        )


def _tell_decisions(rows: pd.DataFrame) -> None:
    """Say how many cases of each cohort a gate gave to the adapted network, where one decided."""
    if "decided" not in rows:
        return
    decided = rows.dropna(subset=["decided"]).drop_duplicates("case")
    counts = decided.assign(taken=decided["decided"] == "target").groupby("cohort")["taken"].agg(["sum", "size"])
    told = (f"{row['sum']} of {row['size']} cases of {cohort}" for cohort, row in counts.iterrows())
    print(f"The gate took for the target: {', '.join(told)}")


def _evaluate_cases(
    config: EvaluateConfig,
    networks: Mapping[str, LoadedNetwork],
    cases: EvaluationCases,
    fabric: Fabric,
    finished: FinishedCases,
) -> tuple[list[dict[str, Any]], list[FailedCase], list[KeptPrediction]]:
    """Predict every case with every network, one case in memory at a time, the cases distributed over the processes.

    Of the cases that were finished before, only the worst are predicted again, to be drawn.

    Returns:
        Rows of all cases in order, the cases that failed, and the worst predictions of the network ``after``.
    """
    space = compared_space(config, networks["after"])
    known = LABEL_SPACES[networks["after"].card.label_space]
    predictors: dict[str, Predictor] = {}
    for role, network in networks.items():
        predictors[role] = _predictor(network, predictors.get("before"), config, fabric)
    judges = dict.fromkeys(() if config.as_disease == "source" else cases.folds.values())
    folds = {run: _predictor(load_network(run), predictors.get("before"), config, fabric) for run in judges}
    drawn = _worst_finished(finished, cases.store, space, config.pictures)
    places = {case.id: place for place, case in enumerate(cases.store)}
    worst: list[KeptPrediction] = []
    so_far: list[dict[str, Any]] = []

    def work(case: StoredCase, label: np.ndarray, bar: Progress) -> tuple[str, list[dict[str, Any]]]:
        rows: list[dict[str, Any]] = []
        for role, predictor in predictors.items():
            if case.id in drawn and role != "after":
                continue
            if role == "after" and cases.folds.get(case.patient) in folds:
                predictor = folds[cases.folds[case.patient]]
            segmented = predictor.segment(case)
            predicted = segmented.classes
            metrics = score_case(case, label, to_space(predicted, known, space, case.id), space, config.surface)
            head = {
                "network": role,
                "cohort": case.cohort,
                "case": case.id,
                "patient": case.patient,
                "trained_on": cases.is_trained_on(case),
                **({"cross_validated": case.patient in cases.folds} if cases.folds else {}),
                "synthetic": case.info.synthetic or networks[role].card.synthetic,
            }
            if segmented.decision is not None:
                head |= {"decided": segmented.decision.domain}
            rows += [head | metric for metric in metrics]
            if role == "after":
                kept = KeptPrediction.of(mean_region_dice(metrics, space), places[case.id], predicted)
                worst[:] = sorted([*worst, kept])[: config.pictures]
        so_far.extend(rows)
        bar.advance(0, **_means_so_far(so_far, space))
        if case.id not in finished.rows:
            finished.add(case.id, rows)
        return case.id, rows

    todo = {case.id: case for case in cases.store if case.id not in finished.rows or case.id in drawn}
    done, failed = each_case(fabric, todo, lambda case: case.native_label(), work, "evaluated")
    by_case = dict(done) | finished.rows
    everyones_worst = sorted(kept for part in gather(fabric, [worst]) for kept in part)[: config.pictures]
    return [row for case in cases.store for row in by_case.get(case.id, ())], failed, everyones_worst


def _predictor(network: LoadedNetwork, before: Predictor | None, config: EvaluateConfig, fabric: Fabric) -> Predictor:
    """A network ready to predict; with ``--as auto``, an adapted one beside the one before, and the gate of its run."""
    predictor = Predictor.from_network(network, fabric, tta=config.tta)
    if before is None or config.as_disease != "auto":
        return predictor
    return GatedPredictor.of(predictor, before, Gate.load(adapted_run(network)))


def _worst_finished(finished: FinishedCases, store: SliceStore, space: LabelSpace, count: int) -> set[str]:
    """The cases finished before that may be among the worst of all."""
    scores = {
        case.id: mean_region_dice([row for row in finished.rows[case.id] if row["network"] == "after"], space)
        for case in store
        if case.id in finished.rows
    }
    # Sorting keeps the order of equals: the first stays, as of those predicted now.
    return set(sorted(scores, key=lambda case: scores[case])[:count])


def score_case(
    case: StoredCase, label: np.ndarray, predicted: np.ndarray, space: LabelSpace, surface: bool
) -> list[dict[str, Any]]:
    """Metrics of one prediction, in the grid of the case's files.

    Args:
        case: The case.
        label: Class values ``(slices, height, width)`` in the case's label space.
        predicted: Class values of the same shape in ``space``.
        space: The prediction's label space. Where one of both knows the whole lesion only, WT alone is compared.
        surface: Compute HD95 and lesion-wise metrics.
    """
    presets, geometry = PRESETS if surface else (), case.info.geometry
    return case_metrics(
        label,
        predicted,
        case.space,
        space,
        geometry.spacing,
        geometry.unit,
        presets,
        surface,
        planar=geometry.planar,
        outlined=case.native_outlined,
    )


def mean_region_dice(metrics: list[dict[str, Any]], space: LabelSpace) -> float:
    """Mean Dice over the regions of a case; a case with nothing to find and nothing found counts as 1."""
    values = [row["dice"] for row in metrics if row["target"] in space.regions and not math.isnan(row["dice"])]
    return sum(values) / len(values) if values else 1.0


def _means_so_far(rows: Sequence[Mapping[str, Any]], space: LabelSpace) -> dict[str, float]:
    """Mean Dice of each region before and after tuning, for the progress bar."""
    frame = pd.DataFrame(rows)
    means = frame[frame["target"].isin(list(space.regions))].groupby(["network", "target"], sort=False)["dice"].mean()
    return {
        f"{role if role == 'before' else 'Dice'} {region}": float(mean)
        for (role, region), mean in means.dropna().items()
    }


def _print(
    cohorts: pd.DataFrame, changes: pd.DataFrame, parent: LoadedNetwork | None, out: Path, synthetic: bool, counted: str
) -> None:
    mark = f"   ({SYNTHETIC})" if synthetic else ""
    print_metrics(cohorts[cohorts["network"] == "after"], f"Whole-patient metrics, mean ± sd over {counted}cases{mark}")
    if parent is not None:
        print_changes(changes)
        if "source" not in set(changes["domain"]):
            known = ", ".join(parent.card.trained_on) or "not recorded"
            print(f"No forgetting: none of the cohorts is one that the parent was trained on ({known}).")
    print(f"metrics: {out}{mark}. {NOTICE}")


_LESIONS = {"Dice": "lesionwise_dice", "HD95": "lesionwise_hd95", "F1": "lesionwise_f1", "MIST F1": "mist_f1"}
_COUNTS = {"valid": "n_valid", "missed": "n_missed", "false": "n_false", "empty": "n_empty_both"}


def print_metrics(summary: pd.DataFrame, title: str) -> None:
    """Print a table of Dice and HD95, and one of lesion-wise metrics and counts, each a row per cohort and target.

    Args:
        summary: From :func:`metaseg.metrics.cohort_metrics.summarise_cohorts`, with 95 % intervals.
        title: Heading.
    """
    surface = "hd95_mean" in summary and summary["hd95_mean"].notna().any()
    lesions = _LESIONS if "lesionwise_dice_mean" in summary else {}
    volumes, counted = [], []
    for row in summary.to_dict(orient="records"):
        distance = _spread(row, "hd95", 1, {"pixel": "px"}.get(row["unit"], row["unit"]))
        volumes.append(
            _head(row)
            | {"Dice": _spread(row, "dice", 3), "95 % CI": _interval(row, "dice")}
            | ({"HD95": distance} if surface else {})
        )
        counted.append(
            {name: text for name, text in _head(row).items() if name != "cases"}
            | {name: _number(row.get(f"{metric}_mean"), 1 if name == "HD95" else 3) for name, metric in lesions.items()}
            | {name: str(row[column]) for name, column in _COUNTS.items()}
        )
    _print_table(title, volumes)
    heading = "Lesion-wise (BraTS-METS 2023; MIST), and how many targets were" if lesions else "How many targets were"
    _print_table(heading, counted)


def print_changes(changes: pd.DataFrame) -> None:
    """Print Dice before and after tuning, forgetting and gain.

    Args:
        changes: From :func:`metaseg.metrics.forgetting.change_metrics`.
    """
    rows = []
    for row in changes.to_dict(orient="records"):
        metric = "forgetting" if row["domain"] == "source" else "gain"
        rows.append(
            _head(row)
            | {name: _number(row[name], 3) for name in ("before", "after")}
            | {name: _number(row[name], 3, "+") if name == metric else "" for name in ("forgetting", "gain")}
            | {"95 % CI": _interval(row, metric, "+")}
        )
    _print_table("Dice before and after tuning", rows)


def _head(row: Mapping[str, Any]) -> dict[str, str]:
    """Cohort, target and number of cases; patients that were trained on or cross-validated are groups of their own."""
    kinds = ("trained on" if row.get("trained_on") else "", "cross-validated" if row.get("cross_validated") else "")
    cohort = " ".join([str(row["cohort"]), *(f"({kind})" for kind in kinds if kind)])
    return {"cohort": cohort, "target": str(row["target"]), "cases": str(row["n_cases"])}


def _print_table(title: str, rows: Sequence[Mapping[str, str]]) -> None:
    """Print rows whose first column is the cohort, which is named in its first row only."""
    names = list(rows[0])
    table = Table(names, title=title, numbers=names[2:])
    for before, row in zip(({}, *rows), rows, strict=False):
        new = row["cohort"] != before.get("cohort")
        if before and new:
            table.begin_section()
        table.add(row["cohort"] if new else "", *list(row.values())[1:])
    table.print()


def _number(value: float | None, digits: int, sign: str = "") -> str:
    return "-" if value is None or math.isnan(value) else f"{value:{sign}.{digits}f}"


def _spread(row: Mapping[str, Any], metric: str, digits: int, unit: str = "") -> str:
    mean, spread = (row.get(f"{metric}_{name}", math.nan) for name in ("mean", "sd"))
    if math.isnan(mean):
        return "-"
    return f"{mean:.{digits}f}{'' if math.isnan(spread) else f' ± {spread:.{digits}f}'} {unit}".rstrip()


def _interval(row: Mapping[str, Any], metric: str, sign: str = "") -> str:
    """The 95 % interval of several cases."""
    low, high = row.get(f"{metric}_low", math.nan), row.get(f"{metric}_high", math.nan)
    if row["n_cases"] <= 1 or math.isnan(low):
        return "-"
    return f"{_number(low, 3, sign)} .. {_number(high, 3, sign)}"
