"""The settings of every verb: one dataclass each, read alike by the command line, YAML files and the Python API.

Only the standard library is imported here, so that ``--help`` answers at once. A field's name is the option's name
(``inner_steps`` is ``--inner-steps``) and the key in a YAML file; its help text and limits stand beside its type.
``metaseg.config.io`` validates values with pydantic and reads and writes YAML.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Interval, MinLen

from metaseg.config.options import (
    ADAPT,
    DATA,
    METHOD,
    MODEL,
    ONLY_PLACE,
    ONLY_START,
    OUT,
    RUN,
    SAME_RESULTS,
    TRAIN,
    DataOptions,
    Formats,
    Help,
    MissingOptions,
    Names,
    Paths,
    Precision,
    ProcessOptions,
    RunOptions,
    SkipOptions,
)


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(RunOptions, ProcessOptions, DataOptions, MissingOptions):
    """``metaseg pretrain``: train a segmentation network on a source disease."""

    train_part: Annotated[str, Help("Part of --split to train on.", panel=DATA, needs="split")] = "train"
    val_part: Annotated[str, Help("Part of --split to validate on.", panel=DATA, needs="split")] = "val"
    fold: Annotated[int | None, Ge(0), Help("With a --split of folds: the fold to validate on.", panel=DATA)] = None
    val_share: Annotated[
        float,
        Interval(ge=0.0, lt=1.0),
        Help(
            "Without --split: share of the patients kept for validation (0: none, the last weights are the best).",
            panel=DATA,
        ),
    ] = 0.1
    model: Annotated[str, Help("unet, basic-unet, dynunet, segresnet, monai-fcn or fcn-vgg16.", panel=MODEL)] = "unet"
    model_options: Annotated[
        dict[str, Any], Help("Options of the network as JSON, such as '{\"channels\": [16, 32, 64]}'.", panel=MODEL)
    ] = field(default_factory=dict)
    weights: Annotated[
        str, Help("none, imagenet (where the backbone has it) or a weights file.", panel=MODEL, path=True)
    ] = "none"
    epochs: Annotated[
        int | None,
        Ge(1),
        Help("Epochs; all rates follow from this length. Default: 200, or 30 on phantoms.", panel=TRAIN),
    ] = None
    slices_per_epoch: Annotated[int, Ge(1), Help("Slices drawn for one epoch.", panel=TRAIN)] = 300
    batch_size: Annotated[int, Ge(1), Help("Slices of one step.", panel=TRAIN)] = 8
    foreground_share: Annotated[
        float, Interval(ge=0.0, le=1.0), Help("Share of slices drawn for their tumour classes.", panel=TRAIN)
    ] = 0.67
    optimizer: Annotated[Literal["adamw", "sgd"], Help("SGD has Nesterov momentum 0.99.", panel=TRAIN)] = "adamw"
    learning_rate: Annotated[float, Gt(0), Help("First learning rate.", panel=TRAIN)] = 1e-3
    weight_decay: Annotated[float, Ge(0), Help("Decoupled for AdamW, L2 for SGD.", panel=TRAIN)] = 1e-2
    schedule: Annotated[Literal["poly", "cosine", "constant"], Help("Decay of the learning rate.", panel=TRAIN)] = (
        "poly"
    )
    warmup_steps: Annotated[int, Ge(0), Help("Steps over which the learning rate rises.", panel=TRAIN)] = 50
    clip_norm: Annotated[float, Ge(0), Help("Largest gradient norm; 0 switches clipping off.", panel=TRAIN)] = 12.0
    ema: Annotated[
        float,
        Interval(ge=0.0, lt=1.0),
        Help("Decay of the averaged weights that are kept; 0 switches it off.", panel=TRAIN),
    ] = 0.998
    recall_weight: Annotated[
        float,
        Interval(ge=0.0, le=1.0),
        Help("Weight of missed against false pixels in the Dice term; 0.5 is plain Dice.", panel=TRAIN),
    ] = 0.7
    augment: Annotated[Literal["full", "light", "none"], Help("Strength of augmentation.", panel=TRAIN)] = "full"
    window: Annotated[
        tuple[Annotated[int, Ge(16)], Annotated[int, Ge(16)]] | None,
        Help("Height,width to which training slices are cropped or padded; by default the data's median.", panel=TRAIN),
    ] = None
    validate_every: Annotated[int, Ge(1), Help("Epochs between validations on whole patients.", panel=TRAIN)] = 10
    patience: Annotated[
        int, Ge(0), Help("Validations without a better metric before stopping; 0 never stops early.", panel=TRAIN)
    ] = 0
    phantom_cases: Annotated[int, Ge(2), Help("Without --data: number of phantoms.", panel=DATA, without="data")] = 16
    cache_gb: Annotated[
        float,
        Ge(0),
        Help("Most memory for slices kept ready for the next draw, in GB; 0 keeps none.", panel=RUN, free=SAME_RESULTS),
    ] = 0.5


@dataclass(frozen=True, kw_only=True)
class AdaptOptions(RunOptions, ProcessOptions, DataOptions, MissingOptions):
    """What all adaptation methods share: which patients, which slices, how much work."""

    from_run: Annotated[
        str | None,
        Help(
            "Pretrained run or checkpoint; needed with --data. On phantoms, by default the newest pretraining under "
            "runs/, or one made now.",
            option="--from",
            panel=ADAPT,
            path=True,
        ),
    ] = None
    data: Annotated[
        Paths,
        Help(
            "Cases of the target disease: folders, tables of cases or prepared stores. Default: synthetic phantoms.",
            panel=DATA,
        ),
    ] = ()
    source: Annotated[
        Paths,
        Help(
            "Cases of the source disease. Patients that the network was trained on are rehearsed by the methods that "
            "rehearse; the others are watched.",
            panel=DATA,
        ),
    ] = ()
    source_classes: Annotated[Names, Help("As --classes, for --source.", panel=DATA)] = ()
    train_part: Annotated[str, Help("Part of --split from which the shots are drawn.", panel=DATA, needs="split")] = (
        "train"
    )
    test_part: Annotated[str, Help("Part of --split that is watched.", panel=DATA, needs="split")] = "test"
    shots: Annotated[int, Ge(1), Help("Target patients whose labels are used.", panel=ADAPT)] = 5
    slices: Annotated[int, Ge(2), Help("Tumour-bearing slices used of each of them.", panel=ADAPT)] = 25
    budget: Annotated[int, Ge(1), Help("Work to spend, in slice gradient evaluations.", panel=ADAPT)] = 600
    recall_weight: Annotated[
        float,
        Interval(ge=0.0, le=1.0),
        Help("Weight of missed against false pixels in the Dice term; 0.5 is plain Dice.", panel=ADAPT),
    ] = 0.7
    augment: Annotated[
        Literal["none", "light", "full"] | None,
        Help(
            "Strength of augmentation of the slices that are tuned on; by default none, or the method's.", panel=ADAPT
        ),
    ] = None
    interpolation: Annotated[
        float | None,
        Interval(gt=0.0, le=1.0),
        Help(
            "Share of the way from the pretrained to the tuned weights that is kept (WiSE-FT); by default all of it, "
            "or the method's.",
            panel=ADAPT,
        ),
    ] = None
    ema: Annotated[
        float | None,
        Interval(ge=0.0, lt=1.0),
        Help(
            "Decay of averaged weights that are kept; by default 0, which keeps the last, or the method's.", panel=ADAPT
        ),
    ] = None
    watch_cases: Annotated[
        int, Ge(0), Help("Cases of each domain that are evaluated while tuning; 0 takes all.", panel=ADAPT)
    ] = 8
    marks: Annotated[int, Ge(1), Help("Evaluations while tuning, evenly over the budget.", panel=ADAPT)] = 4
    pictures: Annotated[
        bool,
        Help(
            "Draw overlays and the progress plot at every mark; small runs spend most time on them.",
            panel=RUN,
            free=SAME_RESULTS,
        ),
    ] = True
    clip_norm: Annotated[float, Ge(0), Help("Largest gradient norm; 0 switches clipping off.", panel=ADAPT)] = 12.0
    phantom_cases: Annotated[int, Ge(2), Help("Without --data: number of phantoms.", panel=DATA, without="data")] = 12
    cache_gb: Annotated[
        float,
        Ge(0),
        Help("Most memory for slices kept ready for the next draw, in GB; 0 keeps none.", panel=RUN, free=SAME_RESULTS),
    ] = 0.5


PlainMethods = Literal[
    "naive", "head-only", "freeze-encoder", "l2-sp", "ewc", "lwf", "replay", "lora", "rehearse", "wise-ft", "scratch"
]
MetaMethods = Literal["maml", "fomaml", "anil", "reptile", "meta-sgd"]


@dataclass(frozen=True, kw_only=True)
class MetatuneConfig(AdaptOptions):
    """``metaseg metatune``: MAML adaptation to a new disease (Han et al. 2018)."""

    method: Annotated[MetaMethods, Help("Meta-learning method; 'metaseg methods' describes them.", panel=ADAPT)] = (
        "maml"
    )
    order: Annotated[
        str,
        Help(
            "active, passive (= random), reverse, unlearned-only, learned-only, hardest, easiest, sequential, entropy, "
            "foreground-random, oracle or adaptive.",
            panel=ADAPT,
        ),
    ] = "active"
    threshold: Annotated[
        str, Help("Dice that parts learned from unlearned slices: median, otsu or a number.", panel=ADAPT)
    ] = "median"
    inner_steps: Annotated[int, Ge(1), Help("Steps of the inner loop.", panel=ADAPT)] = 1
    inner_learning_rate: Annotated[float, Gt(0), Help("Alpha of the inner loop.", panel=ADAPT)] = 0.01
    outer_learning_rate: Annotated[float, Gt(0), Help("Beta of the outer loop.", panel=ADAPT)] = 3e-4
    outer_optimizer: Annotated[Literal["adam", "sgd"], Help("Optimiser of the outer loop.", panel=ADAPT)] = "adam"
    first_order: Annotated[bool, Help("Drop the second derivative (first-order MAML).", panel=ADAPT)] = False
    tasks_per_step: Annotated[
        int, Ge(1), Help("Learned tasks, and unlearned tasks, of one meta-step.", panel=ADAPT)
    ] = 1
    rescore_every: Annotated[
        int, Ge(0), Help("Meta-steps between new scores inside a case; 0: once a visit to the case.", panel=ADAPT)
    ] = 0
    rescore_tolerance: Annotated[
        float,
        Ge(0),
        Help("Relative change of the parameters up to which a case's scores are used again; 0: never.", panel=ADAPT),
    ] = 0.0
    support_size: Annotated[
        int, Interval(ge=1, le=10000), Help("Slices of a task's inner loop; 1 in the paper.", panel=ADAPT)
    ] = 1
    query_size: Annotated[
        int, Interval(ge=1, le=10000), Help("Slices of a task's outer loop; 1 in the paper.", panel=ADAPT)
    ] = 1
    replay: Annotated[
        Literal["none", "learned", "added"],
        Help("Source slices as tasks: none, in place of the learned task, or one more task a step.", panel=ADAPT),
    ] = "none"
    multi_step_loss: Annotated[
        bool, Help("MAML++: the outer loss after every inner step, not the last alone.", panel=ADAPT)
    ] = False
    first_order_share: Annotated[
        float,
        Interval(ge=0.0, le=1.0),
        Help("MAML++: share of the budget, from the start, without the second derivative.", panel=ADAPT),
    ] = 0.0
    learned_inner_rates: Annotated[
        bool, Help("MAML++: learn an inner rate for every layer and inner step.", panel=ADAPT)
    ] = False
    oracle: Annotated[
        str | None,
        Help("For --order oracle: run that knows the target; its Dice is the true difficulty.", panel=ADAPT, path=True),
    ] = None
    outer_schedule: Annotated[
        Literal["constant", "cosine", "poly"], Help("Decay of the outer learning rate.", panel=ADAPT)
    ] = "constant"
    engine: Annotated[
        Literal["auto", "learn2learn", "functional", "batched"],
        Help("Who computes the meta-gradient; auto takes the quickest for network and device.", panel=ADAPT),
    ] = "auto"


@dataclass(frozen=True, kw_only=True)
class NaivetuneConfig(AdaptOptions):
    """``metaseg naivetune``: fine-tuning on class-balanced slices, plain or guarded against forgetting."""

    method: Annotated[PlainMethods, Help("Method; 'metaseg methods' describes them.", panel=ADAPT)] = "naive"
    batch_size: Annotated[int, Ge(1), Help("Slices of one step.", panel=ADAPT)] = 4
    optimizer: Annotated[Literal["adam", "sgd"], Help("Optimiser.", panel=ADAPT)] = "adam"
    learning_rate: Annotated[
        float | None, Gt(0), Help("Learning rate; by default 3e-4, or the method's.", panel=ADAPT)
    ] = None
    schedule: Annotated[
        Literal["constant", "cosine", "poly"] | None,
        Help("Decay of the learning rate; by default constant, or the method's.", panel=ADAPT),
    ] = None
    l2_sp_alpha: Annotated[
        float, Ge(0), Help("l2-sp: weight of the distance to the pretrained weights.", panel=METHOD)
    ] = 0.01
    l2_sp_beta: Annotated[float, Ge(0), Help("l2-sp: weight decay of the head.", panel=METHOD)] = 0.01
    ewc_lambda: Annotated[float, Ge(0), Help("ewc: weight of the Fisher-weighted distance.", panel=METHOD)] = 100.0
    fisher_slices: Annotated[int, Ge(1), Help("ewc: source slices that the Fisher is measured on.", panel=METHOD)] = 64
    lwf_lambda: Annotated[float, Ge(0), Help("lwf: weight of the distillation.", panel=METHOD)] = 1.0
    lwf_temperature: Annotated[float, Gt(0), Help("lwf: temperature of the distillation.", panel=METHOD)] = 2.0
    replay_share: Annotated[
        float,
        Interval(ge=0.0, lt=1.0),
        Help("replay and rehearse: share of source slices in the batches.", panel=METHOD),
    ] = 0.25
    replay_weight: Annotated[
        float, Ge(0), Help("rehearse: weight of the loss on source slices, beside their share.", panel=METHOD)
    ] = 0.7
    transplant_share: Annotated[
        float,
        Interval(ge=0.0, le=1.0),
        Help("rehearse: share of the source slices into which a target lesion is pasted.", panel=METHOD),
    ] = 0.4
    lora_rank: Annotated[int, Interval(ge=1, le=4096), Help("lora: rank of the adapters.", panel=METHOD)] = 4


@dataclass(frozen=True, kw_only=True)
class TuneConfig(NaivetuneConfig):
    """``metaseg tune``: adaptation by the recommended method, which rehearses the source."""

    method: Annotated[PlainMethods, Help("Method; 'metaseg methods' describes them.", panel=ADAPT)] = "rehearse"
    budget: Annotated[int, Ge(1), Help("Work to spend, in slice gradient evaluations.", panel=ADAPT)] = 1200


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(ProcessOptions, DataOptions, SkipOptions):
    """``metaseg evaluate``: whole-patient metrics of a network on one or more cohorts."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    run: Annotated[str, Help("Run folder or checkpoint.", argument=True, path=True)] = ""
    checkpoint: Annotated[Literal["best", "last"], Help("Which weights of the run.")] = "best"
    parent: Annotated[
        str | None,
        Help("Network before tuning, for the forgetting; by default the one the run was tuned from.", path=True),
    ] = None
    data: Annotated[
        Paths,
        Help(
            "Labelled cases: folders, tables of cases or prepared stores. By default those that the run names in its "
            "settings, or phantoms for a network of phantoms.",
            panel=DATA,
        ),
    ] = ()
    labels: Annotated[
        Literal["subregions", "whole-lesion"] | None,
        Help("Classes to compare; by default the network's. whole-lesion unites all tumour classes.", panel=DATA),
    ] = None
    part: Annotated[str | None, Help("With --split: evaluate this part only.", panel=DATA)] = None
    include_training: Annotated[
        bool, Help("Evaluate the patients the network was trained on as well; they are marked.", panel=DATA)
    ] = False
    tta: Annotated[bool, Help("Average over flips.")] = True
    surface: Annotated[bool, Help("Compute HD95 and lesion-wise metrics too.")] = True
    out: Annotated[
        Path | None,
        Help(
            "Folder for metrics.csv and metrics.json; evaluation/ in the run if not given.", panel=OUT, free=ONLY_PLACE
        ),
    ] = None
    pictures: Annotated[
        int, Ge(0), Help("Overlay pictures to write, worst cases first.", panel=OUT, free=SAME_RESULTS)
    ] = 4
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
    phantom_cases: Annotated[
        int,
        Ge(2),
        Help("Without --data, of a network of phantoms: how many of each cohort.", panel=DATA, without="data"),
    ] = 12


@dataclass(frozen=True, kw_only=True)
class PredictConfig(ProcessOptions, SkipOptions):
    """``metaseg predict``: segment cases and write NIfTI files on their own grid."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    run: Annotated[str, Help("Run folder or checkpoint.", argument=True, path=True)] = ""
    cases: Annotated[Paths, MinLen(1), Help("Case folders or folders of cases.", argument=True)] = ()
    out: Annotated[Path, Help("Folder to write.", panel=OUT, free=ONLY_PLACE)] = Path("predictions")
    checkpoint: Annotated[Literal["best", "last"], Help("Which weights of the run.")] = "best"
    format: Annotated[Formats, Help("Naming convention of the files.", panel=DATA)] = "auto"
    label_scheme: Annotated[
        str | None,
        Help(
            "Values to write: brats (ET is 4), brats2023 (ET is 3), brats-ped, msd-brats, or spelled out, such as "
            "1=NCR,2=ED,3=ET; by default the input's own.",
            panel=OUT,
        ),
    ] = None
    probabilities: Annotated[bool, Help("Write class probabilities too (4-D float NIfTI).", panel=OUT)] = False
    pictures: Annotated[bool, Help("Write an overlay and a heat map of each case.", panel=OUT, free=SAME_RESULTS)] = (
        True
    )
    tta: Annotated[bool, Help("Average over flips.")] = True
    overwrite: Annotated[bool, Help("Replace existing files.", panel=OUT, free=ONLY_START)] = False
    device: Annotated[str, Help("auto, cpu, cuda, cuda:N or mps.", panel=RUN)] = "auto"
    precision: Annotated[Precision, Help("Number format.", panel=RUN)] = "32-true"
