"""Settings that verbs share, and how a setting carries its help text.

Only the standard library is imported here, so that ``--help`` answers at once. A field's name is the option's name
(``inner_steps`` is ``--inner-steps``) and the key in a YAML file; its help text and limits stand beside its type.
``metaseg.config.io`` validates values with pydantic and reads and writes YAML.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal

from annotated_types import Ge, Gt, Interval, MinLen

from metaseg.config.modalities import canonical_modality


@dataclass(frozen=True)
class Help:
    """Help text of a field, shown by ``metaseg VERB --help`` and in the reference.

    Attributes:
        help: One or two sentences.
        panel: Heading under which ``--help`` lists it.
        common: True for a setting that ``--help`` shows; the others are shown by ``--help-all``.
        option: The command line's option where it differs from the field's name.
        earlier: Names that the field had in earlier releases; they are still read.
        later: True for a setting that came after the first release. Where it has its default, what was computed without
            it counts as computed with it.
        argument: True for a positional argument.
        free: Why a run goes on, and a study keeps what it has done, when the value changes. Empty for a setting that
            shapes results: a resumed run refuses another value, and a study does its cells anew.
        path: True for a text that names something else or a path.
        needs: Name of the setting without which this one is ignored; ``NAME=VALUE|VALUE`` for some of its values.
        without: Name of the setting beside which this one is ignored.
        alone: Value where the option stands on the command line without one; empty if it needs one.
    """

    help: str = ""
    panel: str = "Options"
    common: bool = False
    option: str | None = None
    earlier: tuple[str, ...] = ()
    later: bool = False
    argument: bool = False
    free: str = ""
    path: bool = False
    needs: str = ""
    without: str = ""
    alone: str = ""


def option(default: Any, help: str, panel: str = "Options", **marks: Any) -> Any:
    """A setting as the field of a dataclass.

    Args:
        default: Its value where none is given.
        help: One or two sentences.
        panel: Heading under which ``--help`` lists it.
        **marks: The other attributes of :class:`Help`.
    """
    metadata = {"help": Help(help, panel, **marks)}
    if isinstance(default, dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


SAME_RESULTS = "results do not depend on it beyond rounding"
ONLY_PLACE = "it says where files lie, not what is in them"
ONLY_REFUSES = "it decides whether data are refused, not what is computed from them"
ONLY_START = "it says how the work is begun, not what it is"
TABLES_ANEW = "tables are computed anew from the cells every time"


@dataclass(frozen=True)
class Choice:
    """Names out of an open registry, listed here so that ``--help`` need not import the registry.

    Attributes:
        names: Those of metaseg itself, with blanks between them.
        group: Entry-point group to which installed plug-ins add names; empty where they cannot.
        elsewhere: Names of the group that are for another setting.
        others: What else may be given, in words; empty if the names are all there are. ``MODULE:...`` stands for
            texts with a colon, other words for any text.
    """

    names: str
    group: str = ""
    others: str = ""
    elsewhere: str = ""

    def all_names(self) -> tuple[str, ...]:
        """Those of metaseg, then those that plug-ins and the running script add."""
        from metaseg.registry import plugin_names

        known = (*self.names.split(), *self.elsewhere.split())
        added = plugin_names(self.group) if self.group else ()
        return (*self.names.split(), *(name for name in added if name not in known))

    def holds(self, value: str) -> bool:
        """Whether a value may be given; of texts beside the names only the form is judged."""
        free = ":" in value if self.others.startswith("MODULE:") else bool(self.others)
        return free or value in self.all_names()


@dataclass(frozen=True)
class Read:
    """Lets a value be given in other words: pydantic asks for this schema, which calls ``read`` first."""

    read: Callable[[Any], Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> dict[str, Any]:
        return {
            "type": "function-before",
            "function": {"type": "no-info", "function": self.read},
            "schema": handler(source),
        }


def _modality_names(value: Any) -> Any:
    """Modalities by the names that they have inside metaseg, each once."""
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        return value
    names = tuple(map(canonical_modality, value))
    if len(set(names)) < len(names):
        raise ValueError(f"one modality stands there twice ({', '.join(names)})")
    return names


DATA, MODEL, TRAIN, ADAPT, RUN, OUT = "Data", "Network", "Training", "Adaptation", "Run", "Output"
METHOD = "Settings of single methods"

Count = Annotated[int, Ge(1)]
Whole = Annotated[int, Ge(0)]
ALL: Final = "all"
Shots = Count | Literal["all"]
LEAVE_ONE_OUT: Final = "leave-one-out"
Folds = Annotated[int, Ge(2)] | Literal["leave-one-out"]
Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
Fraction = Annotated[float, Interval(ge=0.0, le=1.0)]
BelowOne = Annotated[float, Interval(ge=0.0, lt=1.0)]
AboveZero = Annotated[float, Interval(gt=0.0, le=1.0)]
Paths = tuple[Path, ...]
Names = tuple[str, ...]
Settings = dict[str, Any]
Precision = Literal["32-true", "16-mixed", "bf16-mixed"]
Augmentation = Literal["full", "light", "none"]

FORMATS = Choice("auto table brats brats2023 nnunet slices cheng-mat image-folder", "metaseg.readers")
Format = Annotated[str, FORMATS, Help("Naming convention of the files.", DATA)]
Loss = Annotated[
    str,
    Choice("dice-ce", others="MODULE:FUNCTION"),
    Help(
        "Loss: Dice and cross-entropy, or a function of logits (b, c, h, w) and classes (b, h, w).", TRAIN, later=True
    ),
]
Modalities = Annotated[
    Names,
    Read(_modality_names),
    Help("Input modalities in order, comma-separated; by default all that every case has.", DATA),
]
ClipNorm = Annotated[NotNegative, Help("Largest gradient norm; 0 switches clipping off.", TRAIN)]
FirstMarks = Annotated[
    int,
    Interval(ge=0, le=30),
    Help("So many evaluations more, after the first 1, 2, 4, 8, ... updates of the parameters.", ADAPT, later=True),
]
CacheSize = Annotated[
    NotNegative,
    Help("Most memory for slices kept ready for the next draw, in GB; 0 keeps none.", RUN, free=SAME_RESULTS),
]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What every verb's settings have in common: unknown ones are refused."""

    __pydantic_config__: ClassVar[Settings] = {"extra": "forbid"}


@dataclass(frozen=True, kw_only=True)
class DeviceOptions(Options):
    """Where and how exactly is computed."""

    device: str = option("auto", "auto, cpu, cuda, cuda:N or mps.", RUN, common=True)
    precision: Precision = option("32-true", "Number format; mixed precision pays on a GPU only.", RUN)


@dataclass(frozen=True, kw_only=True)
class DiseaseOptions(Options):
    """Which of the two networks of an adapted run is used."""

    as_disease: Literal["source", "target", "auto"] | None = option(
        None,
        "Of an adapted run: the disease that the cases are of. source takes the network from before the adaptation, "
        "target the adapted one, auto lets the run's gate decide for each case. By default the adapted network takes "
        "all.",
        common=True,
        option="as",
        later=True,
    )


@dataclass(frozen=True, kw_only=True)
class PreparationOptions(Options):
    """How cases are prepared, and where they are kept."""

    jobs: Whole = option(0, "Threads that prepare cases; 0 takes one a core.", RUN, free=SAME_RESULTS)
    cache: Path | None = option(
        None,
        "Folder of prepared cases and phantoms; METASEG_CACHE or the user's cache by default.",
        RUN,
        free=ONLY_PLACE,
    )


@dataclass(frozen=True, kw_only=True)
class RunOptions(PreparationOptions, DeviceOptions):
    """What every long verb shares."""

    out: Path | None = option(
        None, "Run folder to write; a new name under runs/ if not given.", RUN, common=True, free=ONLY_PLACE
    )
    seed: Whole = option(0, "Seed of everything that is drawn.", RUN, common=True)
    resume: bool = option(
        False,
        "Continue the run in --out from its last checkpoint, to the same bits on a CPU.",
        RUN,
        common=True,
        free=ONLY_START,
    )
    overwrite: bool = option(False, "Replace an existing run in --out.", RUN, common=True, free=ONLY_START)


@dataclass(frozen=True, kw_only=True)
class NetworkOptions(DeviceOptions):
    """Which trained network is used."""

    run: str = option("", "Run folder or checkpoint.", argument=True, path=True)
    checkpoint: Literal["best", "last"] = option("best", "Which weights of the run.", common=True)


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions(NetworkOptions, PreparationOptions):
    """What evaluations of segmenters and of classifiers share."""

    part: str | None = option(None, "With --split: evaluate this part only.", DATA, common=True)
    include_training: bool = option(
        False, "Evaluate the patients the network was trained on as well; they are marked.", DATA
    )
    overwrite: bool = option(
        False, "Replace the metrics of another evaluation in --out.", OUT, common=True, free=ONLY_START
    )
    seed: Whole = option(0, "Seed of the bootstrap.", RUN)


@dataclass(frozen=True, kw_only=True)
class PredictionOptions(NetworkOptions):
    """What predictions of segmenters and of classifiers share."""

    cases: Annotated[Paths, MinLen(1)] = option((), "Case folders, folders of cases, or image files.", argument=True)
    out: Path = option(Path("predictions"), "Folder to write.", OUT, common=True, free=ONLY_PLACE)
    format: Format = "auto"
    overwrite: bool = option(False, "Replace existing files.", OUT, common=True, free=ONLY_START)


@dataclass(frozen=True, kw_only=True)
class SkipOptions(Options):
    """Going on with work on single cases."""

    resume: bool = option(
        False,
        "Go on in --out: skip the cases that are done there with the same network and settings.",
        OUT,
        free=ONLY_START,
    )


@dataclass(frozen=True, kw_only=True)
class TeamOptions(Options):
    """Several processes at one verb."""

    devices: Count = option(
        1, "Processes on each machine; each takes a GPU where there are GPUs.", RUN, free=SAME_RESULTS
    )
    nodes: Count = option(1, "Machines; more than one are started by srun or torchrun.", RUN, free=SAME_RESULTS)


@dataclass(frozen=True, kw_only=True)
class ProcessOptions(TeamOptions):
    """As :class:`TeamOptions`, with a choice of how the processes work together."""

    processes: Literal["auto", "ddp"] = option(
        "auto",
        "How several processes share the work; auto is ddp for several.",
        RUN,
        earlier=("strategy",),
        free=SAME_RESULTS,
    )


@dataclass(frozen=True, kw_only=True)
class CaseOptions(Options):
    """Whose scans the cases are, and what of them is outlined."""

    patients: Path | None = option(
        None,
        "CSV table with columns case and patient: whose scan each case is. By default the case's name tells, "
        "without what names a session.",
        DATA,
    )
    outlined_slices: Path | None = option(
        None,
        "CSV table with columns case and slice: the slices that are outlined, counted from 0 in the file, of cases of "
        "which some only are. The others count neither as tumour nor as background.",
        DATA,
        later=True,
    )


@dataclass(frozen=True, kw_only=True)
class MissingOptions(Options):
    """What a training does about data that are not complete."""

    allow_missing: bool = option(
        False,
        "Leave out what is missing, with a warning, instead of refusing the data: cases without a label or a "
        "modality of --modalities, modalities that some cases lack, files that are not there or of no case.",
        DATA,
        free=ONLY_REFUSES,
    )


@dataclass(frozen=True, kw_only=True)
class DataOptions(CaseOptions):
    """How cases are read and prepared."""

    data: Paths = option(
        (),
        "Folder of cases, a table of cases, or a prepared store; several are pooled. Default: synthetic phantoms.",
        DATA,
        common=True,
    )
    format: Format = "auto"
    label_scheme: str | None = option(
        None,
        "What label values mean: brats (4 is ET), brats2023 (3 is ET), brats-ped, brats-post, msd-brats, "
        "whole-lesion, any-lesion; or spelled out, such as 1=NCR,2=ED,3=ET,4=ignore (ignore: nobody outlined).",
        DATA,
    )
    labels: Literal["subregions", "whole-lesion"] | None = option(
        None, "Classes to learn; by default those of the data. whole-lesion unites all tumour classes.", DATA
    )
    modalities: Modalities = ()
    classes: Names = option((), "Keep only cases of these cohorts or classes, comma-separated.", DATA)
    split: Path | None = option(None, "Split file of 'metaseg data split'.", DATA, common=True)
    image_size: Annotated[int | None, Ge(16)] = option(
        None, "Shrink slices so that the longer side has at most this many pixels; metrics stay on the full grid.", DATA
    )
