"""The settings of the verbs ``metaseg classify ...``: slice classifiers, active learning and their comparison.

As for ``metaseg.config.segmentation``, only the standard library is imported here, so that ``--help`` answers at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Interval

from metaseg.config.options import (
    DATA,
    MODEL,
    ONLY_PLACE,
    OUT,
    RUN,
    SAME_RESULTS,
    TRAIN,
    AboveZero,
    Augmentation,
    BelowOne,
    Choice,
    ClipNorm,
    Count,
    EvaluationOptions,
    Format,
    Help,
    MissingOptions,
    Modalities,
    Names,
    NotNegative,
    Options,
    Paths,
    PatientOptions,
    Positive,
    PredictionOptions,
    PreparationOptions,
    Read,
    RunOptions,
    TeamOptions,
    Whole,
)

TRANSFER, ACTIVE = "Transfer", "Active learning"

Monitors = Literal["auc", "accuracy", "balanced_accuracy", "f1"]

CLASSIFIERS = Choice(
    "alexnet vgg16 resnet50 resnet101 mobilenetv2 efficientnet-b0 xception lau-cnn 2d-cnn",
    others="any name of torchvision or timm",
)
ACQUISITIONS = Choice(
    "aift aift-entropy aift-diversity committee random entropy margin least-confidence bald core-set badge",
    "metaseg.strategies",
)


def _as_texts(value: Any) -> Any:
    """A number, or numbers, where texts are asked for, as YAML gives ``20`` and ``[10, 30]``."""
    items = value if isinstance(value, list | tuple) else [value]
    numbers = all(isinstance(item, int | str) and not isinstance(item, bool) for item in items)
    return tuple(map(str, items)) if numbers and not isinstance(value, str) else value


@dataclass(frozen=True, kw_only=True)
class SliceOptions(PatientOptions, MissingOptions):
    """Which slices are classified, and what their classes are."""

    data: Annotated[
        Paths,
        Help(
            "Folder of cases, of images in a folder per class, or a prepared store; several are pooled. Default: "
            "synthetic phantoms of two grades.",
            DATA,
            common=True,
        ),
    ] = ()
    format: Format = "auto"
    modalities: Modalities = ()
    label: Annotated[
        str, Help("What the class of a case is: grade, cohort, site, or a column of --case-table.", DATA, common=True)
    ] = "grade"
    case_table: Annotated[
        Path | None, Help("CSV with a column 'case' or 'patient' and the column named by --label.", DATA)
    ] = None
    classes: Annotated[
        Names,
        Help(
            "Classes to tell apart, in order, comma-separated; by default all that occur, by name. Of two, the second "
            "is the positive one.",
            DATA,
            common=True,
        ),
    ] = ()
    copies: Annotated[
        Literal["near", "identical", "none"],
        Help(
            "Images without patients: what counts as one patient. Near-copies, identical files, or nothing, which "
            "shows what leaking does.",
            DATA,
        ),
    ] = "near"
    slices_per_case: Annotated[
        Names,
        Read(_as_texts),
        Help(
            "Tumour-bearing slices of each case, such as 20, or by class as HGG=10,LGG=30; by default all of them.",
            DATA,
        ),
    ] = ()
    slice_choice: Annotated[
        Literal["even", "random"], Help("How those are chosen: evenly through the tumour, or by chance.", DATA)
    ] = "even"
    input_size: Annotated[
        int, Interval(ge=16, le=4096), Help("Height and width of the network's input in pixels.", DATA)
    ] = 224
    phantom_cases: Annotated[
        int, Ge(6), Help("Without --data: number of phantoms of each grade.", DATA, without="data")
    ] = 12


@dataclass(frozen=True, kw_only=True)
class PartOptions(Options):
    """Which patients train, validate and test."""

    split: Annotated[
        Path | None,
        Help(
            "Split file of 'metaseg data split'; by default 70, 15 and 15 % of the patients by class.",
            DATA,
            common=True,
        ),
    ] = None
    train_part: Annotated[str, Help("Part of --split to train on.", DATA, needs="split")] = "train"
    val_part: Annotated[str, Help("Part of --split to validate on.", DATA, needs="split")] = "val"
    test_part: Annotated[str, Help("Part of --split for the metrics.", DATA, needs="split")] = "test"
    fold: Annotated[
        Whole | None,
        Help("With a --split of folds: the fold to test on; the next one validates, all others train.", DATA),
    ] = None


@dataclass(frozen=True, kw_only=True)
class FitOptions(Options):
    """Network and training of a slice classifier."""

    model: Annotated[str, CLASSIFIERS, Help("The network.", MODEL, common=True)] = "mobilenetv2"
    weights: Annotated[
        str, Help("none, imagenet, a weights file, or the run of another classifier.", MODEL, common=True, path=True)
    ] = "none"
    head: Annotated[
        Literal["linear", "dense"],
        Help("One linear layer, or dense, ReLU, batch norm, dropout 0.1, dense (Al-Janabi).", MODEL),
    ] = "linear"
    optimizer: Annotated[Literal["adam", "adamw", "sgd"], Help("Optimiser.", TRAIN)] = "adam"
    momentum: Annotated[BelowOne, Help("Of SGD.", TRAIN)] = 0.9
    learning_rate: Annotated[Positive, Help("First learning rate of the base.", TRAIN, common=True)] = 3e-4
    head_factor: Annotated[Positive, Help("The head's learning rate, as a multiple of the base's.", TRAIN)] = 1.0
    bias_factor: Annotated[
        Positive, Help("The biases' learning rate, as a multiple of the weights' (2 in Zhou 2017).", TRAIN)
    ] = 1.0
    weight_decay: Annotated[NotNegative, Help("Decoupled for AdamW, L2 otherwise.", TRAIN)] = 1e-4
    schedule: Annotated[
        Literal["constant", "cosine", "poly", "exponential"], Help("Decay of the learning rate.", TRAIN)
    ] = "constant"
    gamma: Annotated[AboveZero, Help("Factor of the exponential decay, an epoch.", TRAIN)] = 0.95
    batch_size: Annotated[Count, Help("Slices of one step.", TRAIN)] = 16
    epochs: Annotated[Count, Help("Passes over the training slices.", TRAIN, common=True)] = 30
    balance: Annotated[
        bool, Help("Draw all classes equally often, instead of passing over the slices as they are.", TRAIN)
    ] = False
    augment: Annotated[
        Augmentation, Help("Strength of augmentation; it only ever touches the training part.", TRAIN)
    ] = "light"
    monitor: Annotated[Monitors, Help("Metric on the validation part by which the best weights are chosen.", TRAIN)] = (
        "auc"
    )
    clip_norm: ClipNorm = 12.0


@dataclass(frozen=True, kw_only=True)
class ClassifyTrainConfig(RunOptions, TeamOptions, SliceOptions, PartOptions, FitOptions):
    """``metaseg classify train``: fit a slice classifier."""

    transfer: Annotated[
        Literal["auto", "freeze", "finetune", "gradual-unfreeze", "scratch"],
        Help(
            "freeze the base, finetune all, gradual-unfreeze block after block, from scratch, or auto, which chooses "
            "by the data (Al-Janabi) and says why.",
            TRANSFER,
            common=True,
            earlier=("strategy",),
        ),
    ] = "auto"
    unfreeze_target: Annotated[
        AboveZero,
        Help("gradual-unfreeze: --monitor on the validation part from which no more blocks are let go.", TRANSFER),
    ] = 0.9
    unfreeze_epochs: Annotated[Count, Help("gradual-unfreeze: epochs with each number of blocks.", TRANSFER)] = 5
    validate_every: Annotated[Count, Help("Epochs between validations; large networks take long to save.", TRAIN)] = 1
    patience: Annotated[
        Whole, Help("Validations without a better metric before stopping; 0 never stops early.", TRAIN)
    ] = 0
    test: Annotated[bool, Help("Evaluate the best weights on the test part at the end.", RUN)] = True


@dataclass(frozen=True, kw_only=True)
class ClassifyActiveConfig(RunOptions, SliceOptions, PartOptions, FitOptions):
    """``metaseg classify active``: which slices to label next, round after round."""

    acquisition: Annotated[
        str,
        ACQUISITIONS,
        Help("How slices are chosen; 'docs/sampling.md' describes each.", ACTIVE, common=True, earlier=("strategy",)),
    ] = "aift"
    transfer: Annotated[
        Literal["finetune", "freeze", "scratch"],
        Help("What is trained: all layers, the head alone, or all from random weights.", TRANSFER),
    ] = "finetune"
    initial: Annotated[
        NotNegative,
        Options,
        Help("Slices labelled by chance before the first choice: a number, or a fraction below 1.", ACTIVE),
    ] = 0.0
    batch: Annotated[
        Positive, Help("Slices labelled in each round: a number, or a fraction below 1.", ACTIVE, common=True)
    ] = 20.0
    budget: Annotated[
        Positive, Help("Labels in all: a number, or a fraction up to 1 of the training part.", ACTIVE, common=True)
    ] = 200.0
    rounds: Annotated[Count | None, Help("Rounds at most, the labels by chance among them.", ACTIVE)] = None
    stop_at: Annotated[
        AboveZero | None, Help("Stop as soon as --monitor on the validation part reaches this.", ACTIVE)
    ] = None
    fit: Annotated[
        Literal["continue", "reset"],
        Help("Each round: fine-tune the network of the round before, or begin anew.", ACTIVE),
    ] = "continue"
    fit_on: Annotated[
        Literal["labelled", "chosen"],
        Help("Each round: train on all that is labelled, or on what was chosen in it (Hao 2021).", ACTIVE),
    ] = "labelled"
    keep: Annotated[
        Literal["last", "best"],
        Help("Weights of a round: those at its end, or the best by --monitor on the validation part.", ACTIVE),
    ] = "last"
    later_epochs: Annotated[Count | None, Help("Epochs of the rounds after the first; by default as many.", ACTIVE)] = (
        None
    )
    later_head_factor: Annotated[
        Positive | None, Help("--head-factor of the rounds after the first; by default the same.", ACTIVE)
    ] = None
    rank: Annotated[
        Literal["pool", "all"],
        Help("Rank the unlabelled slices, or all, so that labelled ones can be chosen again at no cost.", ACTIVE),
    ] = "pool"
    drop_top: Annotated[BelowOne, Help("Fraction of the ranking left out at its top (Hao 2021: 0.1).", ACTIVE)] = 0.0
    drop_bottom: Annotated[BelowOne, Help("Fraction of the ranking left out at its end.", ACTIVE)] = 0.0
    draw: Annotated[
        Literal["top", "random"],
        Help("Take the first of what is left of the ranking, or draw from it by chance.", ACTIVE),
    ] = "top"
    patches: Annotated[
        int, Ge(2), Help("aift: patches that each slice is augmented to; the first is the slice itself.", ACTIVE)
    ] = 12
    patch_fraction: Annotated[
        AboveZero, Help("aift: fraction of them that is kept by majority selection.", ACTIVE, earlier=("patch_share",))
    ] = 0.25
    lambda_entropy: Annotated[NotNegative, Help("aift: weight of the entropy.", ACTIVE)] = 1.0
    lambda_diversity: Annotated[NotNegative, Help("aift: weight of the diversity.", ACTIVE)] = 1.0
    committee_rates: Annotated[
        tuple[Positive, Positive, Positive], Help("committee: learning rates of its three members.", ACTIVE)
    ] = (1e-3, 5e-4, 1e-4)
    dropout_passes: Annotated[int, Ge(2), Help("bald: passes with dropout.", ACTIVE)] = 10
    ask: Annotated[
        Path | None,
        Help(
            "CSV that an annotator fills: the slices wanted are written there, and the run goes on with --resume when "
            "the labels are there. Without it labels come from the data set.",
            ACTIVE,
            common=True,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class ClassifyEvaluateConfig(EvaluationOptions, PatientOptions):
    """``metaseg classify evaluate``: metrics of a classifier, by slice and by patient."""

    data: Annotated[
        Paths, Help("Cases or classified images; by default the test part of the data of the run.", DATA, common=True)
    ] = ()
    format: Format = "auto"
    label: Annotated[str | None, Help("What the class of a case is; by default as for the run.", DATA)] = None
    case_table: Annotated[Path | None, Help("CSV with the column named by --label.", DATA)] = None
    split: Annotated[Path | None, Help("Split file; with --part, evaluate that part only.", DATA, common=True)] = None
    out: Annotated[
        Path | None, Help("Folder to write; evaluation/ in the run if not given.", OUT, common=True, free=ONLY_PLACE)
    ] = None
    pictures: Annotated[Whole, Help("Grad-CAM pictures to write, worst mistakes first.", OUT, free=SAME_RESULTS)] = 8
    resamples: Annotated[int, Ge(100), Help("Resamples of the bootstrap.")] = 1000


@dataclass(frozen=True, kw_only=True)
class ClassifyPredictConfig(PredictionOptions, PreparationOptions):
    """``metaseg classify predict``: class probabilities of slices and verdicts on cases."""

    slices: Annotated[
        Literal["brain", "tumour"],
        Help(
            "Slices of a volume that have a say: all with enough brain, or those where a label shows tumour.",
            common=True,
        ),
    ] = "brain"
    pictures: Annotated[Whole, Help("Grad-CAM pictures of each case.", OUT, common=True, free=SAME_RESULTS)] = 3
