"""Settings that verbs share, and how a setting carries its help text.

Only the standard library is imported here, so that ``--help`` answers at once. A field's name is the option's name
(``inner_steps`` is ``--inner-steps``) and the key in a YAML file; its help text and limits stand beside its type.
``metaseg.config.io`` validates values with pydantic and reads and writes YAML.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge

from metaseg.config.modalities import canonical_modality


@dataclass(frozen=True)
class Help:
    """Help text of a field, shown by ``metaseg VERB --help`` and in the reference.

    Attributes:
        text: One or two sentences.
        option: The command line's option where it differs from the field's name.
        panel: Heading under which ``--help`` lists it.
        argument: True for a positional argument.
        free: Why a run goes on, and a study keeps what it has done, when the value changes. Empty for a setting that
            shapes results: a resumed run refuses another value, and a study does its cells anew.
        path: True for a text that names something else or a path.
        needs: Name of the setting without which this one is ignored.
        without: Name of the setting beside which this one is ignored.
    """

    text: str
    option: str | None = None
    panel: str = "Options"
    argument: bool = False
    free: str = ""
    path: bool = False
    needs: str = ""
    without: str = ""


SAME_RESULTS = "results do not depend on it beyond rounding"
ONLY_PLACE = "it says where files lie, not what is in them"
ONLY_REFUSES = "it decides whether data are refused, not what is computed from them"
ONLY_START = "it says how the work is begun, not what it is"
TABLES_ANEW = "tables are computed anew from the cells every time"


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

Formats = Literal["auto", "table", "brats", "brats2023", "nnunet", "slices", "cheng-mat", "image-folder"]
Precision = Literal["32-true", "16-mixed", "bf16-mixed"]
Paths = tuple[Path, ...]
Names = tuple[str, ...]
Modalities = Annotated[
    Names,
    Read(_modality_names),
    Help("Input modalities in order, comma-separated; by default all that every case has.", panel=DATA),
]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What every long verb shares."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    out: Annotated[
        Path | None, Help("Run folder to write; a new name under runs/ if not given.", panel=RUN, free=ONLY_PLACE)
    ] = None
    seed: Annotated[int, Ge(0), Help("Seed of everything that is drawn.", panel=RUN)] = 0
    device: Annotated[str, Help("auto, cpu, cuda, cuda:N or mps.", panel=RUN)] = "auto"
    precision: Annotated[Precision, Help("Number format; mixed precision pays on a GPU only.", panel=RUN)] = "32-true"
    resume: Annotated[
        bool,
        Help(
            "Continue the run in --out from its last checkpoint, to the same bits on a CPU.", panel=RUN, free=ONLY_START
        ),
    ] = False
    overwrite: Annotated[bool, Help("Replace an existing run in --out.", panel=RUN, free=ONLY_START)] = False
    jobs: Annotated[
        int, Ge(0), Help("Threads that prepare cases; 0 takes one a core.", panel=RUN, free=SAME_RESULTS)
    ] = 0
    cache: Annotated[
        Path | None,
        Help(
            "Folder of prepared cases and phantoms; METASEG_CACHE or the user's cache by default.",
            panel=RUN,
            free=ONLY_PLACE,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class SkipOptions:
    """Going on with work on single cases."""

    resume: Annotated[
        bool,
        Help(
            "Go on in --out: skip the cases that are done there with the same network and settings.",
            panel=OUT,
            free=ONLY_START,
        ),
    ] = False


@dataclass(frozen=True, kw_only=True)
class TeamOptions:
    """Several processes at one verb."""

    devices: Annotated[
        int,
        Ge(1),
        Help("Processes on each machine; each takes a GPU where there are GPUs.", panel=RUN, free=SAME_RESULTS),
    ] = 1
    nodes: Annotated[
        int, Ge(1), Help("Machines; more than one are started by srun or torchrun.", panel=RUN, free=SAME_RESULTS)
    ] = 1


@dataclass(frozen=True, kw_only=True)
class ProcessOptions(TeamOptions):
    """As :class:`TeamOptions`, where no other setting is called strategy."""

    strategy: Annotated[
        Literal["auto", "ddp"],
        Help("How several processes share the work; auto is ddp for several.", panel=RUN, free=SAME_RESULTS),
    ] = "auto"


@dataclass(frozen=True, kw_only=True)
class PatientOptions:
    """Whose scans the cases are."""

    patients: Annotated[
        Path | None,
        Help(
            "CSV table with columns case and patient: whose scan each case is. By default the case's name tells, "
            "without what names a session.",
            panel=DATA,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class MissingOptions:
    """What a training does about data that are not complete."""

    allow_missing: Annotated[
        bool,
        Help(
            "Leave out what is missing, with a warning, instead of refusing the data: cases without a label or a "
            "modality of --modalities, modalities that some cases lack, files that are not there or of no case.",
            panel=DATA,
            free=ONLY_REFUSES,
        ),
    ] = False


@dataclass(frozen=True, kw_only=True)
class DataOptions(PatientOptions):
    """How cases are read and prepared."""

    data: Annotated[
        Paths,
        Help(
            "Folder of cases, a table of cases, or a prepared store; several are pooled. Default: synthetic phantoms.",
            panel=DATA,
        ),
    ] = ()
    format: Annotated[Formats, Help("Naming convention of the files.", panel=DATA)] = "auto"
    label_scheme: Annotated[
        str | None,
        Help(
            "What label values mean: brats (4 is ET), brats2023 (3 is ET), brats-ped, brats-post, msd-brats, "
            "whole-lesion, any-lesion; or spelled out, such as 1=NCR,2=ED,3=ET.",
            panel=DATA,
        ),
    ] = None
    labels: Annotated[
        Literal["subregions", "whole-lesion"] | None,
        Help("Classes to learn; by default those of the data. whole-lesion unites all tumour classes.", panel=DATA),
    ] = None
    modalities: Modalities = ()
    classes: Annotated[Names, Help("Keep only cases of these cohorts or classes, comma-separated.", panel=DATA)] = ()
    split: Annotated[Path | None, Help("Split file of 'metaseg data split'.", panel=DATA)] = None
    image_size: Annotated[
        int | None,
        Ge(16),
        Help(
            "Shrink slices so that the longer side has at most this many pixels; metrics stay on the full grid.",
            panel=DATA,
        ),
    ] = None
