"""The files of an evaluation: ``metrics.csv``, ``metrics.json`` and ``pictures/``, and what they came from."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pandas as pd
from lightning_fabric import Fabric

from metaseg.cases.labels import LABEL_SPACES
from metaseg.config.io import asked_for
from metaseg.config.segmentation import EvaluateConfig
from metaseg.errors import RunError, UsageError, warnings_so_far
from metaseg.files import (
    FileKind,
    finite_metrics,
    read_json,
    refuse_existing,
    require_writable,
    write_json,
    write_text,
    writing,
)
from metaseg.inference.case_pictures import KeptPrediction, case_overlay
from metaseg.inference.evaluation_cases import EvaluationCases, compared_space
from metaseg.metrics.case_metrics import PRESETS
from metaseg.metrics.cohort_metrics import to_records
from metaseg.models.processes import is_first, several
from metaseg.pictures.overlay import write_picture
from metaseg.runs.folder import is_run
from metaseg.runs.manifest import NOTICE, git_commit, portable_path, versions
from metaseg.runs.networks import LoadedNetwork, load_network
from metaseg.store.store import SliceStore

CSV_NAME, JSON_NAME, PICTURES = "metrics.csv", "metrics.json", "pictures"
FORMER_NAMES = "figures.json", "figures.csv"
"""What metaseg before 0.2 called these files."""
PATTERN = "unfinished.*.jsonl"
SAME_QUESTION = ("networks", "data_fingerprint", "cases", "options")
"""Entries of the record that must agree for an earlier evaluation to be replaced by the same one."""
METRICS_KIND = FileKind(
    "the metrics of a metaseg evaluation", "name another folder with --out, or replace it with --overwrite"
)
_NEEDED = {"network", "case", "target", "dice"}
_COUNT = re.compile(r"(^|_)n_(lesions|tp|fp|fn)$|^outlined_slices$")


def evaluation_record(
    config: EvaluateConfig,
    networks: Mapping[str, LoadedNetwork],
    cases: EvaluationCases,
    synthetic: bool,
    device: str,
    bootstrap: int,
) -> dict[str, Any]:
    """What the metrics come from, as JSON values.

    Args:
        config: The verb's settings.
        networks: ``after`` and, with a parent, ``before``.
        cases: The cases.
        synthetic: Whether phantoms are among data or training data.
        device: The device that was used.
        bootstrap: Resamples of the intervals.
    """
    # Only where there are any: evaluations of earlier versions do not say it.
    told = {"cross_validated": len(cases.in_folds)} if cases.folds else {}
    if partial := sum(case.partial for case in cases.store):
        told["outlined_on_some_slices"] = partial
    folds = {f"after, {run.name}": load_network(run).record() for run in dict.fromkeys(cases.folds.values())}
    return {
        "synthetic": synthetic,
        "notice": NOTICE,
        "networks": {role: network.record() for role, network in networks.items()} | folds,
        "data": [portable_path(folder) for folder in cases.data],
        "data_found": cases.found_by,
        "data_fingerprint": cases.store.fingerprint,
        "cases": {
            "evaluated": len(cases.store),
            "left_out_trained_on": cases.left_out,
            "left_out_unlabelled": cases.unlabelled,
            # Null where nobody can tell.
            "trained_on": sum(map(cases.is_trained_on, cases.store)) if cases.known else None,
            **told,
        },
        "options": {
            "tta": config.tta,
            "surface": config.surface,
            "label_space": compared_space(config, networks["after"]).name,
            "image_size": config.image_size or networks["after"].card.normalisation.get("image_size"),
            "precision": config.precision,
            "empty_policy": "exclude",
            "lesionwise": list(PRESETS) if config.surface else [],
            "bootstrap": bootstrap,
            "seed": config.seed,
            **({} if config.as_disease is None else {"as": config.as_disease}),
        },
        "device": device,
        "versions": versions(),
        "git_commit": git_commit(),
    }


@dataclass(frozen=True)
class Earlier:
    """What is read of an earlier ``metrics.json``."""

    evaluation: dict[str, Any] = field(default_factory=dict)
    pictures: list[str] = field(default_factory=list)
    cases: list[dict[str, Any]] = field(default_factory=list)
    cohorts: list[dict[str, Any]] = field(default_factory=list)
    changes: list[dict[str, Any]] = field(default_factory=list)


def evaluation_folder(config: EvaluateConfig, network: LoadedNetwork) -> Path:
    """The folder named, or one in the run: ``evaluation/``, or ``evaluation-source/`` and the like with ``--as``.

    It can be written, and no file that is read is there.

    Raises:
        UsageError: None is named, and the checkpoint lies in no run; or a file would be replaced that is read.
        WriteError: It cannot be written.
    """
    own = "evaluation" if config.as_disease is None else f"evaluation-{config.as_disease}"
    folder = network.run / own if config.out is None and network.run is not None else config.out
    if folder is None:
        raise UsageError(
            "the checkpoint lies in no run, where metrics could be written",
            where=network.checkpoint,
            remedy="name a folder with --out",
        )
    refuse_run(folder)
    tables = (config.split, config.patients, config.outlined_slices)
    read = [path for path in (*tables, *config.data) if path is not None]
    refuse_existing([folder / CSV_NAME, folder / JSON_NAME], overwrite=True, inputs=read)
    require_writable(folder)
    return folder


def refuse_run(folder: Path) -> None:
    """Make sure that metrics are not written over the log of a run.

    Raises:
        UsageError: The folder is a run's.
    """
    if is_run(folder):
        raise UsageError(
            f"a run folder has a {CSV_NAME} of its own",
            where=folder,
            expected="a folder for the metrics of an evaluation",
            remedy=f"name another folder with --out, such as {folder / 'evaluation'}",
        )


def complete_evaluation(folder: Path, pictures: int) -> Earlier | None:
    """The evaluation that stands in a folder, which :func:`refuse_other` took, if nothing is left to do in it.

    Args:
        folder: The folder.
        pictures: How many pictures are asked for.
    """
    found = _earlier(folder)
    if found is None:
        return None
    count = min(pictures, len({row.get("case") for row in found.cases}))
    whole = len(found.pictures) == count and all((folder / name).exists() for name in found.pictures)
    return found if whole and found.cases and not found.evaluation.get("failed") else None


def refuse_other(folder: Path, record: Mapping[str, Any]) -> None:
    """Make sure that nothing but the same evaluation is replaced.

    Raises:
        UsageError: The folder holds metrics of other networks, cases or settings, or a file of the same name.
    """
    earlier = _earlier(folder)
    if earlier is None:
        found = next((name for name in (CSV_NAME, *FORMER_NAMES, PICTURES) if (folder / name).exists()), None)
        differing = [] if found is None else [f"a {found} of unknown origin"]
    else:
        # Through JSON and back, so that tuples and lists compare alike.
        mine = json.loads(json.dumps(record))
        differing = [name.replace("_", " ") for name in SAME_QUESTION if earlier.evaluation.get(name) != mine[name]]
    if differing:
        raise UsageError(
            f"the folder holds another evaluation (other {', '.join(differing)})",
            where=folder,
            expected="a new folder, or the same evaluation to do again",
            remedy="name another folder with --out, or replace this one with --overwrite",
        )


def _earlier(folder: Path) -> Earlier | None:
    """The evaluation that stands in a folder, by an earlier release too; None if there is none.

    Raises:
        RunError: Its file is damaged.
    """
    path = next((path for path in (folder / JSON_NAME, folder / FORMER_NAMES[0]) if path.exists()), None)
    return None if path is None else read_json(path, METRICS_KIND, Earlier)


def write_evaluation(
    folder: Path,
    record: Mapping[str, Any],
    tables: tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame],
    domains: Mapping[str, Mapping[str, float]],
    store: SliceStore,
    worst: Sequence[KeptPrediction],
    network: LoadedNetwork,
) -> tuple[Path, ...]:
    """Write everything, ``metrics.json`` last, in place of an earlier evaluation.

    Args:
        folder: The evaluation's.
        record: From :func:`evaluation_record`.
        tables: Rows of cases, of cohorts and of changes.
        domains: Source and target as wholes.
        store: The cases.
        worst: What to draw, worst first.
        network: The network.

    Returns:
        The pictures.
    """
    rows, cohorts, changes = tables
    earlier = _earlier_pictures(folder)
    pictures = _draw(folder / PICTURES, store, worst, network)
    for stale in earlier - set(pictures):
        stale.unlink(missing_ok=True)
    # Not all rows have them: without this empty cells would turn the counts of all rows into 3.0.
    counts = [name for name in rows if _COUNT.search(name)]
    write_text(folder / CSV_NAME, rows.astype(dict.fromkeys(counts, "Int64")).to_csv(index=False))
    content = {
        "synthetic": record["synthetic"],
        "warnings": warnings_so_far(),
        "evaluation": dict(record),
        "cohorts": to_records(cohorts),
        "changes": to_records(changes),
        "domains": {target: finite_metrics(metrics) for target, metrics in domains.items()},
        "cases": to_records(rows),
        "pictures": [f"{PICTURES}/{picture.name}" for picture in pictures],
    }
    write_json(folder / JSON_NAME, content)
    for name in FORMER_NAMES:
        (folder / name).unlink(missing_ok=True)
    return pictures


def _draw(folder: Path, store: SliceStore, worst: Sequence[KeptPrediction], network: LoadedNetwork) -> tuple[Path, ...]:
    written = []
    space, modalities = LABEL_SPACES[network.card.label_space], network.card.modalities
    for number, kept in enumerate(worst, start=1):
        case = store.cases[kept.place]
        sheet = case_overlay(
            case,
            kept.class_map(case),
            space,
            modalities,
            label=case.native_label(),
            synthetic=network.card.synthetic or case.info.synthetic,
            note=f"{case.cohort}   mean Dice {kept.score:.2f}",
        )
        name = re.sub(r"[^A-Za-z0-9_.-]+", "_", case.id)
        path = folder / f"{number:02}-{name}.png"
        write_picture(path, sheet)
        written.append(path)
    return tuple(written)


def _earlier_pictures(folder: Path) -> set[Path]:
    """Pictures of the evaluation that is replaced; others in their folder are somebody else's."""
    try:
        earlier = _earlier(folder)
    except RunError:
        earlier = None
    named = (Path(name) for name in (earlier.pictures if earlier else ()))
    return {folder / name for name in named if name.parent == Path(PICTURES)}


@dataclass(frozen=True)
class FinishedCases:
    """The rows of finished cases, in one file for each process until the metrics are written.

    Attributes:
        folder: The evaluation's.
        question: Digest of networks, data and settings.
        rank: Of this process.
        rows: Rows of the cases that were finished before, by case.
    """

    folder: Path
    question: str
    rank: int
    rows: dict[str, list[dict[str, Any]]]

    @classmethod
    def begin(cls, folder: Path, question: Mapping[str, Any], config: EvaluateConfig, fabric: Fabric) -> FinishedCases:
        """Read what is there, or begin.

        Args:
            folder: The evaluation's.
            question: What decides the metrics besides settings: networks, data, options.
            config: The settings.
            fabric: Of this process.

        Raises:
            UsageError: An evaluation was cut off there, and neither ``resume`` nor ``overwrite`` is given; or it is
                another one and ``overwrite`` is not given.
        """
        content = json.dumps([dict(question), asked_for(config)], sort_keys=True)
        digest = blake2b(content.encode(), digest_size=16).hexdigest()
        found = [] if config.overwrite else list(_lines(folder))
        if several(fabric):
            # Nobody writes before all have read.
            fabric.barrier()
        if found and not config.resume:
            raise UsageError(
                f"an evaluation was cut off here, with {len(found)} cases done",
                where=folder,
                remedy="go on with --resume, or begin anew with --overwrite",
            )
        if any(line["question"] != digest for line in found):
            raise UsageError(
                "the evaluation that was cut off here is another one (other networks, data or settings)",
                where=folder,
                expected="the same networks, data and settings",
                remedy="name another folder with --out, or begin anew with --overwrite",
            )
        finished = cls(folder, digest, fabric.global_rank, {line["case"]: line["rows"] for line in found})
        if config.overwrite and is_first(fabric):
            finished.remove()
        if several(fabric):
            fabric.barrier()
        return finished

    def add(self, case: str, rows: list[dict[str, Any]]) -> None:
        """Keep the rows of a case; they are on the disk when the call returns."""
        line = json.dumps({"question": self.question, "case": case, "rows": rows}, default=lambda value: value.item())
        path = self.folder / PATTERN.replace("*", str(self.rank))
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as stream:
                # What a kill has left of an earlier line ends here.
                stream.write(f"\n{line}\n")
                stream.flush()
                os.fsync(stream.fileno())

    def remove(self) -> None:
        """Delete all files: the metrics are written, or begun anew."""
        for path in self.folder.glob(PATTERN):
            with writing(path):
                path.unlink(missing_ok=True)


def _lines(folder: Path) -> Iterator[dict[str, Any]]:
    """Whole lines; one that a kill or a power cut has damaged is left out, so that its case is evaluated again."""
    for path in sorted(folder.glob(PATTERN)):
        for text in path.read_bytes().split(b"\n"):
            try:
                line = json.loads(text)
                rows = line["rows"]
                whole = isinstance(line["question"], str) and isinstance(line["case"], str) and rows
                whole = whole and all(row.keys() >= _NEEDED and row["case"] == line["case"] for row in rows)
            except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
                continue
            if whole:
                yield line
