"""The settings of the verbs that work on many runs: comparisons, and reports on runs and comparisons.

As for ``metaseg.config.segmentation``, only the standard library is imported here, so that ``--help`` answers at once.

The settings of ``metaseg classify compare`` and ``metaseg classify search``: many classifiers beside each other.

As for ``metaseg.config.segmentation``, only the standard library is imported here, so that ``--help`` answers at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol, TypeVar

from annotated_types import Ge, MinLen

from metaseg.config.options import (
    DATA,
    ONLY_PLACE,
    ONLY_START,
    OUT,
    RUN,
    SAME_RESULTS,
    TABLES_ANEW,
    Help,
    Paths,
    Precision,
    Read,
)

STUDY, SEARCH = "Study", "Search of hyper-parameters"

Numbers = tuple[int, ...]
Settings = dict[str, Any]


def _one_or_more(value: Any) -> Any:
    return (value,) if isinstance(value, int) and not isinstance(value, bool) else value


MOST_SEEDS = 10_000


def _count_or_list(value: Any) -> Any:
    """``5`` means 0, 1, 2, 3, 4; a list is taken as it is. From the command line one number comes as one text."""
    if isinstance(value, tuple | list) and len(value) == 1 and isinstance(value[0], str) and value[0].isdigit():
        value = int(value[0])
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    if value > MOST_SEEDS:
        raise ValueError(f"more than {MOST_SEEDS} seeds")
    return tuple(range(value))


def _as_texts(value: Any) -> Any:
    """A number, or numbers, where texts are asked for, as YAML gives ``20`` and ``[10, 30]``."""
    items = value if isinstance(value, list | tuple) else [value]
    numbers = all(isinstance(item, int | str) and not isinstance(item, bool) for item in items)
    return tuple(map(str, items)) if numbers and not isinstance(value, str) else value


texts_or_numbers = Read(_as_texts)
"""Lets whole numbers be given where texts are asked for."""
count_or_list = Read(_count_or_list)
"""Lets a number stand for that many from 0 on."""


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """``metaseg compare``: methods, orders, shots and seeds at equal budgets, and one table of all their metrics."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    from_run: Annotated[
        str | None,
        Help("Pretrained run or checkpoint that every method starts from.", option="from", panel=STUDY),
    ] = None
    pretrain: Annotated[
        Settings | None,
        Help("Instead of --from: settings of 'metaseg pretrain', run first inside the study.", panel=STUDY),
    ] = None
    targets: Annotated[
        Settings,
        Help("Target domains by name, each with its data settings, or 'phantoms: met'.", panel=STUDY),
    ] = field(default_factory=dict)
    shared: Annotated[Settings, Help("Settings of all methods, such as source, split and slices.", panel=STUDY)] = (
        field(default_factory=dict)
    )
    methods: Annotated[
        Settings,
        Help("Entries by label, each with its settings; a label that is a method's name needs none.", panel=STUDY),
    ] = field(default_factory=dict)
    shots: Annotated[Numbers, MinLen(1), Read(_one_or_more), Help("Numbers of target patients.", panel=STUDY)] = (5,)
    seeds: Annotated[Numbers, MinLen(1), count_or_list, Help("How many seeds, or a list of them.", panel=STUDY)] = (
        0,
        1,
        2,
        3,
        4,
    )
    budget: Annotated[int, Ge(1), Help("Work of every cell, in slice gradient evaluations.", panel=STUDY)] = 600
    marks: Annotated[int, Ge(1), Help("Evaluations while tuning, evenly over the budget.", panel=STUDY)] = 8
    test_part: Annotated[str, Help("Part of the split that the metrics are of.", panel=DATA)] = "test"
    region: Annotated[
        str | None, Help("Region of the tables and of the search; by default ET, or WT for whole lesions.", panel=STUDY)
    ] = None
    resamples: Annotated[int, Ge(100), Help("Resamples of the bootstrap.", panel=STUDY, free=TABLES_ANEW)] = 2000
    trials: Annotated[
        int, Ge(0), Help("Trials of each method's search; 0 takes all settings as given.", panel=SEARCH)
    ] = 0
    search_part: Annotated[str, Help("Part of the split that the search is judged on.", panel=SEARCH)] = "val"
    search_shots: Annotated[
        int | None, Ge(1), Help("Patients that a trial tunes on; by default the first of --shots.", panel=SEARCH)
    ] = None
    search_seed: Annotated[int, Ge(0), Help("Seed of the search, none of --seeds.", panel=SEARCH)] = 1000
    objective: Annotated[
        Literal["balanced", "target"],
        Help("What a trial is judged by: the mean of target and source Dice, or target Dice alone.", panel=SEARCH),
    ] = "balanced"
    storage: Annotated[
        str | None,
        Help(
            "Database of the search as SQLAlchemy URL; by default an SQLite file in the study.",
            panel=SEARCH,
            free=ONLY_PLACE,
        ),
    ] = None
    out: Annotated[
        Path | None,
        Help("Study folder; studies/ and the name of the settings file if not given.", panel=OUT, free=ONLY_PLACE),
    ] = None
    dry_run: Annotated[bool, Help("Print the plan and its cost, and write nothing.", panel=OUT, free=ONLY_START)] = (
        False
    )
    jobs: Annotated[int, Ge(1), Help("Processes that work side by side.", panel=RUN, free=SAME_RESULTS)] = 1
    threads: Annotated[
        int,
        Ge(0),
        Help(
            "Threads of each process; 0 divides the cores. Fix it for metrics equal to the bit.",
            panel=RUN,
            free=SAME_RESULTS,
        ),
    ] = 0
    device: Annotated[str, Help("auto, cpu, cuda, cuda:N or mps.", panel=RUN)] = "auto"
    precision: Annotated[Precision, Help("Number format; mixed precision pays on a GPU only.", panel=RUN)] = "32-true"
    cache: Annotated[Path | None, Help("Folder of prepared cases.", panel=RUN, free=ONLY_PLACE)] = None


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """``metaseg report``: one self-contained page on runs or on a whole study."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    runs: Annotated[Paths, MinLen(1), Help("Run folders, or study folders.", argument=True)] = ()
    out: Annotated[
        Path | None, Help("HTML file; report.html in the first folder if not given.", panel=OUT, free=ONLY_PLACE)
    ] = None
    figures: Annotated[bool, Help("Write every figure as PNG and PDF too.", panel=OUT)] = True
    overwrite: Annotated[bool, Help("Replace existing files of --out.", panel=OUT, free=ONLY_START)] = False
    region: Annotated[str | None, Help("Region of the metrics; by default ET, or WT for whole lesions.")] = None
    worst: Annotated[int, Ge(0), Help("Worst cases to show.")] = 6


class _Named(Protocol):
    """Settings of a study, which has a folder."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def out(self) -> Path | None: ...


N = TypeVar("N", bound=_Named)


def named_after(config: N, file: Path | None) -> N:
    """The settings with a study folder: ``studies/NAME`` for a settings file ``NAME.yaml``, unless one is set."""
    if config.out is not None:
        return config
    return replace(config, out=Path("studies") / (file.stem if file is not None else "compare"))


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
    metric: Annotated[
        Literal["auc", "accuracy", "balanced_accuracy", "f1"],
        Help("Metric of the tables.", panel=STUDY, free=TABLES_ANEW),
    ] = "auc"
    resamples: Annotated[int, Ge(100), Help("Resamples of the bootstrap.", panel=STUDY, free=TABLES_ANEW)] = 2000
    paper: Annotated[
        Papers | None,
        Help(
            "Paper whose metrics stand beside ours, where entries are called as in configs/paper.",
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
        bool, Help("End a trial early whose metric lies below the median of the earlier ones.", panel=SEARCH)
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
