"""The settings of the verbs that work on many runs: comparisons, searches, and reports on runs and comparisons.

As for ``metaseg.config.segmentation``, only the standard library is imported here, so that ``--help`` answers at once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, MinLen

from metaseg.config.options import (
    DATA,
    ONLY_PLACE,
    ONLY_START,
    OUT,
    RUN,
    SAME_RESULTS,
    TABLES_ANEW,
    Count,
    FirstMarks,
    Help,
    Names,
    Options,
    Paths,
    Precision,
    Read,
    Settings,
    Shots,
    Whole,
    option,
)

STUDY, SEARCH = "Study", "Search of hyper-parameters"
GROWS = "finished trials are kept, and those that are missing are run"
PAPER = "Paper whose results stand beside ours, where entries are named as in configs/paper."
SIZE_NAMES = "the settings that it stands for count, not its name"
MOST_SEEDS = 10_000


def _one_or_more(value: Any) -> Any:
    return (value,) if isinstance(value, int) and not isinstance(value, bool) else value


def _count_or_list(value: Any) -> Any:
    """``5`` means 0, 1, 2, 3, 4; a list is taken as it is. From the command line one number comes as one text."""
    if isinstance(value, tuple | list) and len(value) == 1 and isinstance(value[0], str) and value[0].isdigit():
        value = int(value[0])
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    if value > MOST_SEEDS:
        raise ValueError(f"more than {MOST_SEEDS} seeds")
    return tuple(range(value))


Size = Literal["smoke", "small", "full"]
Numbers = Annotated[tuple[int, ...], MinLen(1)]
Seeds = Annotated[Numbers, Read(_count_or_list), Help("How many seeds, or a list of them.", STUDY, common=True)]
Resamples = Annotated[int, Ge(100), Help("Resamples of the bootstrap.", STUDY, free=TABLES_ANEW)]
Pruning = Annotated[
    bool, Help("End a trial early whose metric lies below the median of the earlier ones.", SEARCH, common=True)
]
Storage = Annotated[
    str | None,
    Help(
        "Database of the search as SQLAlchemy URL, for several machines; by default an SQLite file in the study.",
        SEARCH,
        free=ONLY_PLACE,
    ),
]


@dataclass(frozen=True, kw_only=True)
class StudyOptions(Options):
    """What all comparisons and searches share."""

    shared: Settings = option({}, "Settings of all entries, such as data, split and slices.", STUDY, common=True)
    size: Size = option(
        "full",
        "With smoke or small, the settings under 'sizes: smoke' or 'sizes: small' of the file win over the others.",
        STUDY,
        common=True,
        free=SIZE_NAMES,
    )
    out: Path | None = option(
        None,
        "Study folder; studies/ and the name of the settings file if not given, and its size after a dash.",
        OUT,
        common=True,
        free=ONLY_PLACE,
    )
    dry_run: bool = option(
        False, "Print what is left to do and its cost, and write nothing.", OUT, common=True, free=ONLY_START
    )
    jobs: Count = option(1, "Processes that work side by side.", RUN, common=True, free=SAME_RESULTS)
    threads: Whole = option(
        0, "Threads of each process; 0 divides the cores. Fix it for results equal to the bit.", RUN, free=SAME_RESULTS
    )
    device: str = option("auto", "auto, cpu, cuda, cuda:N or mps.", RUN, common=True)
    cache: Path | None = option(None, "Folder of prepared cases.", RUN, free=ONLY_PLACE)


@dataclass(frozen=True, kw_only=True)
class CompareConfig(StudyOptions):
    """``metaseg compare``: methods, orders, shots and seeds at equal budgets, and one table of all their results."""

    from_run: str | None = option(
        None, "Pretrained run or checkpoint that every method starts from.", STUDY, common=True, option="from"
    )
    pretrain: Settings | None = option(
        None, "Instead of --from: settings of 'metaseg pretrain', run first inside the study.", STUDY
    )
    targets: Settings = option(
        {}, "Target domains by name, each with its data settings, or 'phantoms: met'.", STUDY, common=True
    )
    methods: Settings = option(
        {}, "Entries by label, each with its settings; a label that is a method's name needs none.", STUDY, common=True
    )
    shots: Annotated[tuple[Shots, ...], MinLen(1), Read(_one_or_more)] = option(
        (5,), "Numbers of target patients; all takes every one of the training part.", STUDY, common=True
    )
    seeds: Seeds = (0, 1, 2, 3, 4)
    budget: Count = option(600, "Work of every cell, in slice gradient evaluations.", STUDY, common=True)
    marks: Count = option(8, "Evaluations while tuning, evenly over the budget.", STUDY)
    first_marks: FirstMarks = 0
    test_part: str = option("test", "Part of the split that the metrics are of.", DATA)
    region: str | None = option(
        None, "Region of the tables and of the search; by default ET, or WT for whole lesions.", STUDY
    )
    resamples: Resamples = 2000
    paper: Literal["han2018"] | None = option(None, PAPER, STUDY, free=TABLES_ANEW)
    trials: Whole = option(0, "Trials of each method's search; 0 takes all settings as given.", SEARCH, common=True)
    search_part: str = option("val", "Part of the split that the search is judged on.", SEARCH)
    search_shots: Count | None = option(
        None, "Patients that a trial tunes on; by default the first of --shots.", SEARCH
    )
    search_seed: Whole = option(1000, "Seed of the search, none of --seeds.", SEARCH)
    objective: Literal["balanced", "target"] = option(
        "balanced", "What a trial is judged by: the mean of target and source Dice, or target Dice alone.", SEARCH
    )
    storage: Storage = None
    precision: Precision = option("32-true", "Number format; mixed precision pays on a GPU only.", RUN)


@dataclass(frozen=True, kw_only=True)
class ClassifyCompareConfig(StudyOptions):
    """``metaseg classify compare``: classifiers, ways of transfer or active learning over seeds, in one table."""

    entries: Settings = option(
        {},
        "Entries by label, each with its settings of 'classify train', or of 'classify active' where it says "
        "'verb: active'.",
        STUDY,
        common=True,
    )
    pretrain: Settings = option(
        {},
        "Networks to start from by label, each with its settings of 'classify train', trained before the cells. An "
        "entry starts from one by 'weights: from:LABEL', and from another entry's network of the same seed and fold "
        "likewise.",
        STUDY,
    )
    seeds: Seeds = (0, 1, 2, 3, 4)
    folds: Whole = option(
        0,
        "Cross-validation: divide the patients into so many folds by class; of each the network tests that has not "
        "seen it, and metrics are of all folds' predictions together. 0 tests one part.",
        STUDY,
        common=True,
    )
    new_splits: bool = option(False, "Divide the patients anew for each seed, instead of once for all.", STUDY)
    baseline: str | None = option(
        None, "Entry that the others are compared with; by default random, or the first.", STUDY, free=TABLES_ANEW
    )
    references: Names = option(
        (),
        "Entries at whose final metric labels are counted too, beside the baseline's: from scratch, or all labels.",
        STUDY,
        free=TABLES_ANEW,
    )
    metric: Literal["auc", "accuracy", "balanced_accuracy", "f1"] = option(
        "auc", "Metric of the tables.", STUDY, common=True, earlier=("figure",), free=TABLES_ANEW
    )
    resamples: Resamples = 2000
    trials: Whole = option(
        0, "Trials of the search of each entry that has 'search'; 0 takes all settings as given.", SEARCH, common=True
    )
    pruning: Pruning = True
    search_seed: Whole = option(1000, "Seed of the searches and of all their trials.", SEARCH)
    storage: Storage = None
    pattern_round: Count = option(
        3,
        "Round of aift whose first and last candidates are drawn with the predictions of their patches.",
        STUDY,
        free=TABLES_ANEW,
    )
    paper: (
        Literal[
            "zhou2017",
            "zhou2017-polyps",
            "zhou2017-emboli",
            "hao2021",
            "hao2021-balanced",
            "hao2021-bands",
            "hao2021-sizes",
            "hao2021-sizes-balanced",
            "lau2021",
            "aljanabi",
        ]
        | None
    ) = option(None, PAPER, STUDY, free=TABLES_ANEW)


@dataclass(frozen=True, kw_only=True)
class ClassifySearchConfig(StudyOptions):
    """``metaseg classify search``: hyper-parameters of a classifier, judged on the validation part."""

    space: Settings = option(
        {},
        "Settings to search, each {low: 1e-5, high: 1e-2, log: true} or a list; by default the learning rate, the "
        "weight decay and the batch size.",
        SEARCH,
        common=True,
    )
    trials: Count = option(20, "Trials.", SEARCH, common=True, free=GROWS)
    pruning: Pruning = True
    storage: Storage = None
    seed: Whole = option(0, "Seed of the search and of every trial.", RUN, common=True)


@dataclass(frozen=True, kw_only=True)
class PaperConfig(Options):
    """``metaseg paper``: the studies of a paper in one of their sizes, and a report of each."""

    name: str = option(
        "list",
        "A paper, such as hao2021; one of its settings files, such as hao2021-bands or hao2021.yaml; or all. By "
        "default the papers are listed.",
        argument=True,
    )
    size: Size = option(
        "smoke",
        "smoke takes minutes, without any data; small is a reduced study on the data at hand; full is the paper's own.",
        STUDY,
        common=True,
    )
    jobs: Count | None = option(
        None, "Processes that work side by side; by default as the file has it.", RUN, common=True, free=SAME_RESULTS
    )
    threads: Whole | None = option(
        None, "Threads of each process, 0 divides the cores; by default as the file has it.", RUN, free=SAME_RESULTS
    )
    device: str | None = option(
        None, "auto, cpu, cuda, cuda:N or mps; by default as the file has it.", RUN, common=True
    )
    out: Path = option(
        Path("studies"), "Folder of the studies, each named after its file and size.", OUT, common=True, free=ONLY_PLACE
    )
    dry_run: bool = option(
        False, "Print what is left to do and its cost, and write nothing.", OUT, common=True, free=ONLY_START
    )
    cache: Path | None = option(None, "Folder of prepared cases.", RUN, free=ONLY_PLACE)


@dataclass(frozen=True, kw_only=True)
class ReportConfig(Options):
    """``metaseg report``: one self-contained page on runs or on a whole study."""

    runs: Annotated[Paths, MinLen(1)] = option((), "Run folders, or study folders.", argument=True)
    out: Path | None = option(
        None, "HTML file; report.html in the first folder if not given.", OUT, common=True, free=ONLY_PLACE
    )
    figures: bool = option(True, "Write every figure as PNG and PDF too.", OUT, common=True)
    overwrite: bool = option(False, "Replace existing files of --out.", OUT, common=True, free=ONLY_START)
    region: str | None = option(None, "Region of the metrics; by default ET, or WT for whole lesions.", common=True)
    worst: Whole = option(6, "Worst cases to show.", common=True)


def named_after(config: StudyOptions, file: Path | None) -> StudyOptions:
    """The settings with a study folder: ``studies/NAME`` for a settings file ``NAME.yaml``, unless one is set.

    The folder of a size other than ``full`` is ``studies/NAME-SIZE``.
    """
    if config.out is not None:
        return config
    name = file.stem if file is not None else "compare"
    return replace(config, out=Path("studies") / (name if config.size == "full" else f"{name}-{config.size}"))
