"""Runs of a study: what they are made from, whether one is done or outdated, and running what is missing of it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from metaseg.classify.rounds import FOLDER as ROUNDS
from metaseg.config.classification import ClassifyActiveConfig, ClassifyTrainConfig
from metaseg.config.io import describe_fields
from metaseg.config.segmentation import MetatuneConfig, NaivetuneConfig, PretrainConfig
from metaseg.errors import MetasegError, RunError, TrainingError, UsageError
from metaseg.files import FileKind, read_json, write_json
from metaseg.runs.folder import RunFolder, config_changes, is_locked, is_run
from metaseg.runs.manifest import read_manifest
from metaseg.runs.session import INPUTS_KIND, INPUTS_NAME, STATE_FILE, InputsContent, digest_of_input
from metaseg.runs.state import RunState
from metaseg.terminal import quiet
from metaseg.verbs import verb_of

FORMER_FILE = "network.json"
"""Where studies of the first release keep the digest of their source network, and of nothing else."""
NETWORK = "source network"
INPUTS = FileKind("the digests of a study's inputs", "name another study folder with --out")


def check_inputs(folder: Path, found: Mapping[str, str], has_results: bool, *, record: bool = True) -> None:
    """Raise if cells were made from other inputs than there are now; write down those of a new study.

    Args:
        folder: The study's folder.
        found: Digests by what they are of, such as ``"data of target met"``.
        has_results: Whether anything was run in the study; inputs may change freely before.
        record: Write them down.

    Raises:
        UsageError: An input has changed: old and new results would stand in one table.
    """
    recorded = _recorded(folder) if has_results else {}
    changed = [name for name, digest in found.items() if recorded.get(name, digest) != digest]
    if changed:
        raise UsageError(
            f"changed since the study's first cells were run: {', '.join(changed)}",
            where=folder,
            expected="the same network, data and split for all results of a study",
            remedy="name another study folder with --out, or put back what was changed",
        )
    if record:
        write_json(folder / INPUTS_NAME, {**recorded, **found})


def _recorded(folder: Path) -> dict[str, str]:
    if (folder / INPUTS_NAME).exists():
        digests: dict[str, str] = read_json(folder / INPUTS_NAME, INPUTS, dict[str, str])
        return digests
    if (folder / FORMER_FILE).exists():
        return {NETWORK: read_json(folder / FORMER_FILE, INPUTS, dict[str, str]).get("sha256", "")}
    return {}


RunConfig = PretrainConfig | NaivetuneConfig | MetatuneConfig | ClassifyTrainConfig | ClassifyActiveConfig
State = Literal["done", "cut off", "missing", "changed", "damaged", "locked"]

HEAVY = ("checkpoints", "metrics.csv", "selection.csv", "progress.png")
"""What a trial need not keep."""


class BusyError(Exception):
    """Another process is at work on the unit."""


def state_of(folder: Path, wanted: RunConfig, study: Path) -> State:
    """How a run stands.

    Args:
        folder: Its folder.
        wanted: The settings that it should have.
        study: The study's folder.

    Returns:
        ``done`` with just these settings; ``cut off`` where it can be continued; ``changed`` if it has other settings;
        ``damaged`` if its files cannot be read; ``locked`` while another process writes it.
    """
    if is_locked(folder):
        return "locked"
    if not is_run(folder):
        return "missing"
    try:
        state, recorded = RunState.open(folder / "state.json"), RunFolder.open(folder).config(type(wanted))
    except MetasegError:
        return "damaged"
    if changes_of(recorded, wanted, folder, study):
        return "changed"
    return "done" if state.status == "finished" else "cut off"


def changes_of(recorded: RunConfig, wanted: RunConfig, folder: Path, study: Path) -> list[str]:
    """Settings in which a recorded run differs from a wanted one.

    A study folder may have been moved, or be named from elsewhere: paths within it are compared from the study's
    folder on, others as they are written or as they resolve.
    """
    # The recorded study folder: as far above the recorded run's as it is now.
    depth = len(folder.relative_to(study).parts)
    out = recorded.out or folder
    before = out.parents[depth - 1] if len(out.parents) >= depth else out
    ways = [
        config_changes(relocatable(recorded, before, resolve), relocatable(wanted, study, resolve))
        for resolve in (False, True)
    ]
    return min(ways, key=len)


def began_from(folder: Path, weights: str) -> bool:
    """Whether a run began from the weights that a run or checkpoint has now; one without a record counts as such."""
    path = folder / INPUTS_NAME
    recorded = read_json(path, INPUTS_KIND, InputsContent).files.get("weights") if path.exists() else None
    return recorded is None or recorded == digest_of_input(weights)


def run_unit(folder: Path, config: RunConfig, study: Path, *, show: bool = False, anew: bool = False) -> None:
    """Bring a run to its end: begin it, continue it, or do it again; nothing if it is done.

    Args:
        folder: Its folder.
        config: The settings that it should have.
        study: The study's folder.
        show: Let the verb print what it prints.
        anew: Do it again if it is done.

    Raises:
        BusyError: Another process writes it.
        MetasegError: As from its verb.
    """
    state = state_of(folder, config, study)
    if state == "done" and not anew:
        return
    try:
        # A run that was cut off before it saved a state has nothing to continue from.
        if state == "cut off" and ((folder / "checkpoints" / STATE_FILE).exists() or (folder / ROUNDS).exists()):
            try:
                return _continue(folder, config, show)
            except (TrainingError, BusyError):
                raise
            except Exception as error:
                if isinstance(error, MetasegError) and not isinstance(error, RunError):
                    raise
                if _is_busy(folder, error):
                    raise BusyError from error
                # What is left of it cannot be continued.
        _run(replace(config, out=folder, overwrite=is_run(folder)), show)
    except RunError as error:
        # Another process may have been quicker since the look at it.
        if _is_busy(folder, error):
            raise BusyError from error
        if anew or state_of(folder, config, study) != "done":
            raise


def _is_busy(folder: Path, error: Exception) -> bool:
    # The word of the error too: a lock may be gone again before one looks.
    return is_locked(folder) or "being written" in str(error)


def _continue(folder: Path, config: RunConfig, show: bool) -> None:
    recorded = RunFolder.open(folder).config(type(config))
    # The recorded texts of paths, which may be written otherwise and mean the same.
    _run(replace(recorded, out=folder, resume=True, overwrite=False, cache=config.cache, jobs=config.jobs), show)


def _run(config: RunConfig, show: bool) -> None:
    # Many run side by side, and the study has a display of its own.
    with contextlib.nullcontext() if show else quiet(errors=False):
        verb_of(config).run(config)


def drop_weights(folder: Path) -> None:
    """Keep of a trial only what is small: settings, patients, metrics and state."""
    for entry in folder.iterdir():
        if entry.name in HEAVY or entry.name.startswith("events.out."):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def seconds_of(folder: Path) -> float | None:
    """Seconds by the wall clock that a finished run took, evaluations included; None if it does not tell."""
    try:
        return float(sum(session["wall_seconds"] for session in read_manifest(folder)["sessions"]))
    except (RunError, KeyError, TypeError, ValueError):
        return None


def pace_of(folder: Path) -> float | None:
    """Seconds of a finished adaptation for each slice gradient evaluation; None if it does not tell."""
    seconds = seconds_of(folder)
    try:
        spent = int(read_json(folder / "result.json", FileKind("the result of a run"))["spent"])
    except (RunError, KeyError, TypeError, ValueError):
        return None
    return seconds / spent if seconds and spent else None


def relocatable(config: RunConfig, study: Path, resolve: bool = False) -> Any:
    """Settings whose paths within a study do not tell where the study lies.

    Args:
        config: Settings of a run.
        study: The study's folder, as it is written in them.
        resolve: Bring other paths to what they resolve to; they stay as written otherwise.
    """
    kind: Any = type(config)
    paths = [field.name for field in describe_fields(kind) if field.path]
    changed: Mapping[str, Any] = {name: _relocatable(getattr(config, name), study, resolve) for name in paths}
    return replace(config, **changed)


def _relocatable(value: Any, study: Path, resolve: bool) -> Any:
    if isinstance(value, tuple):
        return tuple(_relocatable(item, study, resolve) for item in value)
    if value is None:
        return None
    path = Path(value)
    if path.is_relative_to(study):
        return Path("STUDY") / path.relative_to(study)
    return path.expanduser().resolve() if resolve else path


def last_step(path: Path) -> int:
    """The last step that a log has reached; 0 if there is none."""
    try:
        with path.open("rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - 400))
            rows = stream.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return 0
    steps = [row.partition(",")[0] for row in rows[1:]]
    return max((int(step) for step in steps if step.isdigit()), default=0)
