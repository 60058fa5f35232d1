"""The settings of every verb: one dataclass each, read alike by the command line, YAML files and the Python API.

Only the standard library is imported here, so that ``--help`` answers at once. A field's name is the option's name
(``inner_steps`` is ``--inner-steps``) and the key in a YAML file; its help text and limits stand beside its type.
``metaseg.config.io`` validates values with pydantic and reads and writes YAML.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Interval

from metaseg.config.options import (
    ADAPT,
    DATA,
    LEAVE_ONE_OUT,
    METHOD,
    MODEL,
    ONLY_PLACE,
    OUT,
    RUN,
    SAME_RESULTS,
    TRAIN,
    AboveZero,
    Augmentation,
    BelowOne,
    CacheSize,
    Choice,
    ClipNorm,
    Count,
    DataOptions,
    DiseaseOptions,
    EvaluationOptions,
    FirstMarks,
    Folds,
    Fraction,
    Loss,
    MissingOptions,
    Names,
    NotNegative,
    Paths,
    Positive,
    PredictionOptions,
    ProcessOptions,
    RunOptions,
    Settings,
    Shots,
    SkipOptions,
    Whole,
    option,
)

Schedule = Literal["constant", "cosine", "poly"]
Effort = Literal["none", "quick", "normal", "thorough"]
_EFFORT = (
    "Work spent on choosing those settings that are not given, by folds over the shots and validation patients of the "
    "source: none takes the defaults."
)

SEGMENTERS = Choice("unet basic-unet dynunet segresnet monai-fcn fcn-vgg16", "metaseg.segmenters", "MODULE:FACTORY")
ORDERS = Choice(
    "active passive random reverse unlearned-only learned-only hardest easiest sequential entropy foreground-random "
    "oracle adaptive",
    "metaseg.orders",
)
_PLAIN = "naive head-only freeze-encoder l2-sp ewc lwf replay lora rehearse wise-ft scratch"
_META = "maml fomaml anil reptile meta-sgd"
PLAIN_METHODS = Choice(_PLAIN, "metaseg.methods", elsewhere=_META)
META_METHODS = Choice(_META, "metaseg.methods", elsewhere=_PLAIN)


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(RunOptions, ProcessOptions, DataOptions, MissingOptions):
    """``metaseg pretrain``: train a segmentation network on a source disease."""

    train_part: str = option("train", "Part of --split to train on.", DATA, needs="split")
    val_part: str = option("val", "Part of --split to validate on.", DATA, needs="split")
    fold: Whole | None = option(None, "With a --split of folds: the fold to validate on.", DATA)
    val_fraction: BelowOne = option(
        0.1,
        "Without --split: fraction of the patients kept for validation (0: none, the last weights are the best).",
        DATA,
        earlier=("val_share",),
    )
    model: Annotated[str, SEGMENTERS] = option("unet", "The network.", MODEL, common=True)
    model_options: Settings = option(
        {}, "Options of the network as JSON, such as '{\"channels\": [16, 32, 64]}'.", MODEL
    )
    weights: str = option(
        "none",
        "none, imagenet (where the backbone has it), a weights file, or another run.",
        MODEL,
        common=True,
        path=True,
    )
    epochs: Count | None = option(
        None, "Epochs; all rates follow from this length. Default: 200, or 30 on phantoms.", TRAIN, common=True
    )
    slices_per_epoch: Count = option(300, "Slices drawn for one epoch.", TRAIN)
    batch_size: Count = option(8, "Slices of one step.", TRAIN, common=True)
    foreground_fraction: Fraction = option(
        0.67, "Fraction of slices drawn for their tumour classes.", TRAIN, earlier=("foreground_share",)
    )
    optimizer: Literal["adamw", "sgd"] = option("adamw", "SGD has Nesterov momentum 0.99.", TRAIN)
    learning_rate: Positive = option(1e-3, "First learning rate.", TRAIN, common=True)
    weight_decay: NotNegative = option(1e-2, "Decoupled for AdamW, L2 for SGD.", TRAIN)
    schedule: Literal["poly", "cosine", "constant"] = option("poly", "Decay of the learning rate.", TRAIN)
    warmup_steps: Whole = option(50, "Steps over which the learning rate rises.", TRAIN)
    clip_norm: ClipNorm = 12.0
    ema: BelowOne = option(0.998, "Decay of the averaged weights that are kept; 0 switches it off.", TRAIN)
    loss: Loss = "dice-ce"
    recall_weight: Fraction = option(
        0.7, "Weight of missed against false pixels in the Dice term; 0.5 is plain Dice.", TRAIN
    )
    augment: Augmentation = option("full", "Strength of augmentation.", TRAIN)
    window: tuple[Annotated[int, Ge(16)], Annotated[int, Ge(16)]] | None = option(
        None, "Height,width to which training slices are cropped or padded; by default the data's median.", TRAIN
    )
    validate_every: Count = option(10, "Epochs between validations on whole patients.", TRAIN)
    patience: Whole = option(0, "Validations without a better metric before stopping; 0 never stops early.", TRAIN)
    phantom_cases: Annotated[int, Ge(2)] = option(16, "Without --data: number of phantoms.", DATA, without="data")
    cache_gb: CacheSize = 0.5


@dataclass(frozen=True, kw_only=True)
class AdaptOptions(RunOptions, ProcessOptions, DataOptions, MissingOptions):
    """What all adaptation methods share: which patients, which slices, how much work."""

    from_run: str | None = option(
        None,
        "Pretrained run or checkpoint; needed with --data. On phantoms, by default the newest pretraining under "
        "runs/, or one made now.",
        ADAPT,
        common=True,
        option="--from",
        path=True,
    )
    data: Paths = option(
        (),
        "Cases of the target disease: folders, tables of cases or prepared stores. Default: synthetic phantoms.",
        DATA,
        common=True,
    )
    source: Paths = option(
        (),
        "Cases of the source disease. Patients that the network was trained on are rehearsed by the methods that "
        "rehearse; the others are watched.",
        DATA,
        common=True,
    )
    source_classes: Names = option((), "As --classes, for --source.", DATA)
    source_split: Path | None = option(
        None, "Split file of the source's patients, where --split is of the target's alone.", DATA, later=True
    )
    train_part: str = option("train", "Part of --split from which the shots are drawn.", DATA, needs="split")
    test_part: str = option("test", "Part of --split and --source-split that is watched.", DATA, needs="split")
    shots: Shots = option(
        5,
        "Target patients whose labels are used; all takes every one, of part --train-part where there is a --split.",
        ADAPT,
        common=True,
    )
    slices: Annotated[int, Ge(2)] = option(25, "Tumour-bearing slices used of each of them.", ADAPT, common=True)
    folds: Folds | None = option(
        None,
        "Cross-validate over the shots: for each fold a network is tuned without its patients and judged by them, then "
        "the network of the run on all shots. --folds alone leaves one patient out in turn.",
        ADAPT,
        common=True,
        later=True,
        alone=LEAVE_ONE_OUT,
    )
    budget: Count = option(4800, "Work to spend, in slice gradient evaluations.", ADAPT, common=True)
    effort: Effort | None = option("none", _EFFORT, ADAPT, later=True)
    forget_at_most: Fraction = option(
        0.05,
        "The choice takes the highest target Dice among settings that forget no more of the source's Dice.",
        ADAPT,
        later=True,
    )
    balance: bool = option(
        False,
        "The choice takes the highest mean of target and source Dice instead.",
        ADAPT,
        later=True,
    )
    val_part: str = option(
        "val",
        "Part of the source's split whose patients tell the choice what is forgotten; without a split those that "
        "validated the pretraining do.",
        DATA,
        later=True,
    )
    loss: Loss = option("dice-ce", "Loss; see the loss of pretrain.", ADAPT, later=True)
    recall_weight: Fraction | None = option(
        None, "Weight of missed against false pixels in the Dice term, 0.5 is plain Dice; by default 0.7.", ADAPT
    )
    augment: Augmentation | None = option(
        None, "Strength of augmentation of the slices that are tuned on; by default none, or the method's.", ADAPT
    )
    interpolation: AboveZero | None = option(
        None,
        "Fraction of the way from the pretrained to the tuned weights that is kept (WiSE-FT); by default all of "
        "it, or the method's.",
        ADAPT,
    )
    ema: BelowOne | None = option(
        None, "Decay of averaged weights that are kept; by default 0, which keeps the last, or the method's.", ADAPT
    )
    watch_cases: Whole = option(8, "Cases of each domain that are evaluated while tuning; 0 takes all.", ADAPT)
    marks: Count = option(4, "Evaluations while tuning, evenly over the budget.", ADAPT)
    first_marks: FirstMarks = 0
    gate: bool = option(
        True,
        "Fit the gate of --as auto at the end, where source training cases are at hand.",
        ADAPT,
        later=True,
        free=SAME_RESULTS,
    )
    pictures: bool = option(
        True,
        "Draw overlays and the progress plot at every mark; small runs spend most time on them.",
        RUN,
        free=SAME_RESULTS,
    )
    clip_norm: NotNegative = option(12.0, "Largest gradient norm; 0 switches clipping off.", ADAPT)
    phantom_cases: Annotated[int, Ge(2)] = option(12, "Without --data: number of phantoms.", DATA, without="data")
    cache_gb: CacheSize = 0.5


@dataclass(frozen=True, kw_only=True)
class MetatuneConfig(AdaptOptions):
    """``metaseg metatune``: MAML adaptation to a new disease (Han et al. 2018)."""

    method: Annotated[str, META_METHODS] = option(
        "maml", "Meta-learning method; 'metaseg methods' describes them.", ADAPT, common=True
    )
    order: Annotated[str, ORDERS] = option("active", "Order in which slices become tasks.", ADAPT, common=True)
    threshold: str = option(
        "median", "Dice that parts learned from unlearned slices: median, otsu, rank or a number.", ADAPT
    )
    inner_steps: Count = option(1, "Steps of the inner loop.", ADAPT, common=True)
    inner_learning_rate: Positive = option(0.01, "Alpha of the inner loop.", ADAPT)
    outer_learning_rate: Positive | None = option(None, "Beta of the outer loop; by default 3e-4.", ADAPT)
    outer_optimizer: Literal["adam", "sgd"] = option("adam", "Optimiser of the outer loop.", ADAPT)
    first_order: bool = option(False, "Drop the second derivative (first-order MAML).", ADAPT, common=True)
    meta_batch: Literal["pairs", "patient"] = option(
        "pairs",
        "Tasks of one meta-update: pairs, the next --tasks-per-step of either side; patient, all of the patient.",
        ADAPT,
        later=True,
    )
    tasks_per_step: Count = option(1, "Learned tasks, and unlearned tasks, of one meta-step.", ADAPT)
    rescore_every: Whole = option(0, "Meta-steps between new scores inside a case; 0: once a visit to the case.", ADAPT)
    rescore_tolerance: NotNegative = option(
        0.0, "Relative change of the parameters up to which a case's scores are used again; 0: never.", ADAPT
    )
    support_size: Annotated[int, Interval(ge=1, le=10000)] = option(
        1, "Slices of a task's inner loop; 1 in the paper.", ADAPT
    )
    query_size: Annotated[int, Interval(ge=1, le=10000)] = option(
        1, "Slices of a task's outer loop; 1 in the paper.", ADAPT
    )
    replay: Literal["none", "learned", "added"] = option(
        "none", "Source slices as tasks: none, in place of the learned task, or one more task a step.", ADAPT
    )
    multi_step_loss: bool = option(False, "MAML++: the outer loss after every inner step, not the last alone.", ADAPT)
    first_order_fraction: Fraction = option(
        0.0,
        "MAML++: fraction of the budget, from the start, without the second derivative.",
        ADAPT,
        earlier=("first_order_share",),
    )
    learnable_inner_rates: bool = option(
        False, "MAML++: learn an inner rate for every layer and inner step.", ADAPT, earlier=("learned_inner_rates",)
    )
    oracle: str | None = option(
        None, "For --order oracle: run that knows the target; its Dice is the true difficulty.", ADAPT, path=True
    )
    outer_schedule: Schedule = option("constant", "Decay of the outer learning rate.", ADAPT)
    engine: Literal["auto", "learn2learn", "functional", "batched"] = option(
        "auto", "Who computes the meta-gradient; auto takes the quickest for network and device.", ADAPT
    )
    verify_engine: bool = option(
        True,
        "Compare the gradient of the first meta-step with learn2learn's, where it is installed.",
        ADAPT,
        later=True,
        free=SAME_RESULTS,
    )


@dataclass(frozen=True, kw_only=True)
class NaivetuneConfig(AdaptOptions):
    """``metaseg naivetune``: fine-tuning on class-balanced slices, plain or guarded against forgetting."""

    method: Annotated[str, PLAIN_METHODS] = option(
        "naive", "Method; 'metaseg methods' describes them.", ADAPT, common=True
    )
    batch_size: Count = option(4, "Slices of one step.", ADAPT)
    optimizer: Literal["adam", "sgd"] = option("adam", "Optimiser.", ADAPT)
    learning_rate: Positive | None = option(
        None, "Learning rate; by default 3e-4, or the method's.", ADAPT, common=True
    )
    schedule: Schedule | None = option(None, "Decay of the learning rate; by default constant, or the method's.", ADAPT)
    l2_sp_alpha: NotNegative = option(0.01, "l2-sp: weight of the distance to the pretrained weights.", METHOD)
    l2_sp_beta: NotNegative = option(0.01, "l2-sp: weight decay of the head.", METHOD)
    ewc_lambda: NotNegative = option(100.0, "ewc: weight of the Fisher-weighted distance.", METHOD)
    fisher_slices: Count = option(64, "ewc: source slices that the Fisher is measured on.", METHOD)
    lwf_lambda: NotNegative = option(1.0, "lwf: weight of the distillation.", METHOD)
    lwf_temperature: Positive = option(2.0, "lwf: temperature of the distillation.", METHOD)
    replay_fraction: BelowOne | None = option(
        None,
        "replay and rehearse: fraction of source slices in the batches; by default 0.25.",
        METHOD,
        earlier=("replay_share",),
    )
    replay_weight: NotNegative | None = option(
        None, "rehearse: weight of the loss on source slices, beside their fraction; by default 0.7.", METHOD
    )
    replay_recall_weight: Fraction = option(
        0.7, "rehearse: --recall-weight of the loss on source slices.", METHOD, later=True
    )
    transplant_fraction: Fraction = option(
        0.4,
        "rehearse: fraction of the source slices into which a target lesion is pasted.",
        METHOD,
        earlier=("transplant_share",),
    )
    lora_rank: Annotated[int, Interval(ge=1, le=4096)] = option(4, "lora: rank of the adapters.", METHOD)


@dataclass(frozen=True, kw_only=True)
class TuneConfig(NaivetuneConfig):
    """``metaseg tune``: adaptation by the recommended method, which rehearses the source."""

    method: Annotated[str, PLAIN_METHODS] = option(
        "rehearse", "Method; 'metaseg methods' describes them.", ADAPT, common=True
    )
    effort: Effort | None = option(None, _EFFORT + " By default normal.", ADAPT, common=True, later=True)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(DiseaseOptions, EvaluationOptions, ProcessOptions, DataOptions, SkipOptions):
    """``metaseg evaluate``: whole-patient metrics of a network on one or more cohorts."""

    parent: str | None = option(
        None,
        "Network before tuning, for the forgetting; by default the one the run was tuned from.",
        common=True,
        path=True,
    )
    data: Paths = option(
        (),
        "Labelled cases: folders, tables of cases or prepared stores. By default those that the run names in its "
        "settings, or phantoms for a network of phantoms.",
        DATA,
        common=True,
    )
    labels: Literal["subregions", "whole-lesion"] | None = option(
        None, "Classes to compare; by default the network's. whole-lesion unites all tumour classes.", DATA
    )
    tta: bool = option(True, "Average over flips.", common=True)
    surface: bool = option(True, "Compute HD95 and lesion-wise metrics too.", common=True)
    out: Path | None = option(
        None,
        "Folder for metrics.csv and metrics.json; evaluation/ in the run if not given.",
        OUT,
        common=True,
        free=ONLY_PLACE,
    )
    pictures: Whole = option(4, "Overlay pictures to write, worst cases first.", OUT, free=SAME_RESULTS)
    phantom_cases: Annotated[int, Ge(2)] = option(
        12, "Without --data, of a network of phantoms: how many of each cohort.", DATA, without="data"
    )


@dataclass(frozen=True, kw_only=True)
class PredictConfig(DiseaseOptions, PredictionOptions, ProcessOptions, SkipOptions):
    """``metaseg predict``: segment cases and write NIfTI files on their own grid."""

    label_scheme: str | None = option(
        None,
        "Values to write: brats (ET is 4), brats2023 (ET is 3), brats-ped, msd-brats, or spelled out, such as "
        "1=NCR,2=ED,3=ET; by default the input's own.",
        OUT,
    )
    probabilities: bool = option(False, "Write class probabilities too (4-D float NIfTI).", OUT, common=True)
    pictures: bool = option(True, "Write an overlay and a heat map of each case.", OUT, common=True, free=SAME_RESULTS)
    tta: bool = option(True, "Average over flips.", common=True)
