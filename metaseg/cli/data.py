"""``metaseg data``: look at cases, split them, prepare them, and get some to begin with."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from metaseg.cli.examination import print_index, print_split, print_summary
from metaseg.cli.help import PlainCommand, PlainGroup
from metaseg.cli.messages import messages
from metaseg.config.options import FORMATS
from metaseg.errors import UsageError, warn_user

if TYPE_CHECKING:
    from metaseg.cases.case import Case

data_app = typer.Typer(
    help="Check, summarise, split and prepare cases; get data to begin with.",
    no_args_is_help=True,
    rich_markup_mode=None,
    cls=PlainGroup,
)

FORMAT_METAVAR = f"[{'|'.join(FORMATS.all_names())}]"
Root = Annotated[Path, typer.Argument(metavar="DATA", help="Folder of cases, or a table of cases.", show_default=False)]
Format = Annotated[str, typer.Option("--format", metavar=FORMAT_METAVAR, help="Naming convention of the files.")]
Scheme = Annotated[
    str | None,
    typer.Option(
        help="What label values mean: brats (4 is ET), brats2023 (3 is ET), brats-ped, brats-post, msd-brats, "
        "whole-lesion, any-lesion; or spelled out, such as 1=NCR,2=ED,3=ET."
    ),
]
Classes = Annotated[
    str | None, typer.Option(metavar="A,B", help="Keep only cases of these cohorts or classes, comma-separated.")
]
Modalities = Annotated[
    str | None, typer.Option(metavar="A,B", help="Modalities that every case must have, comma-separated.")
]
Patients = Annotated[
    Path | None, typer.Option(help="CSV table with columns case and patient: whose scan each case is.")
]
AllowMissing = Annotated[
    bool, typer.Option("--allow-missing", help="Warn of labels, modalities and files that are missing or left out.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


@data_app.command(cls=PlainCommand)
def check(
    data: Root,
    format: Format = "auto",
    label_scheme: Scheme = None,
    modalities: Modalities = None,
    classes: Classes = None,
    patients: Patients = None,
    allow_missing: AllowMissing = False,
    split: Annotated[Path | None, typer.Option(help="Split file to check against the cases.")] = None,
    jobs: Annotated[int, typer.Option(min=0, help="Processes that read files; 0 takes one a core.")] = 1,
    limit: Annotated[int, typer.Option(min=0, help="Findings shown of each kind; 0 shows all.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Find what would stop a run or spoil its metrics, before any time is spent on training.

    Reads every file once. Finds unreadable and doubled files, missing modalities, grids that disagree, unexpected
    label values, empty labels, copies of one image, and patients in two parts of a split. Ends with exit code 1 if
    there is an error; warnings leave it at 0. Of a prepared store, all files are compared with their checksums.
    """
    with messages():
        from metaseg.cases.check import check_dataset
        from metaseg.store.store import check_store, is_store

        with _progress("checking cases") as told:
            report = (
                check_store(data, told)
                if is_store(data)
                else check_dataset(
                    data,
                    format=format,
                    label_scheme=label_scheme,
                    modalities=_names(modalities),
                    classes=_names(classes),
                    patients=patients,
                    allow_missing=allow_missing,
                    split=split,
                    jobs=jobs,
                    progress=told,
                )
            )
        if as_json:
            print(report.to_json(), end="")
        else:
            from rich.console import Console

            from metaseg.cases.check.report import render

            Console().print(render(report, limit=limit))
        if not report.ok:
            raise typer.Exit(1)


@data_app.command(cls=PlainCommand)
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
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing table.")] = False,
) -> None:
    """Write a first table of the cases in a folder that follows no naming, to be looked over.

    Files are told by their names alone. What is in doubt is left out and listed.
    """
    with messages():
        from metaseg.cases.readers.index import index_folder
        from metaseg.files import refuse_existing, write_text

        table = data / "cases.csv" if out is None else out
        found = index_folder(data, pattern or ())
        images = [file for case in found.cases for file in case.files.values()]
        refuse_existing([table], overwrite, [*images, *found.left_out])
        write_text(table, found.to_csv(table.parent))
        print_index(found, table, data)


@data_app.command(cls=PlainCommand)
def summary(
    data: Root,
    format: Format = "auto",
    label_scheme: Scheme = None,
    classes: Classes = None,
    patients: Patients = None,
    csv: Annotated[Path | None, typer.Option(help="Write a table with one row per case to this file.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing table.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what a data set holds: patients, cohorts, grids, modalities, intensities and tumour volumes."""
    with messages():
        from metaseg.cases import read_cases, summarise
        from metaseg.cases.case import FailedCase, raise_failed
        from metaseg.files import refuse_existing, require_writable, write_text

        cases = read_cases(
            data, format=format, label_scheme=label_scheme, classes=_names(classes), patients=patients, need_labels=True
        )
        if csv is not None:
            refuse_existing([csv], overwrite, _read_files(data, cases, patients))
            require_writable(csv.parent)
        failed: list[FailedCase] = []
        with _progress("reading cases") as told:
            found = summarise(cases, progress=told, failed=failed)
        if csv is not None:
            write_text(csv, found.table().to_csv(index=False))
        if as_json:
            print(json.dumps(found.to_dict() | {"failed": [one.to_json() for one in failed]}, indent=2))
        else:
            print_summary(found)
        raise_failed(failed, len(cases), "read")


@data_app.command(cls=PlainCommand)
def split(
    data: Root,
    out: Annotated[Path, typer.Option(help="Split file to write.")] = Path("split.json"),
    parts: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=SHARE,...",
            help="Parts with shares that sum to 1, or numbers of patients. [default: train=0.7,val=0.15,test=0.15]",
        ),
    ] = None,
    folds: Annotated[
        int | None, typer.Option(max=10_000, help="Number of folds of a cross-validation, instead of parts.")
    ] = None,
    stratify: Annotated[
        str, typer.Option(metavar="[cohort|grade|site|none]", help="Property whose shares all parts keep alike.")
    ] = "cohort",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draw.")] = 0,
    format: Format = "auto",
    classes: Classes = None,
    patients: Patients = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing split file.")] = False,
) -> None:
    """Draw train, validation and test patients; all cases of a patient stay together.

    The same cases and seed give the same split. Give the file to other verbs with --split. Of image folders, which tell
    no patients, copies and near-copies of a picture stay together.
    """
    with messages():
        from metaseg.cases import make_split, missing_strata, read_cases
        from metaseg.files import refuse_existing

        choices: dict[str, Literal["cohort", "grade", "site"] | None] = {
            "cohort": "cohort",
            "grade": "grade",
            "site": "site",
            "none": None,
        }
        if stratify not in choices:
            raise UsageError(f"'stratify' is '{stratify}'", where="--stratify", expected="one of " + ", ".join(choices))
        shares = _shares(parts)
        cases = read_cases(data, format=format, classes=_names(classes), patients=patients, need_labels=True)
        refuse_existing([out], overwrite, _read_files(data, cases, patients))
        if any("split" in case.extra for case in cases):
            warn_user(
                "the table has a column 'split'; another split is drawn here",
                where=data,
                remedy="to use the column as it is, give the table itself to other verbs with --split",
            )
        drawn = make_split(cases, parts=shares, folds=folds, seed=seed, stratify=choices[stratify])
        drawn.save(out)
        print_split(drawn, out)
        pictures = [case for case in cases if case.format == "image-folder"]
        if joined := len(pictures) - len({case.patient for case in pictures}):
            print(f"{joined} of {len(pictures)} pictures are copies or near-copies of others, and stay with them")
        for missing in missing_strata(cases, drawn):
            print(f"warning: {missing}; use fewer parts, add cases, or leave it out with --classes")


@data_app.command(cls=PlainCommand)
def prepare(
    data: Root,
    store: Annotated[Path, typer.Argument(metavar="STORE", help="Folder to write.", show_default=False)],
    format: Format = "auto",
    label_scheme: Scheme = None,
    modalities: Modalities = None,
    classes: Classes = None,
    patients: Patients = None,
    allow_missing: AllowMissing = False,
    image_size: Annotated[
        int | None, typer.Option(min=16, help="Shrink slices so that the longer side has at most this many pixels.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=0, help="Threads; 0 takes one a core.")] = 0,
) -> None:
    """Prepare cases once into a folder of their own, for use as --data.

    Training verbs prepare raw cases by themselves and keep them in a cache; a folder of its own pays where the cache
    cannot be used, such as for a cluster.
    """
    with messages():
        from metaseg.cases.case import FailedCase, raise_failed
        from metaseg.store.prepare import prepare_store

        failed: list[FailedCase] = []
        with _progress("preparing cases") as told:
            prepared = prepare_store(
                data,
                store,
                format=format,
                label_scheme=label_scheme,
                modalities=_names(modalities) or (),
                classes=_names(classes) or (),
                patients=patients,
                allow_missing=allow_missing,
                image_size=image_size,
                jobs=jobs,
                progress=told,
                failed=failed,
            )
        print(f"{len(prepared)} cases prepared in {store}")
        raise_failed(failed, len(prepared) + len(failed), "prepared")


@data_app.command(cls=PlainCommand)
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
    with messages():
        from metaseg.cases.phantoms import make_phantoms

        sizes: dict[str, Literal["small", "full"]] = {"small": "small", "full": "full"}
        if size not in sizes:
            raise UsageError(f"'size' is '{size}'", where="--size", expected="one of " + ", ".join(sizes))
        with _progress("making phantoms") as told:
            made = make_phantoms(out, cohort=cohort, cases=cases, seed=seed, size=sizes[size], progress=told)
        print(f"{len(made)} synthetic cases in {out}")


@data_app.command(cls=PlainCommand)
def fetch(
    name: Annotated[str, typer.Argument(help="Data set to fetch.")] = "msd-task01-brats",
    out: Annotated[Path, typer.Option(help="Folder in which the data set's own folder is made.")] = Path("data"),
) -> None:
    """Download a public data set that needs no registration, check it and unpack it.

    An interrupted download is continued. Data sets that need a registration are described in data_cards/.
    """
    with messages():
        from metaseg.cases.fetch import DOWNLOADS, fetch_dataset

        folder = fetch_dataset(name, out)
        download = DOWNLOADS[name]
        print(f"{folder}\nlicence: {download.licence}\ncite:    {download.citation}")


def _read_files(data: Path, cases: Sequence[Case], patients: Path | None) -> list[Path]:
    """What is read of a data set: its images, labels and tables."""
    described = [data / name for name in ("cases.csv", "index.csv", "dataset.json", "metaseg-phantoms.json")]
    return [data, *described, *([patients] if patients else []), *(file for case in cases for file in case.files)]


def _names(text: str | None) -> tuple[str, ...] | None:
    names = tuple(name.strip() for name in (text or "").split(",") if name.strip())
    return names or None


def _shares(text: str | None) -> dict[str, float] | None:
    """``"train=0.8,test=0.2"`` as a mapping; whole numbers stay whole, since they count patients."""
    if text is None:
        return None
    shares: dict[str, float] = {}
    for item in text.split(","):
        name, equals, number = (part.strip() for part in item.partition("="))
        try:
            share = int(number) if number.isdigit() else float(number)
        except ValueError:
            share = float("nan")
        if not name or not equals or share != share or name in shares:
            raise UsageError(f"'parts' is '{text}'", where="--parts", expected="such as train=0.7,val=0.15,test=0.15")
        shares[name] = share
    return shares


@contextlib.contextmanager
def _progress(description: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar for functions that tell how many cases are done, and of how many."""
    from metaseg.terminal import progress

    with contextlib.ExitStack() as stack:
        bar: Any = None
        shown = 0

        def told(done: int, total: int) -> None:
            nonlocal bar, shown
            if bar is None:
                bar = stack.enter_context(progress(description, total))
            bar.advance(done - shown)
            shown = done

        yield told
