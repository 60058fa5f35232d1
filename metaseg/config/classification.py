"""The settings of the verbs ``metaseg classify ...``: slice classifiers, active learning and their comparison.

As for ``metaseg.config.segmentation``, only the standard library is imported here, so that ``--help`` answers at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Interval, MinLen

from metaseg.config.options import (
    DATA,
    MODEL,
    ONLY_PLACE,
    ONLY_START,
    OUT,
    RUN,
    SAME_RESULTS,
    TRAIN,
    Formats,
    Help,
    MissingOptions,
    Modalities,
    Names,
    Paths,
    PatientOptions,
    Precision,
    RunOptions,
    TeamOptions,
)
from metaseg.config.studies import texts_or_numbers

TRANSFER, ACTIVE = "Transfer", "Active learning"

Strategies = Literal["auto", "freeze", "finetune", "gradual-unfreeze", "scratch"]
Monitors = Literal["auc", "accuracy", "balanced_accuracy", "f1"]
Acquisitions = Literal[
    "aift",
    "aift-entropy",
    "aift-diversity",
    "committee",
    "random",
    "entropy",
    "margin",
    "least-confidence",
    "bald",
    "core-set",
    "badge",
]


@dataclass(frozen=True, kw_only=True)
class SliceOptions(PatientOptions, MissingOptions):
    """Which slices are classified, and what their classes are."""

    data: Annotated[
        Paths,
        Help(
            "Folder of cases, of images in a folder per class, or a prepared store; several are pooled. Default: "
            "synthetic phantoms of two grades.",
            panel=DATA,
        ),
    ] = ()
    format: Annotated[Formats, Help("Naming convention of the files.", panel=DATA)] = "auto"
    modalities: Modalities = ()
    label: Annotated[
        str,
        Help("What the class of a case is: grade, cohort, site, or a column of --case-table.", panel=DATA),
    ] = "grade"
    case_table: Annotated[
        Path | None, Help("CSV with a column 'case' or 'patient' and the column named by --label.", panel=DATA)
    ] = None
    classes: Annotated[
        Names,
        Help(
            "Classes to tell apart, in order, comma-separated; by default all that occur, by name. Of two, the second "
            "is the positive one.",
            panel=DATA,
        ),
    ] = ()
    copies: Annotated[
        Literal["near", "identical", "none"],
        Help(
            "Images without patients: what counts as one patient. Near-copies, identical files, or nothing, which "
            "shows what leaking does.",
            panel=DATA,
        ),
    ] = "near"
    slices_per_case: Annotated[
        Names,
        texts_or_numbers,
        Help(
            "Tumour-bearing slices of each case, such as 20, or by class as HGG=10,LGG=30; by default all of them.",
            panel=DATA,
        ),
    ] = ()
    slice_choice: Annotated[
        Literal["even", "random"], Help("How those are chosen: evenly through the tumour, or by chance.", panel=DATA)
    ] = "even"
    input_size: Annotated[
        int, Interval(ge=16, le=4096), Help("Height and width of the network's input in pixels.", panel=DATA)
    ] = 224
    phantom_cases: Annotated[
        int, Ge(6), Help("Without --data: number of phantoms of each grade.", panel=DATA, without="data")
    ] = 12


@dataclass(frozen=True, kw_only=True)
class PartOptions:
    """Which patients train, validate and test."""

    split: Annotated[
        Path | None,
        Help("Split file of 'metaseg data split'; by default 70, 15 and 15 % of the patients by class.", panel=DATA),
    ] = None
    train_part: Annotated[str, Help("Part of --split to train on.", panel=DATA, needs="split")] = "train"
    val_part: Annotated[str, Help("Part of --split to validate on.", panel=DATA, needs="split")] = "val"
    test_part: Annotated[str, Help("Part of --split for the metrics.", panel=DATA, needs="split")] = "test"
    fold: Annotated[
        int | None,
        Ge(0),
        Help(
            "With a --split of folds: the fold to test on; the next one validates, all others train.",
            panel=DATA,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """Network and training of a slice classifier."""

    model: Annotated[
        str,
        Help(
            "alexnet, vgg16, resnet50, resnet101, mobilenetv2, efficientnet-b0, xception, lau-cnn, 2d-cnn, or any name "
            "of torchvision or timm.",
            panel=MODEL,
        ),
    ] = "mobilenetv2"
    weights: Annotated[
        str, Help("none, imagenet, a weights file, or the run of another classifier.", panel=MODEL, path=True)
    ] = "none"
    head: Annotated[
        Literal["linear", "dense"],
        Help("One linear layer, or dense, ReLU, batch norm, dropout 0.1, dense (Al-Janabi).", panel=MODEL),
    ] = "linear"
    optimizer: Annotated[Literal["adam", "adamw", "sgd"], Help("Optimiser.", panel=TRAIN)] = "adam"
    momentum: Annotated[float, Interval(ge=0.0, lt=1.0), Help("Of SGD.", panel=TRAIN)] = 0.9
    learning_rate: Annotated[float, Gt(0), Help("First learning rate of the base.", panel=TRAIN)] = 3e-4
    head_factor: Annotated[
        float, Gt(0), Help("The head's learning rate, as a multiple of the base's.", panel=TRAIN)
    ] = 1.0
    bias_factor: Annotated[
        float, Gt(0), Help("The biases' learning rate, as a multiple of the weights' (2 in Zhou 2017).", panel=TRAIN)
    ] = 1.0
    weight_decay: Annotated[float, Ge(0), Help("Decoupled for AdamW, L2 otherwise.", panel=TRAIN)] = 1e-4
    schedule: Annotated[
        Literal["constant", "cosine", "poly", "exponential"], Help("Decay of the learning rate.", panel=TRAIN)
    ] = "constant"
    gamma: Annotated[
        float, Interval(gt=0.0, le=1.0), Help("Factor of the exponential decay, an epoch.", panel=TRAIN)
    ] = 0.95
    batch_size: Annotated[int, Ge(1), Help("Slices of one step.", panel=TRAIN)] = 16
    epochs: Annotated[int, Ge(1), Help("Passes over the training slices.", panel=TRAIN)] = 30
    balance: Annotated[
        bool, Help("Draw all classes equally often, instead of passing over the slices as they are.", panel=TRAIN)
    ] = False
    augment: Annotated[
        Literal["full", "light", "none"],
        Help("Strength of augmentation; it only ever touches the training part.", panel=TRAIN),
    ] = "light"
    monitor: Annotated[
        Monitors, Help("Metric on the validation part by which the best weights are chosen.", panel=TRAIN)
    ] = "auc"
    clip_norm: Annotated[float, Ge(0), Help("Largest gradient norm; 0 switches clipping off.", panel=TRAIN)] = 12.0


@dataclass(frozen=True, kw_only=True)
class ClassifyTrainConfig(RunOptions, TeamOptions, SliceOptions, PartOptions, FitOptions):
    """``metaseg classify train``: fit a slice classifier."""

    strategy: Annotated[
        Strategies,
        Help(
            "freeze the base, finetune all, gradual-unfreeze block after block, from scratch, or auto, which chooses "
            "by the data (Al-Janabi) and says why.",
            panel=TRANSFER,
        ),
    ] = "auto"
    unfreeze_target: Annotated[
        float,
        Interval(gt=0.0, le=1.0),
        Help(
            "gradual-unfreeze: --monitor on the validation part from which no more blocks are let go.", panel=TRANSFER
        ),
    ] = 0.9
    unfreeze_epochs: Annotated[
        int, Ge(1), Help("gradual-unfreeze: epochs with each number of blocks.", panel=TRANSFER)
    ] = 5
    validate_every: Annotated[
        int, Ge(1), Help("Epochs between validations; large networks take long to save.", panel=TRAIN)
    ] = 1
    patience: Annotated[
        int, Ge(0), Help("Validations without a better metric before stopping; 0 never stops early.", panel=TRAIN)
    ] = 0
    test: Annotated[bool, Help("Evaluate the best weights on the test part at the end.", panel=RUN)] = True


@dataclass(frozen=True, kw_only=True)
class ClassifyActiveConfig(RunOptions, SliceOptions, PartOptions, FitOptions):
    """``metaseg classify active``: which slices to label next, round after round."""

    strategy: Annotated[
        Acquisitions,
        Help("How slices are chosen; 'docs/sampling.md' describes each.", panel=ACTIVE),
    ] = "aift"
    transfer: Annotated[
        Literal["finetune", "freeze", "scratch"],
        Help("What is trained: all layers, the head alone, or all from random weights.", panel=TRANSFER),
    ] = "finetune"
    initial: Annotated[
        float,
        Ge(0),
        Help("Slices labelled by chance before the first choice: a number, or a share below 1.", panel=ACTIVE),
    ] = 0.0
    batch: Annotated[
        float, Gt(0), Help("Slices labelled in each round: a number, or a share below 1.", panel=ACTIVE)
    ] = 20.0
    budget: Annotated[
        float, Gt(0), Help("Labels in all: a number, or a share up to 1 of the training part.", panel=ACTIVE)
    ] = 200.0
    rounds: Annotated[int | None, Ge(1), Help("Rounds at most, the labels by chance among them.", panel=ACTIVE)] = None
    stop_at: Annotated[
        float | None,
        Interval(gt=0.0, le=1.0),
        Help("Stop as soon as --monitor on the validation part reaches this.", panel=ACTIVE),
    ] = None
    fit: Annotated[
        Literal["continue", "reset"],
        Help("Each round: fine-tune the network of the round before, or begin anew.", panel=ACTIVE),
    ] = "continue"
    fit_on: Annotated[
        Literal["labelled", "chosen"],
        Help("Each round: train on all that is labelled, or on what was chosen in it (Hao 2021).", panel=ACTIVE),
    ] = "labelled"
    keep: Annotated[
        Literal["last", "best"],
        Help("Weights of a round: those at its end, or the best by --monitor on the validation part.", panel=ACTIVE),
    ] = "last"
    later_epochs: Annotated[
        int | None, Ge(1), Help("Epochs of the rounds after the first; by default as many.", panel=ACTIVE)
    ] = None
    later_head_factor: Annotated[
        float | None, Gt(0), Help("--head-factor of the rounds after the first; by default the same.", panel=ACTIVE)
    ] = None
    rank: Annotated[
        Literal["pool", "all"],
        Help("Rank the unlabelled slices, or all, so that labelled ones can be chosen again at no cost.", panel=ACTIVE),
    ] = "pool"
    drop_top: Annotated[
        float, Interval(ge=0.0, lt=1.0), Help("Share of the ranking left out at its top (Hao 2021: 0.1).", panel=ACTIVE)
    ] = 0.0
    drop_bottom: Annotated[
        float, Interval(ge=0.0, lt=1.0), Help("Share of the ranking left out at its end.", panel=ACTIVE)
    ] = 0.0
    draw: Annotated[
        Literal["top", "random"],
        Help("Take the first of what is left of the ranking, or draw from it by chance.", panel=ACTIVE),
    ] = "top"
    patches: Annotated[
        int, Ge(2), Help("aift: patches that each slice is augmented to; the first is the slice itself.", panel=ACTIVE)
    ] = 12
    patch_share: Annotated[
        float, Interval(gt=0.0, le=1.0), Help("aift: share of them that is kept by majority selection.", panel=ACTIVE)
    ] = 0.25
    lambda_entropy: Annotated[float, Ge(0), Help("aift: weight of the entropy.", panel=ACTIVE)] = 1.0
    lambda_diversity: Annotated[float, Ge(0), Help("aift: weight of the diversity.", panel=ACTIVE)] = 1.0
    committee_rates: Annotated[
        tuple[Annotated[float, Gt(0)], Annotated[float, Gt(0)], Annotated[float, Gt(0)]],
        Help("committee: learning rates of its three members.", panel=ACTIVE),
    ] = (1e-3, 5e-4, 1e-4)
    dropout_passes: Annotated[int, Ge(2), Help("bald: passes with dropout.", panel=ACTIVE)] = 10
    ask: Annotated[
        Path | None,
        Help(
            "CSV that an annotator fills: the slices wanted are written there, and the run goes on with --resume when "
            "the labels are there. Without it labels come from the data set.",
            panel=ACTIVE,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class ClassifyEvaluateConfig(PatientOptions):
    """``metaseg classify evaluate``: metrics of a classifier, by slice and by patient."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    run: Annotated[str, Help("Run folder or checkpoint of a classifier.", argument=True, path=True)] = ""
    checkpoint: Annotated[Literal["best", "last"], Help("Which weights of the run.")] = "best"
    data: Annotated[
        Paths, Help("Cases or classified images; by default the test part of the data of the run.", panel=DATA)
    ] = ()
    format: Annotated[Formats, Help("Naming convention of the files.", panel=DATA)] = "auto"
    label: Annotated[str | None, Help("What the class of a case is; by default as for the run.", panel=DATA)] = None
    case_table: Annotated[Path | None, Help("CSV with the column named by --label.", panel=DATA)] = None
    split: Annotated[Path | None, Help("Split file; with --part, evaluate that part only.", panel=DATA)] = None
    part: Annotated[str | None, Help("Part of --split.", panel=DATA)] = None
    include_training: Annotated[
        bool, Help("Evaluate the patients the classifier was trained on as well.", panel=DATA)
    ] = False
    out: Annotated[
        Path | None, Help("Folder to write; evaluation/ in the run if not given.", panel=OUT, free=ONLY_PLACE)
    ] = None
    pictures: Annotated[
        int, Ge(0), Help("Grad-CAM pictures to write, worst mistakes first.", panel=OUT, free=SAME_RESULTS)
    ] = 8
    resamples: Annotated[int, Ge(100), Help("Resamples of the bootstrap.")] = 1000
    overwrite: Annotated[
        bool, Help("Replace the metrics of another evaluation in --out.", panel=OUT, free=ONLY_START)
    ] = False
    device: Annotated[str, Help("auto, cpu, cuda, cuda:N or mps.", panel=RUN)] = "auto"
    precision: Annotated[Precision, Help("Number format.", panel=RUN)] = "32-true"
    seed: Annotated[int, Ge(0), Help("Seed of the bootstrap.", panel=RUN)] = 0
    jobs: Annotated[
        int, Ge(0), Help("Threads that prepare cases; 0 takes one a core.", panel=RUN, free=SAME_RESULTS)
    ] = 0
    cache: Annotated[Path | None, Help("Folder of prepared cases and phantoms.", panel=RUN, free=ONLY_PLACE)] = None


@dataclass(frozen=True, kw_only=True)
class ClassifyPredictConfig:
    """``metaseg classify predict``: class probabilities of slices and verdicts on cases."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    run: Annotated[str, Help("Run folder or checkpoint of a classifier.", argument=True, path=True)] = ""
    cases: Annotated[Paths, MinLen(1), Help("Case folders, folders of cases, or image files.", argument=True)] = ()
    out: Annotated[Path, Help("Folder to write.", panel=OUT, free=ONLY_PLACE)] = Path("predictions")
    checkpoint: Annotated[Literal["best", "last"], Help("Which weights of the run.")] = "best"
    format: Annotated[Formats, Help("Naming convention of the files.", panel=DATA)] = "auto"
    slices: Annotated[
        Literal["brain", "tumour"],
        Help("Slices of a volume that have a say: all with enough brain, or those where a label shows tumour."),
    ] = "brain"
    pictures: Annotated[int, Ge(0), Help("Grad-CAM pictures of each case.", panel=OUT, free=SAME_RESULTS)] = 3
    overwrite: Annotated[bool, Help("Replace existing files.", panel=OUT, free=ONLY_START)] = False
    device: Annotated[str, Help("auto, cpu, cuda, cuda:N or mps.", panel=RUN)] = "auto"
    precision: Annotated[Precision, Help("Number format.", panel=RUN)] = "32-true"
    jobs: Annotated[
        int, Ge(0), Help("Threads that prepare cases; 0 takes one a core.", panel=RUN, free=SAME_RESULTS)
    ] = 0
    cache: Annotated[Path | None, Help("Folder of prepared cases.", panel=RUN, free=ONLY_PLACE)] = None
