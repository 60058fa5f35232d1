"""From a finished run back to what it was made from: its cases, the network before and the network after."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from metaseg.adapt.setting import Setting, prepare_setting
from metaseg.config import AdaptOptions, MetatuneConfig, NaivetuneConfig, TuneConfig
from metaseg.errors import MetasegError, RunError
from metaseg.runs.events import read_selection
from metaseg.runs.folder import RunFolder
from metaseg.runs.networks import LoadedNetwork, PatientRow, load_network
from metaseg.studies.report.runs import ReportRun

CONFIGS: dict[str, type[AdaptOptions]] = {
    "metatune": MetatuneConfig,
    "naivetune": NaivetuneConfig,
    "tune": TuneConfig,
}
DECIDING = (
    "from_run", "data", "format", "label_scheme", "labels", "modalities", "classes", "split", "image_size", "source",
    "source_classes", "train_part", "test_part", "shots", "slices", "watch_cases", "seed", "phantom_cases", "cache",
)  # fmt: skip
"""Settings that decide which cases and slices a run sees: runs that share them share what is opened."""


class Reopener:
    """Opens the cases of runs again, once for all runs that share them."""

    def __init__(self) -> None:
        self._settings: dict[str, Setting | MetasegError] = {}

    def setting(self, run: ReportRun) -> Setting:
        """The setting of an adaptation, as it was when the run began.

        Raises:
            MetasegError: The data or the network before are gone, or are others than those of the run.
        """
        config = _config(run)
        memory = any(row["task"] == "source" for row in read_selection(run.path))
        key = repr((memory, [asdict(config)[name] for name in DECIDING]))
        if key not in self._settings:
            try:
                # What a verb would print here belongs to the run, not to its report.
                with contextlib.redirect_stdout(io.StringIO()):
                    self._settings[key] = prepare_setting(config, memory)
            except MetasegError as error:
                self._settings[key] = error
        setting = self._settings[key]
        if isinstance(setting, MetasegError):
            raise setting
        _check_same_cases(run, setting)
        return setting

    @staticmethod
    def network(run: ReportRun) -> LoadedNetwork:
        """The network that a run ended with.

        Raises:
            RunError: It has none.
        """
        return load_network(run.path, "last")


def _config(run: ReportRun) -> AdaptOptions:
    config = RunFolder.open(run.path).config(CONFIGS[run.verb])
    parent = config.from_run or run.manifest.get("parent")
    if not parent:
        raise RunError("the run does not say which network it began from", where=run.path)
    return replace(config, from_run=str(_found(Path(parent), run.path)))


def _found(path: Path, run: Path) -> Path:
    """A path of a run that may have been moved, or started elsewhere: it is looked for beside all that is above."""
    path = path.expanduser()
    if path.exists():
        return path
    # The end of the path counts alone where a study was moved as a whole.
    ends = [Path(*path.parts[number:]) for number in range(len(path.parts))]
    others = (folder / end for end in ends for folder in run.resolve().parents)
    return next((other for other in others if other.exists()), path)


def _check_same_cases(run: ReportRun, setting: Setting) -> None:
    def ids(part: Sequence[PatientRow]) -> list[str]:
        return sorted(row.case for row in part)

    for domain, store in (("target", setting.target), ("source", setting.source)):
        if ids(run.patients.get(domain, ())) != sorted(case.id for case in store):
            raise RunError(
                f"the {domain} cases are no longer those of the run",
                where=run.path,
                remedy="report it where its data and its pretraining lie unchanged",
            )
