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
    CaseOptions,
    Choice,
    ClipNorm,
    Count,
    EvaluationOptions,
    Format,
    MissingOptions,
    Modalities,
    Names,
    NotNegative,
    Options,
    Paths,
    Positive,
    PredictionOptions,
    PreparationOptions,
    Read,
    RunOptions,
    Settings,
    TeamOptions,
    Whole,
    option,
)

TRANSFER, ACTIVE = "Transfer", "Active learning"

GRADUAL = "transfer=gradual-unfreeze|auto"

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
class SliceOptions(CaseOptions, MissingOptions):
    """Which slices are classified, and what their classes are."""

    data: Paths = option(
        (),
        "Folder of cases, of images in a folder per class, or a prepared store; several are pooled. Default: "
        "synthetic phantoms, see --phantoms.",
        DATA,
        common=True,
    )
    format: Format = "auto"
    modalities: Modalities = ()
    label: str = option(
        "grade", "What the class of a case is: grade, cohort, site, or a column of --case-table.", DATA, common=True
    )
    case_table: Path | None = option(
        None, "CSV with a column 'case' or 'patient' and the column named by --label.", DATA
    )
    classes: Names = option(
        (),
        "Classes to tell apart, in order, comma-separated; by default all that occur, by name. Of two, the second "
        "is the positive one.",
        DATA,
        common=True,
    )
    copies: Literal["near", "identical", "none"] = option(
        "near",
        "Images without patients: what counts as one patient. Near-copies, identical files, or nothing, which "
        "shows what leaking does.",
        DATA,
    )
    slices_per_case: Annotated[Names, Read(_as_texts)] = option(
        (),
        "Tumour-bearing slices of each case, such as 20, or by class as HGG=10,LGG=30; by default all of them.",
        DATA,
    )
    slice_choice: Literal["even", "random"] = option(
        "even", "How those are chosen: evenly through the tumour, or by chance.", DATA
    )
    input_size: Annotated[int, Interval(ge=16, le=4096)] = option(
        224, "Height and width of the network's input in pixels.", DATA
    )
    phantom_cases: Annotated[int, Ge(6)] = option(
        12, "Without --data: number of phantoms of each class.", DATA, without="data"
    )
    phantoms: Literal["grades", "four-class", "yes-no"] = option(
        "grades",
        "Without --data: what is generated. Scans of two grades, or pictures of four classes (three tumours, or none), "
        "or of two.",
        DATA,
        later=True,
        without="data",
    )


@dataclass(frozen=True, kw_only=True)
class PartOptions(Options):
    """Which patients train, validate and test."""

    split: Path | None = option(
        None,
        "Split file of 'metaseg data split'; by default 70, 15 and 15 % of the patients by class.",
        DATA,
        common=True,
    )
    train_part: str = option("train", "Part of --split to train on.", DATA, needs="split")
    val_part: str = option("val", "Part of --split to validate on.", DATA, needs="split")
    test_part: str = option("test", "Part of --split for the metrics.", DATA, needs="split")
    fold: Whole | None = option(
        None, "With a --split of folds: the fold to test on; the next one validates, all others train.", DATA
    )


@dataclass(frozen=True, kw_only=True)
class FitOptions(Options):
    """Network and training of a slice classifier."""

    model: Annotated[str, CLASSIFIERS] = option("mobilenetv2", "The network.", MODEL, common=True)
    weights: str = option(
        "none", "none, imagenet, a weights file, or the run of another classifier.", MODEL, common=True, path=True
    )
    model_options: Settings = option(
        {}, "Options of the network as JSON, such as '{\"dropout\": 0.4}' of lau-cnn.", MODEL, later=True
    )
    head: Literal["linear", "dense"] = option(
        "linear", "One linear layer, or dense, ReLU, batch norm, dropout 0.1, dense (Al-Janabi).", MODEL
    )
    head_options: Settings = option(
        {},
        'Options of the dense head as JSON: units, dropout, input_dropout, pooling; \'{"units": [510], "dropout": 0.3, '
        '"input_dropout": 0.23, "pooling": "average"}\' is that of Al-Janabi\'s VGG-16.',
        MODEL,
        later=True,
        needs="head=dense",
    )
    optimizer: Literal["adam", "adamw", "sgd"] = option("adam", "Optimiser.", TRAIN)
    momentum: BelowOne = option(0.9, "Of SGD.", TRAIN)
    learning_rate: Positive = option(3e-4, "First learning rate of the base.", TRAIN, common=True)
    head_factor: Positive = option(1.0, "The head's learning rate, as a multiple of the base's.", TRAIN)
    bias_factor: Positive = option(
        1.0, "The biases' learning rate, as a multiple of the weights' (2 in Zhou 2017).", TRAIN
    )
    weight_decay: NotNegative = option(1e-4, "Decoupled for AdamW, L2 otherwise.", TRAIN)
    schedule: Literal["constant", "cosine", "poly", "exponential"] = option(
        "constant", "Decay of the learning rate.", TRAIN
    )
    gamma: AboveZero = option(0.95, "Factor of the exponential decay, an epoch.", TRAIN)
    gamma_every: Count = option(
        1,
        "exponential: epochs after which that factor is taken; one of Zhou 2017 passes over all patches.",
        TRAIN,
        later=True,
    )
    batch_size: Count = option(16, "Slices of one step.", TRAIN)
    epochs: Count = option(30, "Passes over the training slices, in all, whatever the transfer.", TRAIN, common=True)
    balance: bool = option(
        False, "Draw all classes equally often, instead of passing over the slices as they are.", TRAIN
    )
    augment: Augmentation = option("light", "Strength of augmentation; it only ever touches the training part.", TRAIN)
    monitor: Monitors = option("auc", "Metric on the validation part by which the best weights are chosen.", TRAIN)
    clip_norm: ClipNorm = 12.0


@dataclass(frozen=True, kw_only=True)
class ClassifyTrainConfig(RunOptions, TeamOptions, SliceOptions, PartOptions, FitOptions):
    """``metaseg classify train``: fit a slice classifier."""

    transfer: Literal["auto", "freeze", "last-block", "finetune", "gradual-unfreeze", "scratch"] = option(
        "auto",
        "What is trained: freeze is the head alone, last-block the last convolutional block and what stands behind it, "
        "gradual-unfreeze block after block from the last on, finetune all, scratch all from random weights; auto "
        "chooses by the data (Al-Janabi) and says why.",
        TRANSFER,
        common=True,
        earlier=("strategy",),
    )
    auto_size: Literal["small", "large"] | None = option(
        None,
        "auto: the size of the training part; by default large from 1,000 slices on.",
        TRANSFER,
        later=True,
        needs="transfer=auto",
    )
    auto_similarity: Literal["similar", "different"] | None = option(
        None,
        "auto: how the data are to those that the weights were trained on; by default different from ImageNet, and "
        "similar to the data of another run.",
        TRANSFER,
        later=True,
        needs="transfer=auto",
    )
    unfreeze_target: AboveZero = option(
        0.9,
        "gradual-unfreeze: --monitor on the validation part from which no more blocks are let go.",
        TRANSFER,
        needs=GRADUAL,
    )
    unfreeze_epochs: Whole = option(
        5,
        "gradual-unfreeze: epochs with each number of blocks; the last takes what is left of --epochs. 0 divides them "
        "evenly.",
        TRANSFER,
        needs=GRADUAL,
    )
    validate_every: Count = option(1, "Epochs between validations; large networks take long to save.", TRAIN)
    patience: Whole = option(0, "Validations without a better metric before stopping; 0 never stops early.", TRAIN)
    test: bool = option(True, "Evaluate the best weights on the test part at the end.", RUN)


@dataclass(frozen=True, kw_only=True)
class ClassifyActiveConfig(RunOptions, SliceOptions, PartOptions, FitOptions):
    """``metaseg classify active``: which slices to label next, round after round."""

    acquisition: Annotated[str, ACQUISITIONS] = option(
        "aift", "How slices are chosen; 'docs/sampling.md' describes each.", ACTIVE, common=True, earlier=("strategy",)
    )
    transfer: Literal["finetune", "freeze", "last-block", "scratch"] = option(
        "finetune",
        "What is trained: all layers, the head alone, the last convolutional block too, or all from random weights.",
        TRANSFER,
    )
    initial: Annotated[NotNegative, Options] = option(
        0.0, "Slices labelled by chance before the first choice: a number, or a fraction below 1.", ACTIVE
    )
    batch: Positive = option(
        20.0, "Slices labelled in each round: a number, or a fraction below 1.", ACTIVE, common=True
    )
    budget: Positive = option(
        200.0, "Labels in all: a number, or a fraction up to 1 of the training part.", ACTIVE, common=True
    )
    rounds: Count | None = option(None, "Rounds at most, the labels by chance among them.", ACTIVE)
    stop_at: AboveZero | None = option(None, "Stop as soon as --monitor on the validation part reaches this.", ACTIVE)
    fit: Literal["continue", "reset"] = option(
        "continue", "Each round: fine-tune the network of the round before, or begin anew.", ACTIVE
    )
    fit_on: Literal["labelled", "chosen"] = option(
        "labelled", "Each round: train on all that is labelled, or on what was chosen in it (Hao 2021).", ACTIVE
    )
    keep: Literal["last", "best"] = option(
        "last", "Weights of a round: those at its end, or the best by --monitor on the validation part.", ACTIVE
    )
    later_epochs: Count | None = option(None, "Epochs of the rounds after the first; by default as many.", ACTIVE)
    later_learning_rate: Positive | None = option(
        None, "--learning-rate of the rounds after the first; by default the same.", ACTIVE, later=True
    )
    later_head_factor: Positive | None = option(
        None, "--head-factor of the rounds after the first; by default the same.", ACTIVE
    )
    later_gamma: AboveZero | None = option(
        None, "--gamma of the rounds after the first; by default the same.", ACTIVE, later=True
    )
    rank: Literal["pool", "all"] = option(
        "pool", "Rank the unlabelled slices, or all, so that labelled ones can be chosen again at no cost.", ACTIVE
    )
    drop_top: BelowOne = option(0.0, "Fraction of the ranking left out at its top (Hao 2021: 0.1).", ACTIVE)
    drop_bottom: BelowOne = option(0.0, "Fraction of the ranking left out at its end.", ACTIVE)
    draw: Literal["top", "random"] = option(
        "top", "Take the first of what is left of the ranking, or draw from it by chance.", ACTIVE
    )
    patches: Annotated[int, Ge(2)] = option(
        12, "aift: patches that each slice is augmented to; the first is the slice itself.", ACTIVE
    )
    patch_fraction: AboveZero = option(
        0.25, "aift: fraction of them that is kept by majority selection.", ACTIVE, earlier=("patch_share",)
    )
    lambda_entropy: NotNegative = option(1.0, "aift: weight of the entropy.", ACTIVE)
    lambda_diversity: NotNegative = option(1.0, "aift: weight of the diversity.", ACTIVE)
    committee_rates: tuple[Positive, Positive, Positive] = option(
        (1e-3, 5e-4, 1e-4), "committee: learning rates of its three members.", ACTIVE
    )
    ranking_from: Path | None = option(
        None,
        "committee: run whose labels by chance and first ranking are taken instead of being made again; its settings "
        "must be these but for what is drawn from the ranking.",
        ACTIVE,
        free=SAME_RESULTS,
    )
    dropout_passes: Annotated[int, Ge(2)] = option(10, "bald: passes with dropout.", ACTIVE)
    ask: Path | None = option(
        None,
        "CSV that an annotator fills: the slices wanted are written there, and the run goes on with --resume when "
        "the labels are there. Without it labels come from the data set.",
        ACTIVE,
        common=True,
    )


@dataclass(frozen=True, kw_only=True)
class ClassifyEvaluateConfig(EvaluationOptions, CaseOptions):
    """``metaseg classify evaluate``: metrics of a classifier, by slice and by patient."""

    data: Paths = option(
        (), "Cases or classified images; by default the test part of the data of the run.", DATA, common=True
    )
    format: Format = "auto"
    label: str | None = option(None, "What the class of a case is; by default as for the run.", DATA)
    case_table: Path | None = option(None, "CSV with the column named by --label.", DATA)
    split: Path | None = option(None, "Split file; with --part, evaluate that part only.", DATA, common=True)
    out: Path | None = option(
        None, "Folder to write; evaluation/ in the run if not given.", OUT, common=True, free=ONLY_PLACE
    )
    pictures: Whole = option(8, "Grad-CAM pictures to write, worst mistakes first.", OUT, free=SAME_RESULTS)
    resamples: Annotated[int, Ge(100)] = option(1000, "Resamples of the bootstrap.")


@dataclass(frozen=True, kw_only=True)
class ClassifyPredictConfig(PredictionOptions, PreparationOptions):
    """``metaseg classify predict``: class probabilities of slices and verdicts on cases."""

    slices: Literal["brain", "tumour"] = option(
        "brain",
        "Slices of a volume that have a say: all with enough brain, or those where a label shows tumour.",
        common=True,
    )
    pictures: Whole = option(3, "Grad-CAM pictures of each case.", OUT, common=True, free=SAME_RESULTS)
