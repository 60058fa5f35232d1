"""``metaseg paper``: the studies of a paper, run one after the other with a report of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from metaseg.config.io import read_settings
from metaseg.config.sizes import OVERLAYS, SIZES
from metaseg.config.studies import PaperConfig, ReportConfig
from metaseg.errors import MetasegError, RunError, unknown_name
from metaseg.reports.page import PAGE_NAME, run_report
from metaseg.results import Result
from metaseg.terminal import print_table
from metaseg.verbs import STUDY, Verb, verbs_of

ALL, LIST = "all", "list"
PACKAGE = Path(__file__).resolve().parents[1]
PLACES = (PACKAGE / "configs" / "paper", PACKAGE.parent / "configs" / "paper")
"""Where the settings files of the papers are: in an installed package, and in the repository."""


@dataclass(frozen=True)
class PaperResult(Result):
    """What the studies of a paper leave.

    Attributes:
        studies: The study folders.
        pages: A report of each; none after a dry run.
    """

    studies: tuple[Path, ...]
    pages: tuple[Path, ...]

    def table(self) -> pd.DataFrame:
        """The studies."""
        return pd.DataFrame({"study": list(map(str, self.studies))})


def run_paper(config: PaperConfig) -> PaperResult:
    """Run what is missing of a paper's studies, and make a report of each; or list the papers.

    A study that fails does not keep the others from being run; a settings file of a paper without the size is passed
    over.

    Args:
        config: All settings; see :class:`~metaseg.config.studies.PaperConfig`.

    Raises:
        UsageError: There is no such paper.
        RunError: A study failed; the others are done then.
    """
    if config.name == LIST:
        _print_papers(config.out)
        return PaperResult((), ())
    studies, pages, failed = list[Path](), list[Path](), dict[str, MetasegError]()
    named = files_named(config.name)
    files = [file for file in named if len(named) == 1 or has_size(file, config.size)]
    if without := [file.stem for file in named if file not in files]:
        print(f"passed over, without a size '{config.size}': {', '.join(without)}")
    for file in files:
        studies.append(folder_of(file, config.size, config.out))
        print(f"\n{file.stem}, {config.size}: {studies[-1]}")
        try:
            _run_study(file, config, studies[-1])
            if not config.dry_run:
                pages.append(run_report(ReportConfig(runs=(studies[-1],))).page)
        except MetasegError as error:
            if len(named) == 1:
                raise
            failed[file.stem] = error
            print(f"{file.stem} failed: {error}")
    if failed:
        reasons = "; ".join(
            f"{name}: {error.found}" + (f" ({error.where})" if error.where else "") for name, error in failed.items()
        )
        raise RunError(
            f"{len(failed)} of {len(files)} studies failed: {reasons}",
            remedy="mend what is told of each above; the same command then goes on",
        )
    return PaperResult(tuple(studies), tuple(pages))


def paper_files() -> Mapping[str, Path]:
    """The settings files of all papers by their names; those of one paper begin alike: ``hao2021-bands``.

    Raises:
        RunError: The package has none.
    """
    found = {path.stem: path for place in PLACES[::-1] for path in place.glob("*.yaml")}
    if not found:
        raise RunError("the settings of the papers are missing", where=PLACES[0], remedy="install metaseg again")
    return dict(sorted(found.items()))


def files_named(name: str) -> Sequence[Path]:
    """The settings files that a name stands for: those of a paper, one of them, or all.

    Raises:
        UsageError: None has it.
    """
    files = paper_files()
    if name.endswith(".yaml") and name.removesuffix(".yaml") in files:
        return [files[name.removesuffix(".yaml")]]
    named = [path for stem, path in files.items() if name in (ALL, stem, stem.partition("-")[0])]
    if not named:
        known = dict.fromkeys(known for stem in files for known in (stem.partition("-")[0], stem))
        raise unknown_name("paper", name, [*known, ALL])
    return named


def has_size(file: Path, size: str) -> bool:
    """Whether a settings file has a size."""
    return size == "full" or size in read_settings(file).get(OVERLAYS, {})


def folder_of(file: Path, size: str, out: Path) -> Path:
    """The study folder of a settings file in a size."""
    return out / (file.stem if size == "full" else f"{file.stem}-{size}")


def verb_of_file(file: Path) -> Verb:
    """The verb that a settings file is for."""
    return verbs_of(STUDY)[read_settings(file)["verb"]]


def _run_study(file: Path, config: PaperConfig, folder: Path) -> None:
    verb = verb_of_file(file)
    # What is not asked for is the file's to say, such as how many processes it takes.
    asked = {name: getattr(config, name) for name in ("dry_run", "jobs", "threads", "device", "cache")}
    given = {name: value for name, value in asked.items() if value is not None}
    verb.run(verb.settings(file, {**given, "size": config.size, "out": folder}))


def _print_papers(out: Path) -> None:
    rows = [
        [stem, verb_of_file(file).words, *(_state(folder_of(file, size, out)) for size in SIZES)]
        for stem, file in paper_files().items()
    ]
    print_table(f"papers, and their studies in {out}", ["name", "verb", *SIZES], rows)
    print("metaseg paper NAME --size SIZE runs one; NAME may be a paper, such as hao2021, or all")


def _state(folder: Path) -> str:
    return "done" if (folder / PAGE_NAME).is_file() else "begun" if folder.is_dir() else "–"
