"""The verbs whose options are the fields of a config class.

Let an option take several values in a row: ``--data A B C`` as well as ``--data A --data B --data C``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from glob import glob
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from metaseg.cli.help import PlainCommand, PlainGroup
from metaseg.cli.messages import messages
from metaseg.config.classification import (
    ACTIVE,
    TRANSFER,
    ClassifyActiveConfig,
    ClassifyEvaluateConfig,
    ClassifyPredictConfig,
    ClassifyTrainConfig,
)
from metaseg.config.fields import Config, FieldDescription, command_words, describe_fields
from metaseg.config.options import ADAPT, DATA, METHOD, MODEL, OUT, RUN, TRAIN
from metaseg.config.segmentation import (
    EvaluateConfig,
    MetatuneConfig,
    NaivetuneConfig,
    PredictConfig,
    PretrainConfig,
    TuneConfig,
)
from metaseg.config.studies import (
    SEARCH,
    STUDY,
    ClassifyCompareConfig,
    ClassifySearchConfig,
    CompareConfig,
    ReportConfig,
    named_after,
)


def expand_lists(arguments: Sequence[str], flags: Collection[str]) -> list[str]:
    """Write an option's name before each of its values.

    Args:
        arguments: The command line after the verb.
        flags: Options that take several values. Values end at the next word that begins with ``-``; ``--`` ends them
            where a positional argument follows.

    Returns:
        The command line in which each such option has one value.
    """
    expanded: list[str] = []
    flag: str | None = None
    waiting = False
    for position, word in enumerate(arguments):
        if word == "--":
            return [*expanded, *arguments[position:]]
        if word.startswith("-") and word != "-":
            flag = word if word in flags else None
            waiting = flag is not None
            expanded.append(word)
        elif flag is None or waiting:
            waiting = False
            expanded.append(word)
        else:
            expanded += [flag, word]
    return expanded


TRAINING, USING, COMPARING = "Train and adapt", "Use and judge", "Compare and report"
CLASSIFY = "classify"
PANEL_ORDER = ("Options", STUDY, DATA, MODEL, ADAPT, TRANSFER, ACTIVE, METHOD, SEARCH, TRAIN, OUT, RUN)
_METAVARS = {int: "INTEGER", float: "NUMBER", str: "TEXT", Path: "PATH"}


@dataclass(frozen=True)
class Verb:
    """A verb of the command line.

    Attributes:
        name: What is typed; ``classify-train`` stands for the two words ``classify train``.
        config: Its settings.
        function: Where it is done, as ``module:function``; imported only when the verb runs.
        panel: Group of verbs in ``metaseg --help``.
        help: What it does; the first sentence stands in ``metaseg --help``.
        examples: Command lines to learn from.
        file_argument: Whether the settings file is a positional argument that must be there, instead of ``--config``.
    """

    name: str
    config: type[Config]
    function: str
    panel: str
    help: str
    examples: tuple[str, ...]
    file_argument: bool = False

    @property
    def fields(self) -> tuple[FieldDescription, ...]:
        """Its settings."""
        return describe_fields(self.config)

    @property
    def words(self) -> str:
        """The verb as it is typed: ``classify train``."""
        return command_words(self.name)

    @property
    def list_flags(self) -> frozenset[str]:
        """Options that take several values in a row: ``--data A B C``."""
        return frozenset(field.flag for field in self.fields if field.element is Path and not field.argument)


VERBS: tuple[Verb, ...] = (
    Verb(
        "pretrain",
        PretrainConfig,
        "metaseg.training.pretrain:run_pretrain",
        TRAINING,
        "Train a network on the source disease, validated on whole patients. Without --data it trains on synthetic "
        "phantoms.",
        (
            "metaseg pretrain --data data/HGG --out runs/hgg",
            "metaseg pretrain --config configs/pretrain.yaml --epochs 50",
            "metaseg pretrain --out runs/hgg --resume",
        ),
    ),
    Verb(
        "tune",
        TuneConfig,
        "metaseg.adapt.naivetune:run_naivetune",
        TRAINING,
        "Adapt a pretrained network to a new disease by the recommended method: the source is rehearsed while the "
        "target is learned. Without --data it adapts to synthetic phantoms.",
        ("metaseg tune --from runs/hgg --data data/MET --source data/HGG --shots 5",),
    ),
    Verb(
        "metatune",
        MetatuneConfig,
        "metaseg.adapt.metatune:run_metatune",
        TRAINING,
        "Adapt a pretrained network to a new disease by MAML, from few patients and with little forgetting (Han et "
        "al. 2018). Without --data it adapts to synthetic phantoms.",
        (
            "metaseg metatune --from runs/hgg --data data/MET --source data/HGG --shots 5",
            "metaseg metatune --from runs/hgg --data data/MET --order passive --first-order",
        ),
    ),
    Verb(
        "naivetune",
        NaivetuneConfig,
        "metaseg.adapt.naivetune:run_naivetune",
        TRAINING,
        "Adapt by fine-tuning in the ordinary loop: plain, the baseline of metatune at the same budget, or guarded "
        "against forgetting.",
        (
            "metaseg naivetune --from runs/hgg --data data/MET --source data/HGG --shots 5",
            "metaseg naivetune --method ewc --from runs/hgg --data data/MET --source data/HGG",
        ),
    ),
    Verb(
        "evaluate",
        EvaluateConfig,
        "metaseg.inference.evaluate:run_evaluate",
        USING,
        "Compute Dice, HD95 and lesion-wise metrics of a network per patient, and what it forgot.",
        (
            "metaseg evaluate runs/met --data data/MET data/HGG",
            "metaseg evaluate runs/met --data data/MET --split split.json --part test",
        ),
    ),
    Verb(
        "predict",
        PredictConfig,
        "metaseg.inference.predict:run_predict",
        USING,
        "Segment cases and write NIfTI files on the cases' own grid.",
        ("metaseg predict runs/met data/new-case --out predictions",),
    ),
    Verb(
        "compare",
        CompareConfig,
        "metaseg.studies.compare:run_compare",
        COMPARING,
        "Compare methods over orders, shots and seeds at equal budgets, from one source network to one or more "
        "targets. The same command again runs only what is missing.",
        (
            "metaseg compare configs/compare/phantoms.yaml --dry-run",
            "metaseg compare configs/compare/phantoms.yaml --jobs 2",
        ),
        file_argument=True,
    ),
    Verb(
        "report",
        ReportConfig,
        "metaseg.reports.page:run_report",
        COMPARING,
        "Write one self-contained page on runs or a study: curves, tables, choices, pictures, provenance.",
        ("metaseg report studies/phantoms", "metaseg report runs/met-active runs/met-naive --out report.html"),
    ),
    Verb(
        "classify-train",
        ClassifyTrainConfig,
        "metaseg.classify.train:run_classify_train",
        TRAINING,
        "Fit a slice classifier by a transfer strategy, validated and tested on patients of their own. Without --data "
        "it tells phantoms of two grades apart.",
        (
            "metaseg classify train --data data/cheng --model resnet50 --weights imagenet",
            "metaseg classify train --data data/four_class --model lau-cnn --strategy scratch",
        ),
    ),
    Verb(
        "classify-active",
        ClassifyActiveConfig,
        "metaseg.classify.active:run_classify_active",
        TRAINING,
        "Choose which slices to label next, round after round, and fit a classifier on them. Labels come from the data "
        "set, or from an annotator through a file.",
        (
            "metaseg classify active --data data/cheng --strategy aift --batch 20 --budget 200",
            "metaseg classify active --data data/pool --classes HGG,LGG --ask wanted.csv --out runs/asked",
            "metaseg classify active --out runs/asked --resume",
        ),
    ),
    Verb(
        "classify-evaluate",
        ClassifyEvaluateConfig,
        "metaseg.classify.evaluate:run_classify_evaluate",
        USING,
        "Compute accuracy, AUC, calibration and more by slice and by patient, with intervals over patients and "
        "Grad-CAM pictures; by default on the run's own test part.",
        (
            "metaseg classify evaluate runs/grade",
            "metaseg classify evaluate runs/grade --data data/other-hospital --out metrics/other",
        ),
    ),
    Verb(
        "classify-predict",
        ClassifyPredictConfig,
        "metaseg.classify.predict:run_classify_predict",
        USING,
        "Give class probabilities of slices, and a verdict on each case.",
        ("metaseg classify predict runs/grade data/new-case --out predictions",),
    ),
    Verb(
        "classify-compare",
        ClassifyCompareConfig,
        "metaseg.studies.classifiers.compare:run_classify_compare",
        COMPARING,
        "Compare classifiers, transfer strategies or strategies of active learning over seeds. The same command again "
        "runs only what is missing.",
        ("metaseg classify compare configs/classify/phantoms.yaml --jobs 2",),
        file_argument=True,
    ),
    Verb(
        "classify-search",
        ClassifySearchConfig,
        "metaseg.studies.classifiers.search:run_classify_search",
        COMPARING,
        "Search hyper-parameters of a classifier on the validation part, with pruning. The same command again goes on.",
        ("metaseg classify search configs/classify/search.yaml --trials 20",),
        file_argument=True,
    ),
)


def add_verbs(app: typer.Typer) -> None:
    """Enter all generated verbs into the command line, those of classifiers below ``classify``."""
    text = "Classify slices: fit, choose what to label next, evaluate, predict and compare."
    below = typer.Typer(help=text, cls=PlainGroup, no_args_is_help=True, rich_markup_mode=None)
    for verb in VERBS:
        examples = "\n".join(f"  {line}" for line in verb.examples)
        text = f"{verb.help}\n\nExamples:\n\n{examples}"
        group, _, last = verb.words.rpartition(" ")
        parent = below if group else app
        parent.command(last, help=text, rich_help_panel=verb.panel, cls=PlainCommand)(make_command(verb))
    app.add_typer(below, name=CLASSIFY, rich_help_panel=COMPARING)


def find_verb(words: Sequence[str]) -> tuple[Verb | None, int]:
    """The generated verb that a command line names, and how many of its words that takes."""
    given = [word for word in words if not word.startswith("-")][:2]
    for count in range(len(given), 0, -1):
        for verb in VERBS:
            if verb.words == " ".join(given[:count]):
                return verb, words.index(given[count - 1]) + 1
    return None, 0


def make_command(verb: Verb) -> Callable[..., None]:
    """A function with one parameter for each setting of a verb, as typer wants it."""

    def command(**given: Any) -> None:
        file = given.pop("config_file")
        run_verb(verb, file, {name: value for name, value in given.items() if value not in (None, [], ())})

    fields = sorted(verb.fields, key=lambda field: (not field.argument, _panel_rank(field.panel)))
    parameters = [_config_parameter(verb), *map(_parameter, fields)]
    # typer reads the signature for order and defaults and the annotations for types.
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    command.__name__ = verb.name
    return command


def run_verb(verb: Verb, file: Path | None, overrides: dict[str, Any]) -> None:
    """Gather the settings and do the verb; every error becomes one message."""
    with messages(flag.flag for flag in verb.fields):
        from metaseg.config.io import load_config
        from metaseg.errors import UsageError

        if file is None and overrides.get("resume") and overrides.get("out"):
            from metaseg.runs.folder import saved_settings

            file = saved_settings(Path(overrides["out"]).expanduser(), verb.config)
        if file is None and verb.file_argument:
            raise UsageError(
                "CONFIG is missing",
                expected=f"a YAML file with settings of 'metaseg {verb.words}'",
                remedy="put it right after the verb, before the options",
            )
        config = load_config(verb.config, file, overrides)
        if isinstance(config, CompareConfig | ClassifyCompareConfig | ClassifySearchConfig):
            config = named_after(config, file)
        module, _, function = verb.function.partition(":")
        getattr(import_module(module), function)(config)


def _panel_rank(panel: str) -> int:
    return PANEL_ORDER.index(panel) if panel in PANEL_ORDER else len(PANEL_ORDER) - 2


def _config_parameter(verb: Verb) -> inspect.Parameter:
    text = "YAML file of settings; options on the command line win over it."
    if verb.file_argument:
        return _keyword("config_file", Path | None, typer.Argument(metavar="CONFIG", help=text, show_default=False))
    option = typer.Option("--config", metavar="FILE", help=text)
    return _keyword("config_file", Path | None, option)


def _parameter(field: FieldDescription) -> inspect.Parameter:
    """The parameter of one setting. None stands for "not given", so that a config file's value holds."""
    metavar = f"[{'|'.join(field.choices)}]" if field.choices else _METAVARS.get(field.annotation, "TEXT")
    several = field.element is Path
    # Paths are taken as texts: "" from an unset shell variable would become the working directory.
    annotation: Any = list[str] if several else bool if field.annotation is bool else str
    if field.argument:
        # Shown as needed, although a config file may hold it.
        argument = typer.Argument(
            metavar=field.flag + ("..." if several else ""), help=_help(field), show_default=False
        )
        return _keyword(field.name, annotation | None, argument)
    option = partial(typer.Option, help=_help(field), rich_help_panel=field.panel, show_default=False)
    if annotation is bool:
        return _keyword(field.name, bool | None, option(f"{field.flag}/--no-{field.flag[2:]}"))
    if field.is_mapping or field.element is not None:
        metavar = "JSON" if field.is_mapping else "PATH..." if several else "A,B"
    completion = (
        _choices(field.choices) if field.choices else _paths if Path in (field.annotation, field.element) else None
    )
    return _keyword(field.name, annotation | None, option(field.flag, metavar=metavar, autocompletion=completion))


def _keyword(name: str, annotation: Any, info: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=None, annotation=Annotated[annotation, info])


def _choices(choices: tuple[str, ...]) -> Callable[[str], list[str]]:
    def matching(incomplete: str) -> list[str]:
        return [choice for choice in choices if choice.startswith(incomplete)]

    return matching


def _paths(incomplete: str) -> list[str]:
    return sorted(f"{path}/" if Path(path).is_dir() else path for path in glob(incomplete + "*"))


def _help(field: FieldDescription) -> str:
    default = f" [default: {field.default_text}]" if field.default_text and not field.argument else ""
    return field.help + default
