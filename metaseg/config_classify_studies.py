"""The settings of ``metaseg classify compare`` and ``metaseg classify search``: many classifiers beside each other.

As for ``metaseg.config``, only the standard library is imported here, so that ``--help`` answers at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, MinLen

from metaseg.config_options import ONLY_PLACE, ONLY_START, OUT, RUN, SAME_RESULTS, TABLES_ANEW, Help
from metaseg.config_studies import SEARCH, STUDY, Numbers, Settings, count_or_list

GROWS = "finished trials are kept, and those that are missing are run"
Papers = Literal["zhou2017", "hao2021", "hao2021-balanced", "lau2021", "aljanabi"]


@dataclass(frozen=True, kw_only=True)
class ClassifyStudyOptions:
    """What comparisons and searches of classifiers share."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    shared: Annotated[Settings, Help("Settings of all entries, such as data, split and model.", panel=STUDY)] = field(
        default_factory=dict
    )
    out: Annotated[
        Path | None,
        Help("Study folder; studies/ and the name of the settings file if not given.", panel=OUT, free=ONLY_PLACE),
    ] = None
    dry_run: Annotated[bool, Help("Print what is left to do, and write nothing.", panel=OUT, free=ONLY_START)] = False
    jobs: Annotated[int, Ge(1), Help("Processes that work side by side.", panel=RUN, free=SAME_RESULTS)] = 1
    threads: Annotated[
        int, Ge(0), Help("Threads of each process; 0 divides the cores.", panel=RUN, free=SAME_RESULTS)
    ] = 0
    device: Annotated[str, Help("auto, cpu, cuda, cuda:N or mps.", panel=RUN)] = "auto"
    cache: Annotated[Path | None, Help("Folder of prepared cases.", panel=RUN, free=ONLY_PLACE)] = None


@dataclass(frozen=True, kw_only=True)
class ClassifyCompareConfig(ClassifyStudyOptions):
    """``metaseg classify compare``: classifiers, strategies or active learning over seeds, in one table."""

    entries: Annotated[
        Settings,
        Help(
            "Entries by label, each with its settings of 'classify train', or of 'classify active' where it says "
            "'verb: active'.",
            panel=STUDY,
        ),
    ] = field(default_factory=dict)
    seeds: Annotated[Numbers, MinLen(1), count_or_list, Help("How many seeds, or a list of them.", panel=STUDY)] = (
        0,
        1,
        2,
        3,
        4,
    )
    new_splits: Annotated[
        bool, Help("Divide the patients anew for each seed, instead of once for all.", panel=STUDY)
    ] = False
    baseline: Annotated[
        str | None,
        Help(
            "Entry that the others are compared with; by default random, or the first.", panel=STUDY, free=TABLES_ANEW
        ),
    ] = None
    figure: Annotated[
        Literal["auc", "accuracy", "balanced_accuracy", "f1"],
        Help("Figure of the tables.", panel=STUDY, free=TABLES_ANEW),
    ] = "auc"
    resamples: Annotated[int, Ge(100), Help("Resamples of the bootstrap.", panel=STUDY, free=TABLES_ANEW)] = 2000
    paper: Annotated[
        Papers | None,
        Help(
            "Paper whose figures stand beside ours, where entries are called as in configs/paper.",
            panel=STUDY,
            free=TABLES_ANEW,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class ClassifySearchConfig(ClassifyStudyOptions):
    """``metaseg classify search``: hyper-parameters of a classifier, judged on the validation part."""

    space: Annotated[
        Settings,
        Help(
            "Settings to search, each {low: 1e-5, high: 1e-2, log: true} or a list; by default the learning rate, the "
            "weight decay and the batch size.",
            panel=SEARCH,
        ),
    ] = field(default_factory=dict)
    trials: Annotated[int, Ge(1), Help("Trials.", panel=SEARCH, free=GROWS)] = 20
    pruning: Annotated[
        bool, Help("End a trial early whose figure lies below the median of the earlier ones.", panel=SEARCH)
    ] = True
    storage: Annotated[
        str | None,
        Help(
            "Database as SQLAlchemy URL, for several machines; by default an SQLite file in the study.",
            panel=SEARCH,
            free=ONLY_PLACE,
        ),
    ] = None
    seed: Annotated[int, Ge(0), Help("Seed of the search and of every trial.", panel=RUN)] = 0
