"""The settings of every verb: one dataclass each, read alike by the command line, YAML files and the Python API.

Only the standard library is imported here, so that ``--help`` answers at once. A field's name is the option's name
(``inner_steps`` is ``--inner-steps``) and the key in a YAML file; its help text and limits stand beside its type.
``metaseg.config.io`` validates values with pydantic and reads and writes YAML.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Interval

from metaseg.config.options import (
    ADAPT,
    DATA,
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
    EvaluationOptions,
    Fraction,
    Help,
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
    SkipOptions,
    Whole,
)

Schedule = Literal["constant", "cosine", "poly"]

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

    train_part: Annotated[str, Help("Part of --split to train on.", DATA, needs="split")] = "train"
    val_part: Annotated[str, Help("Part of --split to validate on.", DATA, needs="split")] = "val"
    fold: Annotated[Whole | None, Help("With a --split of folds: the fold to validate on.", DATA)] = None
    val_fraction: Annotated[
        BelowOne,
        Help(
            "Without --split: fraction of the patients kept for validation (0: none, the last weights are the best).",
            DATA,
            earlier=("val_share",),
        ),
    ] = 0.1
    model: Annotated[str, SEGMENTERS, Help("The network.", MODEL, common=True)] = "unet"
    model_options: Annotated[
        Settings, Help("Options of the network as JSON, such as '{\"channels\": [16, 32, 64]}'.", MODEL)
    ] = field(default_factory=dict)
    weights: Annotated[
        str,
        Help(
            "none, imagenet (where the backbone has it), a weights file, or another run.", MODEL, common=True, path=True
        ),
    ] = "none"
    epochs: Annotated[
        Count | None,
        Help("Epochs; all rates follow from this length. Default: 200, or 30 on phantoms.", TRAIN, common=True),
    ] = None
    slices_per_epoch: Annotated[Count, Help("Slices drawn for one epoch.", TRAIN)] = 300
    batch_size: Annotated[Count, Help("Slices of one step.", TRAIN, common=True)] = 8
    foreground_fraction: Annotated[
        Fraction, Help("Fraction of slices drawn for their tumour classes.", TRAIN, earlier=("foreground_share",))
    ] = 0.67
    optimizer: Annotated[Literal["adamw", "sgd"], Help("SGD has Nesterov momentum 0.99.", TRAIN)] = "adamw"
    learning_rate: Annotated[Positive, Help("First learning rate.", TRAIN, common=True)] = 1e-3
    weight_decay: Annotated[NotNegative, Help("Decoupled for AdamW, L2 for SGD.", TRAIN)] = 1e-2
    schedule: Annotated[Literal["poly", "cosine", "constant"], Help("Decay of the learning rate.", TRAIN)] = "poly"
    warmup_steps: Annotated[Whole, Help("Steps over which the learning rate rises.", TRAIN)] = 50
    clip_norm: ClipNorm = 12.0
    ema: Annotated[BelowOne, Help("Decay of the averaged weights that are kept; 0 switches it off.", TRAIN)] = 0.998
    loss: Loss = "dice-ce"
    recall_weight: Annotated[
        Fraction, Help("Weight of missed against false pixels in the Dice term; 0.5 is plain Dice.", TRAIN)
    ] = 0.7
    augment: Annotated[Augmentation, Help("Strength of augmentation.", TRAIN)] = "full"
    window: Annotated[
        tuple[Annotated[int, Ge(16)], Annotated[int, Ge(16)]] | None,
        Help("Height,width to which training slices are cropped or padded; by default the data's median.", TRAIN),
    ] = None
    validate_every: Annotated[Count, Help("Epochs between validations on whole patients.", TRAIN)] = 10
    patience: Annotated[
        Whole, Help("Validations without a better metric before stopping; 0 never stops early.", TRAIN)
    ] = 0
    phantom_cases: Annotated[int, Ge(2), Help("Without --data: number of phantoms.", DATA, without="data")] = 16
    cache_gb: CacheSize = 0.5


@dataclass(frozen=True, kw_only=True)
class AdaptOptions(RunOptions, ProcessOptions, DataOptions, MissingOptions):
    """What all adaptation methods share: which patients, which slices, how much work."""

    from_run: Annotated[
        str | None,
        Help(
            "Pretrained run or checkpoint; needed with --data. On phantoms, by default the newest pretraining under "
            "runs/, or one made now.",
            ADAPT,
            common=True,
            option="--from",
            path=True,
        ),
    ] = None
    data: Annotated[
        Paths,
        Help(
            "Cases of the target disease: folders, tables of cases or prepared stores. Default: synthetic phantoms.",
            DATA,
            common=True,
        ),
    ] = ()
    source: Annotated[
        Paths,
        Help(
            "Cases of the source disease. Patients that the network was trained on are rehearsed by the methods that "
            "rehearse; the others are watched.",
            DATA,
            common=True,
        ),
    ] = ()
    source_classes: Annotated[Names, Help("As --classes, for --source.", DATA)] = ()
    train_part: Annotated[str, Help("Part of --split from which the shots are drawn.", DATA, needs="split")] = "train"
    test_part: Annotated[str, Help("Part of --split that is watched.", DATA, needs="split")] = "test"
    shots: Annotated[Count, Help("Target patients whose labels are used.", ADAPT, common=True)] = 5
    slices: Annotated[int, Ge(2), Help("Tumour-bearing slices used of each of them.", ADAPT, common=True)] = 25
    budget: Annotated[Count, Help("Work to spend, in slice gradient evaluations.", ADAPT, common=True)] = 600
    loss: Annotated[Loss, Help("Loss; see the loss of pretrain.", ADAPT, later=True)] = "dice-ce"
    recall_weight: Annotated[
        Fraction, Help("Weight of missed against false pixels in the Dice term; 0.5 is plain Dice.", ADAPT)
    ] = 0.7
    augment: Annotated[
        Augmentation | None,
        Help("Strength of augmentation of the slices that are tuned on; by default none, or the method's.", ADAPT),
    ] = None
    interpolation: Annotated[
        AboveZero | None,
        Help(
            "Fraction of the way from the pretrained to the tuned weights that is kept (WiSE-FT); by default all of "
            "it, or the method's.",
            ADAPT,
        ),
    ] = None
    ema: Annotated[
        BelowOne | None,
        Help("Decay of averaged weights that are kept; by default 0, which keeps the last, or the method's.", ADAPT),
    ] = None
    watch_cases: Annotated[Whole, Help("Cases of each domain that are evaluated while tuning; 0 takes all.", ADAPT)] = 8
    marks: Annotated[Count, Help("Evaluations while tuning, evenly over the budget.", ADAPT)] = 4
    pictures: Annotated[
        bool,
        Help(
            "Draw overlays and the progress plot at every mark; small runs spend most time on them.",
            RUN,
            free=SAME_RESULTS,
        ),
    ] = True
    clip_norm: Annotated[NotNegative, Help("Largest gradient norm; 0 switches clipping off.", ADAPT)] = 12.0
    phantom_cases: Annotated[int, Ge(2), Help("Without --data: number of phantoms.", DATA, without="data")] = 12
    cache_gb: CacheSize = 0.5


@dataclass(frozen=True, kw_only=True)
class MetatuneConfig(AdaptOptions):
    """``metaseg metatune``: MAML adaptation to a new disease (Han et al. 2018)."""

    method: Annotated[
        str, META_METHODS, Help("Meta-learning method; 'metaseg methods' describes them.", ADAPT, common=True)
    ] = "maml"
    order: Annotated[str, ORDERS, Help("Order in which slices become tasks.", ADAPT, common=True)] = "active"
    threshold: Annotated[
        str, Help("Dice that parts learned from unlearned slices: median, otsu or a number.", ADAPT)
    ] = "median"
    inner_steps: Annotated[Count, Help("Steps of the inner loop.", ADAPT, common=True)] = 1
    inner_learning_rate: Annotated[Positive, Help("Alpha of the inner loop.", ADAPT)] = 0.01
    outer_learning_rate: Annotated[Positive, Help("Beta of the outer loop.", ADAPT)] = 3e-4
    outer_optimizer: Annotated[Literal["adam", "sgd"], Help("Optimiser of the outer loop.", ADAPT)] = "adam"
    first_order: Annotated[bool, Help("Drop the second derivative (first-order MAML).", ADAPT, common=True)] = False
    tasks_per_step: Annotated[Count, Help("Learned tasks, and unlearned tasks, of one meta-step.", ADAPT)] = 1
    rescore_every: Annotated[
        Whole, Help("Meta-steps between new scores inside a case; 0: once a visit to the case.", ADAPT)
    ] = 0
    rescore_tolerance: Annotated[
        NotNegative,
        Help("Relative change of the parameters up to which a case's scores are used again; 0: never.", ADAPT),
    ] = 0.0
    support_size: Annotated[
        int, Interval(ge=1, le=10000), Help("Slices of a task's inner loop; 1 in the paper.", ADAPT)
    ] = 1
    query_size: Annotated[
        int, Interval(ge=1, le=10000), Help("Slices of a task's outer loop; 1 in the paper.", ADAPT)
    ] = 1
    replay: Annotated[
        Literal["none", "learned", "added"],
        Help("Source slices as tasks: none, in place of the learned task, or one more task a step.", ADAPT),
    ] = "none"
    multi_step_loss: Annotated[
        bool, Help("MAML++: the outer loss after every inner step, not the last alone.", ADAPT)
    ] = False
    first_order_fraction: Annotated[
        Fraction,
        Help(
            "MAML++: fraction of the budget, from the start, without the second derivative.",
            ADAPT,
            earlier=("first_order_share",),
        ),
    ] = 0.0
    learnable_inner_rates: Annotated[
        bool,
        Help("MAML++: learn an inner rate for every layer and inner step.", ADAPT, earlier=("learned_inner_rates",)),
    ] = False
    oracle: Annotated[
        str | None,
        Help("For --order oracle: run that knows the target; its Dice is the true difficulty.", ADAPT, path=True),
    ] = None
    outer_schedule: Annotated[Schedule, Help("Decay of the outer learning rate.", ADAPT)] = "constant"
    engine: Annotated[
        Literal["auto", "learn2learn", "functional", "batched"],
        Help("Who computes the meta-gradient; auto takes the quickest for network and device.", ADAPT),
    ] = "auto"


@dataclass(frozen=True, kw_only=True)
class NaivetuneConfig(AdaptOptions):
    """``metaseg naivetune``: fine-tuning on class-balanced slices, plain or guarded against forgetting."""

    method: Annotated[str, PLAIN_METHODS, Help("Method; 'metaseg methods' describes them.", ADAPT, common=True)] = (
        "naive"
    )
    batch_size: Annotated[Count, Help("Slices of one step.", ADAPT)] = 4
    optimizer: Annotated[Literal["adam", "sgd"], Help("Optimiser.", ADAPT)] = "adam"
    learning_rate: Annotated[
        Positive | None, Help("Learning rate; by default 3e-4, or the method's.", ADAPT, common=True)
    ] = None
    schedule: Annotated[
        Schedule | None, Help("Decay of the learning rate; by default constant, or the method's.", ADAPT)
    ] = None
    l2_sp_alpha: Annotated[NotNegative, Help("l2-sp: weight of the distance to the pretrained weights.", METHOD)] = 0.01
    l2_sp_beta: Annotated[NotNegative, Help("l2-sp: weight decay of the head.", METHOD)] = 0.01
    ewc_lambda: Annotated[NotNegative, Help("ewc: weight of the Fisher-weighted distance.", METHOD)] = 100.0
    fisher_slices: Annotated[Count, Help("ewc: source slices that the Fisher is measured on.", METHOD)] = 64
    lwf_lambda: Annotated[NotNegative, Help("lwf: weight of the distillation.", METHOD)] = 1.0
    lwf_temperature: Annotated[Positive, Help("lwf: temperature of the distillation.", METHOD)] = 2.0
    replay_fraction: Annotated[
        BelowOne,
        Help("replay and rehearse: fraction of source slices in the batches.", METHOD, earlier=("replay_share",)),
    ] = 0.25
    replay_weight: Annotated[
        NotNegative, Help("rehearse: weight of the loss on source slices, beside their fraction.", METHOD)
    ] = 0.7
    transplant_fraction: Annotated[
        Fraction,
        Help(
            "rehearse: fraction of the source slices into which a target lesion is pasted.",
            METHOD,
            earlier=("transplant_share",),
        ),
    ] = 0.4
    lora_rank: Annotated[int, Interval(ge=1, le=4096), Help("lora: rank of the adapters.", METHOD)] = 4


@dataclass(frozen=True, kw_only=True)
class TuneConfig(NaivetuneConfig):
    """``metaseg tune``: adaptation by the recommended method, which rehearses the source."""

    method: Annotated[str, PLAIN_METHODS, Help("Method; 'metaseg methods' describes them.", ADAPT, common=True)] = (
        "rehearse"
    )
    budget: Annotated[Count, Help("Work to spend, in slice gradient evaluations.", ADAPT, common=True)] = 1200


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(EvaluationOptions, ProcessOptions, DataOptions, SkipOptions):
    """``metaseg evaluate``: whole-patient metrics of a network on one or more cohorts."""

    parent: Annotated[
        str | None,
        Help(
            "Network before tuning, for the forgetting; by default the one the run was tuned from.",
            common=True,
            path=True,
        ),
    ] = None
    data: Annotated[
        Paths,
        Help(
            "Labelled cases: folders, tables of cases or prepared stores. By default those that the run names in its "
            "settings, or phantoms for a network of phantoms.",
            DATA,
            common=True,
        ),
    ] = ()
    labels: Annotated[
        Literal["subregions", "whole-lesion"] | None,
        Help("Classes to compare; by default the network's. whole-lesion unites all tumour classes.", DATA),
    ] = None
    tta: Annotated[bool, Help("Average over flips.", common=True)] = True
    surface: Annotated[bool, Help("Compute HD95 and lesion-wise metrics too.", common=True)] = True
    out: Annotated[
        Path | None,
        Help(
            "Folder for metrics.csv and metrics.json; evaluation/ in the run if not given.",
            OUT,
            common=True,
            free=ONLY_PLACE,
        ),
    ] = None
    pictures: Annotated[Whole, Help("Overlay pictures to write, worst cases first.", OUT, free=SAME_RESULTS)] = 4
    phantom_cases: Annotated[
        int, Ge(2), Help("Without --data, of a network of phantoms: how many of each cohort.", DATA, without="data")
    ] = 12


@dataclass(frozen=True, kw_only=True)
class PredictConfig(PredictionOptions, ProcessOptions, SkipOptions):
    """``metaseg predict``: segment cases and write NIfTI files on their own grid."""

    label_scheme: Annotated[
        str | None,
        Help(
            "Values to write: brats (ET is 4), brats2023 (ET is 3), brats-ped, msd-brats, or spelled out, such as "
            "1=NCR,2=ED,3=ET; by default the input's own.",
            OUT,
        ),
    ] = None
    probabilities: Annotated[bool, Help("Write class probabilities too (4-D float NIfTI).", OUT, common=True)] = False
    pictures: Annotated[
        bool, Help("Write an overlay and a heat map of each case.", OUT, common=True, free=SAME_RESULTS)
    ] = True
    tta: Annotated[bool, Help("Average over flips.", common=True)] = True
