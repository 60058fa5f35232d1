"""The verbs: what each is called, its settings, the function that does it, and what it leaves behind.

The command line, the functions of the package, the cells of studies, reports and the reference of settings are all made
from :data:`VERBS`. Only the standard library is imported here, so that ``--help`` answers at once; what a verb does is
imported when it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, cast

from metaseg.config.classification import (
    ClassifyActiveConfig,
    ClassifyEvaluateConfig,
    ClassifyPredictConfig,
    ClassifyTrainConfig,
)
from metaseg.config.fields import Config, FieldDescription, command_words, config_verb, describe_fields
from metaseg.config.segmentation import (
    EvaluateConfig,
    MetatuneConfig,
    NaivetuneConfig,
    PredictConfig,
    PretrainConfig,
    TuneConfig,
)
from metaseg.config.studies import (
    ClassifyCompareConfig,
    ClassifySearchConfig,
    CompareConfig,
    PaperConfig,
    ReportConfig,
    named_after,
)

Kind = Literal["pretraining", "adaptation", "classifier", "evaluation", "prediction", "study", "report"]

PRETRAINING: Kind = "pretraining"
ADAPTATION: Kind = "adaptation"
CLASSIFIER: Kind = "classifier"
EVALUATION: Kind = "evaluation"
PREDICTION: Kind = "prediction"
STUDY: Kind = "study"
REPORT: Kind = "report"

TRAINING, USING, COMPARING = "Train and adapt", "Use and judge", "Compare and report"


@dataclass(frozen=True)
class Verb:
    """A verb of the command line, which is a function of the package as well.

    Attributes:
        config: Its settings; their class gives the verb its name.
        function: What does it, as ``module:function``.
        result: What it returns, as ``module:class``.
        kind: What it leaves behind. The first three kinds are runs; a study has many of them.
        panel: Group of verbs in ``metaseg --help``.
        help: What it does; the first sentence stands in ``metaseg --help``.
        examples: Command lines to learn from.
    """

    config: type[Config]
    function: str
    result: str
    kind: Kind
    panel: str
    help: str
    examples: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its name in files; ``classify-train`` stands for the two words ``classify train``."""
        return config_verb(self.config)

    @property
    def words(self) -> str:
        """The verb as it is typed: ``classify train``."""
        return command_words(self.name)

    @property
    def identifier(self) -> str:
        """The verb as a function of the package: ``classify_train``."""
        return self.name.replace("-", "_")

    @property
    def file_argument(self) -> bool:
        """Whether the settings file is a positional argument that must be there, instead of ``--config``."""
        return self.kind == STUDY

    @property
    def fields(self) -> tuple[FieldDescription, ...]:
        """Its settings."""
        return describe_fields(self.config)

    @property
    def list_flags(self) -> frozenset[str]:
        """Options that take several values in a row: ``--data A B C``."""
        return frozenset(field.flag for field in self.fields if field.element is Path and not field.argument)

    @property
    def lone_flags(self) -> dict[str, str]:
        """Options that may stand without a value, and what they mean then."""
        return {field.flag: field.alone for field in self.fields if field.alone}

    @property
    def earlier_flags(self) -> dict[str, str]:
        """Options by the names that they had in earlier releases, and what they are called now."""
        renamed = {f"--{name.replace('_', '-')}": field.flag for field in self.fields for name in field.earlier}
        return renamed | {f"--no-{old[2:]}": f"--no-{new[2:]}" for old, new in renamed.items()}

    def settings(self, file: Path | None, given: Mapping[str, Any]) -> Any:
        """Its settings from a YAML file and values that win over it.

        Raises:
            UsageError: The file or a value cannot be used.
        """
        from metaseg.config.io import load_config

        config: Any = load_config(self.config, file, given)
        return named_after(config, file) if self.kind == STUDY else config

    def load(self) -> Callable[[Any], Any]:
        """The function that does it; importing it takes seconds where torch is not loaded yet."""
        module, _, function = self.function.partition(":")
        return cast(Callable[[Any], Any], getattr(import_module(module), function))

    def run(self, config: Config) -> Any:
        """Do it.

        Raises:
            MetasegError: As from its function.
        """
        return self.load()(config)


VERBS: tuple[Verb, ...] = (
    Verb(
        PretrainConfig,
        "metaseg.training.pretrain:run_pretrain",
        "metaseg.training.pretrain:PretrainResult",
        PRETRAINING,
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
        TuneConfig,
        "metaseg.adapt.naivetune:run_naivetune",
        "metaseg.adapt.setup:AdaptationResult",
        ADAPTATION,
        TRAINING,
        "Adapt a pretrained network to a new disease by the recommended method: the source is rehearsed while the "
        "target is learned. Without --data it adapts to synthetic phantoms.",
        ("metaseg tune --from runs/hgg --data data/MET --source data/HGG --shots 5",),
    ),
    Verb(
        MetatuneConfig,
        "metaseg.adapt.metatune:run_metatune",
        "metaseg.adapt.setup:AdaptationResult",
        ADAPTATION,
        TRAINING,
        "Adapt a pretrained network to a new disease by MAML, from few patients and with little forgetting (Han et "
        "al. 2018). Without --data it adapts to synthetic phantoms.",
        (
            "metaseg metatune --from runs/hgg --data data/MET --source data/HGG --shots 5",
            "metaseg metatune --from runs/hgg --data data/MET --order passive --first-order",
        ),
    ),
    Verb(
        NaivetuneConfig,
        "metaseg.adapt.naivetune:run_naivetune",
        "metaseg.adapt.setup:AdaptationResult",
        ADAPTATION,
        TRAINING,
        "Adapt by fine-tuning in the ordinary loop: plain, the baseline of metatune at the same budget, or guarded "
        "against forgetting.",
        (
            "metaseg naivetune --from runs/hgg --data data/MET --source data/HGG --shots 5",
            "metaseg naivetune --method ewc --from runs/hgg --data data/MET --source data/HGG",
        ),
    ),
    Verb(
        EvaluateConfig,
        "metaseg.inference.evaluate:run_evaluate",
        "metaseg.inference.evaluate:EvaluationResult",
        EVALUATION,
        USING,
        "Compute Dice, HD95 and lesion-wise metrics of a network per patient, and what it forgot.",
        (
            "metaseg evaluate runs/met --data data/MET data/HGG",
            "metaseg evaluate runs/met --data data/MET --split split.json --part test",
        ),
    ),
    Verb(
        PredictConfig,
        "metaseg.inference.predict:run_predict",
        "metaseg.inference.predict:PredictionResult",
        PREDICTION,
        USING,
        "Segment cases and write NIfTI files on the cases' own grid.",
        ("metaseg predict runs/met data/new-case --out predictions",),
    ),
    Verb(
        CompareConfig,
        "metaseg.studies.compare:run_compare",
        "metaseg.studies.compare:ComparisonResult",
        STUDY,
        COMPARING,
        "Compare methods over orders, shots and seeds at equal budgets, from one source network to one or more "
        "targets. The same command again runs only what is missing.",
        (
            "metaseg compare configs/compare/phantoms.yaml --dry-run",
            "metaseg compare configs/compare/phantoms.yaml --jobs 2",
        ),
    ),
    Verb(
        ReportConfig,
        "metaseg.reports.page:run_report",
        "metaseg.reports.page:ReportResult",
        REPORT,
        COMPARING,
        "Write one self-contained page on runs or a study: curves, tables, choices, pictures, provenance.",
        ("metaseg report studies/phantoms", "metaseg report runs/met-active runs/met-naive --out report.html"),
    ),
    Verb(
        PaperConfig,
        "metaseg.reports.paper:run_paper",
        "metaseg.reports.paper:PaperResult",
        REPORT,
        COMPARING,
        "Run the studies of a paper that metaseg follows, and make a report of each. The same command again runs only "
        "what is missing. Without a name the papers are listed.",
        ("metaseg paper", "metaseg paper hao2021 --size smoke", "metaseg paper all --size smoke --jobs 2"),
    ),
    Verb(
        ClassifyTrainConfig,
        "metaseg.classify.train:run_classify_train",
        "metaseg.classify.train:ClassifyTrainResult",
        CLASSIFIER,
        TRAINING,
        "Fit a slice classifier by a transfer strategy, validated and tested on patients of their own. Without --data "
        "it tells phantoms of two grades apart.",
        (
            "metaseg classify train --data data/cheng --model resnet50 --weights imagenet",
            "metaseg classify train --data data/four_class --model lau-cnn --transfer scratch",
        ),
    ),
    Verb(
        ClassifyActiveConfig,
        "metaseg.classify.active:run_classify_active",
        "metaseg.classify.active:ActiveResult",
        CLASSIFIER,
        TRAINING,
        "Choose which slices to label next, round after round, and fit a classifier on them. Labels come from the data "
        "set, or from an annotator through a file.",
        (
            "metaseg classify active --data data/cheng --acquisition aift --batch 20 --budget 200",
            "metaseg classify active --data data/pool --classes HGG,LGG --ask wanted.csv --out runs/asked",
            "metaseg classify active --out runs/asked --resume",
        ),
    ),
    Verb(
        ClassifyEvaluateConfig,
        "metaseg.classify.evaluate:run_classify_evaluate",
        "metaseg.classify.evaluate:ClassifyEvaluationResult",
        EVALUATION,
        USING,
        "Compute accuracy, AUC, calibration and more by slice and by patient, with intervals over patients and "
        "Grad-CAM pictures; by default on the run's own test part.",
        (
            "metaseg classify evaluate runs/grade",
            "metaseg classify evaluate runs/grade --data data/other-hospital --out metrics/other",
        ),
    ),
    Verb(
        ClassifyPredictConfig,
        "metaseg.classify.predict:run_classify_predict",
        "metaseg.classify.predict:ClassifyPredictionResult",
        PREDICTION,
        USING,
        "Give class probabilities of slices, and a verdict on each case.",
        ("metaseg classify predict runs/grade data/new-case --out predictions",),
    ),
    Verb(
        ClassifyCompareConfig,
        "metaseg.studies.classifiers.compare:run_classify_compare",
        "metaseg.studies.classifiers.compare:ClassifierComparison",
        STUDY,
        COMPARING,
        "Compare classifiers, transfer strategies or strategies of active learning over seeds. The same command again "
        "runs only what is missing.",
        ("metaseg classify compare configs/classify/phantoms.yaml --jobs 2",),
    ),
    Verb(
        ClassifySearchConfig,
        "metaseg.studies.classifiers.search:run_classify_search",
        "metaseg.studies.classifiers.search:ClassifierSearch",
        STUDY,
        COMPARING,
        "Search hyper-parameters of a classifier on the validation part, with pruning. The same command again goes on.",
        ("metaseg classify search configs/classify/search.yaml --trials 20",),
    ),
)

_BY_NAME = {verb.name: verb for verb in VERBS}


def verb_of(config: Config | type[Config]) -> Verb:
    """The verb that settings, or their class, belong to."""
    return _BY_NAME[config_verb(config if isinstance(config, type) else type(config))]


def verbs_of(*kinds: Kind) -> Mapping[str, Verb]:
    """The verbs of some kinds by name: ``verbs_of(ADAPTATION)[run.verb].config`` are the settings of a run."""
    return {name: verb for name, verb in _BY_NAME.items() if verb.kind in kinds}


def verb_of_family(family: str) -> Verb:
    """The verb whose ``--method`` takes the methods of a family, ``plain`` or ``meta``; ``tune`` takes them as well."""
    return _BY_NAME[{"plain": "naivetune", "meta": "metatune"}[family]]


def family_of(name: str) -> str:
    """The family of methods that a verb takes: ``plain`` or ``meta``; empty where it adapts nothing."""
    return "" if name not in verbs_of(ADAPTATION) else "meta" if name == "metatune" else "plain"
