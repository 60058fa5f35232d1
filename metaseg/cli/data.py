"""``metaseg data``: look at cases, split them, prepare them, and get some to begin with."""

from __future__ import annotations

import inspect
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from metaseg.cli.help import PlainCommand, PlainGroup
from metaseg.cli.output import messages
from metaseg.cli.verbs import option_for
from metaseg.config.fields import describe_fields
from metaseg.config.options import DataOptions, MissingOptions
from metaseg.errors import DataError, UsageError, some, warn_user
from metaseg.terminal import Table, print_text, progress

if TYPE_CHECKING:
    from metaseg.cases.case import Case
    from metaseg.cases.readers.index import Index
    from metaseg.cases.splits import Split
    from metaseg.cases.summary import Summary

data_app = typer.Typer(
    help="Check, summarise, split and prepare cases; get data to begin with.",
    no_args_is_help=True,
    rich_markup_mode=None,
    cls=PlainGroup,
)

COUNTED = {
    "cohort": "cohorts",
    "grade": "grades",
    "site": "sites",
    "format": "format",
    "label_scheme": "label scheme",
    "shape": "slices x height x width",
    "spacing": "spacing",
    "orientation": "orientation",
}
MOST_SHOWN = 6
Root = Annotated[Path, typer.Argument(metavar="DATA", help="Folder of cases, or a table of cases.", show_default=False)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


@dataclass(frozen=True, kw_only=True)
class _Reading(DataOptions, MissingOptions):
    """Settings that say which cases are read, and how."""


def _command(*settings: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Enter a function into ``metaseg data``; every error becomes one message.

    Args:
        settings: Settings that training verbs have too, to be options here; the function takes them by name.
    """
    fields = [field for field in describe_fields(_Reading) if field.name in settings]

    def enter(function: Callable[..., None]) -> Callable[..., None]:
        def command(**given: Any) -> None:
            from metaseg.config.io import load_config

            with messages(field.flag for field in fields):
                asked = {name: given.pop(name) for name in settings}
                config = load_config(
                    _Reading, None, {name: asked[name] for name in settings if asked[name] is not None}
                )
                function(**given, **{name: getattr(config, name) for name in settings})

        own = inspect.signature(function, eval_str=True).parameters.values()
        parameters = [*(parameter for parameter in own if parameter.name != "reading"), *map(option_for, fields)]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        command.__name__, command.__doc__ = function.__name__, function.__doc__
        data_app.command(cls=PlainCommand)(command)
        return function

    return enter


@_command("format", "label_scheme", "modalities", "classes", "patients", "outlined_slices", "allow_missing")
def check(
    data: Root,
    split: Annotated[Path | None, typer.Option(help="Split file to check against the cases.")] = None,
    jobs: Annotated[int, typer.Option(min=0, help="Processes that read files; 0 takes one a core.")] = 1,
    limit: Annotated[int, typer.Option(min=0, help="Findings shown of each kind; 0 shows all.")] = 10,
    as_json: AsJson = False,
    **reading: Any,
) -> None:
    """Find what would stop a run or spoil its metrics, before any time is spent on training.

    Reads every file once. Finds unreadable and doubled files, missing modalities, grids that disagree, unexpected
    label values, empty labels, copies of one image, and patients in two parts of a split. Ends with exit code 1 if
    there is an error; warnings leave it at 0. Of a prepared store, all files are compared with their checksums.
    """
    from metaseg.cases.check import check_dataset, print_report
    from metaseg.store.store import check_store, is_store

    with progress("checking cases", None) as bar:
        if is_store(data):
            report = check_store(data, bar.set)
        else:
            report = check_dataset(data, **reading, split=split, jobs=jobs, progress=bar.set)
    if as_json:
        print(report.to_json(), end="")
    else:
        print_report(report, limit=limit)
    if not report.ok:
        raise typer.Exit(1)


@_command()
def index(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder of images.", show_default=False)],
    pattern: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Where files lie below the folder, such as '{case}/{modality}.nii.gz' or 'label={case}/roi.nii.gz'; "
            "may be given several times.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Table to write. [default: cases.csv in the folder]")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a first table of the cases in a folder that follows no naming, to be reviewed.

    Files are identified by their names alone. What is in doubt is left out and listed.
    """
    from metaseg.cases.readers.index import index_folder
    from metaseg.files import refuse_existing, write_text

    table = data / "cases.csv" if out is None else out
    found = index_folder(data, pattern or ())
    images = [file for case in found.cases for file in case.files.values()]
    refuse_existing([table], overwrite, [*images, *found.left_out])
    write_text(table, found.to_csv(table.parent))
    _print_index(found, table, data)


@_command("format", "label_scheme", "classes", "patients", "outlined_slices")
def summary(
    data: Root,
    csv: Annotated[Path | None, typer.Option(help="Write a table with one row per case to this file.")] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    **reading: Any,
) -> None:
    """Show what a data set holds: patients, cohorts, grids, modalities, intensities and tumour volumes."""
    from metaseg.cases import read_cases, summarise
    from metaseg.cases.case import FailedCase, raise_failed
    from metaseg.files import refuse_existing, require_writable, write_text

    cases = read_cases(data, **reading, need_labels=True)
    if csv is not None:
        refuse_existing([csv], overwrite, _read_files(data, cases, reading["patients"], reading["outlined_slices"]))
        require_writable(csv.parent)
    failed: list[FailedCase] = []
    with progress("reading cases", None) as bar:
        found = summarise(cases, progress=bar.set, failed=failed)
    if csv is not None:
        write_text(csv, found.table().to_csv(index=False))
    if as_json:
        print(json.dumps(found.to_dict() | {"failed": [case.to_json() for case in failed]}, indent=2))
    else:
        _print_summary(found)
    raise_failed(failed, len(cases), "read")


@_command("format", "classes", "patients")
def split(
    data: Annotated[
        list[Path],
        typer.Argument(
            metavar="DATA...", help="Folders of cases, or tables of cases; of several, one split.", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Option(help="Split file to write.")] = Path("split.json"),
    parts: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=FRACTION,...",
            help="Parts with fractions that sum to 1, or numbers of patients. [default: train=0.7,val=0.15,test=0.15]",
        ),
    ] = None,
    folds: Annotated[
        int | None, typer.Option(max=10_000, help="Number of folds of a cross-validation, instead of parts.")
    ] = None,
    stratify: Annotated[
        str, typer.Option(metavar="[cohort|grade|site|none]", help="Property that all parts hold in like fractions.")
    ] = "cohort",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draw.")] = 0,
    overwrite: Overwrite = False,
    **reading: Any,
) -> None:
    """Draw train, validation and test patients; all cases of a patient stay together.

    The same cases and seed give the same split. Give the file to other verbs with --split. Of several folders, such as
    a source and a target, each is divided alike, and a patient of two stands in one part. Of image folders, which tell
    no patients, copies and near-copies of a picture stay together.
    """
    from metaseg.cases import make_split, missing_strata, read_cases
    from metaseg.files import refuse_existing

    choices: Mapping[str, Any] = {"cohort": "cohort", "grade": "grade", "site": "site", "none": None}
    _require("stratify", stratify, choices)
    fractions = _fractions(parts)
    folders = {str(root): read_cases(root, **reading, need_labels=True) for root in data}
    cases, folder_of = _pooled(folders)
    refuse_existing([out], overwrite, [file for root in data for file in _read_files(root, cases, reading["patients"])])
    if any("split" in case.extra for case in cases):
        warn_user(
            "the table has a column 'split'; another split is drawn here",
            where=data[0],
            remedy="to use the column as it is, give the table itself to other verbs with --split",
        )
    drawn = make_split(cases, fractions, folds, seed, choices[stratify], folder_of if len(folders) > 1 else None)
    drawn.save(out)
    _print_split(drawn, out)
    pictures = [case for case in cases if case.format == "image-folder"]
    if joined := len(pictures) - len({case.patient for case in pictures}):
        print(f"{joined} of {len(pictures)} pictures are copies or near-copies of others, and stay with them")
    for missing in missing_strata(cases, drawn):
        print(f"warning: {missing}; use fewer parts, add cases, or leave it out with --classes")
    for root, members in folders.items():
        without = sorted(set(drawn.parts) - set(drawn.parts_of(members).values()))
        if without:
            print_text(f"warning: no patient of {root} is in {', '.join(without)}; use fewer parts, or add cases")


@_command(
    "format", "label_scheme", "modalities", "classes", "patients", "outlined_slices", "allow_missing", "image_size"
)
def prepare(
    data: Root,
    store: Annotated[Path, typer.Argument(metavar="STORE", help="Folder to write.", show_default=False)],
    jobs: Annotated[int, typer.Option(min=0, help="Threads; 0 takes one a core.")] = 0,
    **reading: Any,
) -> None:
    """Prepare cases once into a folder of their own, for use as --data.

    Training verbs prepare raw cases by themselves and keep them in a cache; a folder of its own pays where the cache
    cannot be used, such as for a cluster.
    """
    from metaseg.cases.case import FailedCase, raise_failed
    from metaseg.store.prepare import prepare_store

    failed: list[FailedCase] = []
    with progress("preparing cases", None) as bar:
        prepared = prepare_store(data, store, **reading, jobs=jobs, progress=bar.set, failed=failed)
    print(f"{len(prepared)} cases prepared in {store}")
    raise_failed(failed, len(prepared) + len(failed), "prepared")


@_command()
def phantoms(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.", show_default=False)],
    cohort: Annotated[str, typer.Option(metavar="[hgg|lgg|met]", help="Disease that the phantoms look like.")] = "hgg",
    cases: Annotated[int, typer.Option(min=1, help="Number of phantoms.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Seed; phantom N of a seed is always the same.")] = 0,
    size: Annotated[str, typer.Option(metavar="[small|full]", help="full has the grid of BraTS.")] = "small",
) -> None:
    """Make synthetic patients with gliomas or metastases, to try metaseg without patient data.

    They are named and laid out as BraTS is. Metrics on phantoms say that the program works, nothing about patients.
    """
    from metaseg.cases.phantoms import make_phantoms

    sizes: Mapping[str, Literal["small", "full"]] = {"small": "small", "full": "full"}
    _require("size", size, sizes)
    with progress("making phantoms", None) as bar:
        made = make_phantoms(out, cohort=cohort, cases=cases, seed=seed, size=sizes[size], progress=bar.set)
    print(f"{len(made)} synthetic cases in {out}")


@_command()
def fetch(
    name: Annotated[str, typer.Argument(help="Data set to fetch.")] = "msd-task01-brats",
    out: Annotated[Path, typer.Option(help="Folder in which the data set's own folder is made.")] = Path("data"),
) -> None:
    """Download a public data set that needs no registration, check it and unpack it.

    An interrupted download is continued. Data sets that need a registration are described in data_cards/.
    """
    from metaseg.cases.fetch import DOWNLOADS, fetch_dataset

    folder = fetch_dataset(name, out)
    download = DOWNLOADS[name]
    print(f"{folder}\nlicence: {download.licence}\ncite:    {download.citation}")


def _require(option: str, value: str, choices: Mapping[str, Any]) -> None:
    if value not in choices:
        raise UsageError(f"'{option}' is '{value}'", where=f"--{option}", expected="one of " + ", ".join(choices))


def _read_files(data: Path, cases: Sequence[Case], *tables: Path | None) -> list[Path]:
    """What is read of a data set: its images, labels and tables."""
    described = [data / name for name in ("cases.csv", "index.csv", "dataset.json", "metaseg-phantoms.json")]
    given = [table for table in tables if table is not None]
    return [data, *described, *given, *(file for case in cases for file in case.files)]


def _fractions(text: str | None) -> dict[str, float] | None:
    """``"train=0.8,test=0.2"`` as a mapping; whole numbers stay whole, since they count patients."""
    fractions: dict[str, float] = {}
    for item in text.split(",") if text is not None else ():
        name, equals, number = (part.strip() for part in item.partition("="))
        try:
            fraction = int(number) if number.isdigit() else float(number)
        except ValueError:
            fraction = float("nan")
        if not name or not equals or fraction != fraction or name in fractions:
            raise UsageError(f"'parts' is '{text}'", where="--parts", expected="such as train=0.7,val=0.15,test=0.15")
        fractions[name] = fraction
    return fractions or None


def _print_summary(summary: Summary) -> None:
    """Print what a data set holds."""
    patients = len({case.patient for case in summary.cases})
    synthetic = ", SYNTHETIC phantoms" if summary.synthetic else ""
    facts = Table(("Property", "Found"), title=f"{len(summary.cases)} cases of {patients} patients{synthetic}")
    for attribute, title in COUNTED.items():
        facts.add(title, _counts(summary.counts(attribute)))
    facts.add("modalities", _counts(summary.modalities()))
    slices = summary.tumour_slices()
    facts.add("labelled cases", str(slices["labelled_cases"]))
    facts.add("slices with tumour", f"{slices['tumour']} of {slices['all']}{_partial(summary)}")
    facts.print()
    sizes = ("Lowest", "Median", "Highest")
    volumes = Table(("Region", "Unit", "Present in", *sizes), title="\nTumour sizes", numbers=("Present in", *sizes))
    for unit, regions in summary.volumes().items():
        for region, found in regions.items():
            cells = (f"{found[key]:.2f}" if found["present"] else "-" for key in ("min", "median", "max"))
            volumes.add(region, unit, f"{found['present']:g} of {found['labelled']:g}", *cells)
    if volumes.rows:
        volumes.print()
    columns = ("Modality", "1st percentile", "Median", "99th percentile", "Highest value")
    intensities = Table(columns, title="\nIntensities other than 0, from the lowest case to the highest")
    for name, ranges in summary.intensities().items():
        keys = ("p1", "p50", "p99", "max")
        intensities.add(name, *(f"{ranges[f'{key}_min']:.4g} to {ranges[f'{key}_max']:.4g}" for key in keys))
    intensities.print()


def _partial(summary: Summary) -> str:
    """How many cases are outlined on some slices only; empty if none is."""
    count = sum(case.outlined_slices not in (None, case.shape[0]) for case in summary.cases)
    return f" that are outlined ({count} cases on some slices only)" if count else ""


def _counts(counts: dict[str, int]) -> str:
    shown = [f"{name} ({count})" for name, count in list(counts.items())[:MOST_SHOWN]]
    rest = len(counts) - len(shown)
    return ", ".join(shown) + (f", {rest} more" if rest else "")


def _print_index(index: Index, table: Path, data: Path) -> None:
    """Print what was found in a folder, which files have no place in the table, and what to do with it."""
    patients = len({case.told["patient"] for case in index.cases})
    kinds = Counter(name for case in index.cases for name in case.files)
    print(f"{len(index.cases)} cases of {patients} patients: " + ", ".join(f"{name} {kinds[name]}" for name in kinds))
    reasons: dict[str, list[str]] = {}
    for file, reason in index.left_out.items():
        reasons.setdefault(reason, []).append(str(file.relative_to(data)))
    for reason, files in reasons.items():
        print(f"left out: {reason}: {some(files, MOST_SHOWN)}")
    print(f"written to {table}; review it, then run: metaseg data check {table}")


def _pooled(folders: Mapping[str, Sequence[Case]]) -> tuple[list[Case], dict[str, str]]:
    """The cases of several folders, and the folder of each by its name; one in two folders stands there once."""
    found: dict[str, Case] = {}
    folder_of: dict[str, str] = {}
    doubled = []
    for folder, case in ((folder, case) for folder, cases in folders.items() for case in cases):
        first = found.setdefault(case.id, case)
        if folder_of.setdefault(case.id, folder) != folder:
            doubled.append(case.id)
        if first.patient != case.patient:
            raise DataError(
                f"two cases are named {case.id}, of patients {first.patient} and {case.patient}",
                where=f"{folder_of[case.id]} and {folder}",
                remedy="rename one, or make a split for each folder",
            )
    if doubled:
        warn_user(
            f"{len(doubled)} cases are in several folders, and count as one patient's: {some(doubled)}",
            remedy="if they are of different people, rename one's files",
        )
    return list(found.values()), folder_of


def _print_split(split: Split, file: Path) -> None:
    """Print how many patients and cases each part has."""
    table = Table(("Part", "Patients", "Cases"), numbers=("Patients", "Cases"))
    for part, cases in split.parts.items():
        table.add(part, str(len({split.patients[case] for case in cases})), str(len(cases)))
    table.print()
    print_text(f"written to {file}; use it with --split {file}")
