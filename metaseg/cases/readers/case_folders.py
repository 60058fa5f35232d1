"""The two conventions of BraTS: files named ``<case><suffix>.nii.gz``, usually a folder per case.

BraTS 2018 to 2021: ``<case>/<case>_{flair,t1,t1ce,t2,seg}.nii.gz``, in folders HGG and LGG up to 2019. BraTS 2023 and
later: ``BraTS-MET-00110-000/BraTS-MET-00110-000-{t2f,t1n,t1c,t2w,seg}.nii.gz``; the radiotherapy set of the meningioma
challenge has one modality and another label, ``<case>_t1c`` and ``<case>_gtv``. Files that are named one by one, as for
a prediction, follow the same conventions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike
from pathlib import Path

from metaseg.cases.case import Case, Volume
from metaseg.cases.labels import LABEL_SCHEMES, LabelScheme
from metaseg.cases.labels import label_scheme as scheme_by_name
from metaseg.cases.patients import SITED, patient_of
from metaseg.cases.readers.common import Reader, ReadOptions, doubled_files, other_case, walk_files
from metaseg.cases.volumes import VOLUME_SUFFIXES, split_name, volume_from_file
from metaseg.config.modalities import canonical_modality
from metaseg.errors import DataError, UsageError, warn_user
from metaseg.files import FileKind, read_rows

COHORT_FOLDERS = ("HGG", "LGG", "GLI", "MET", "MEN", "PED", "SSA")
"""Folder names that give the cohort of the cases in them."""

_GRADES = ("HGG", "LGG")
_KNOWN_LABELS = {"W39_1998.09.19": "BraTS20_Training_355"}
"""Labels that were published under another name than their case's: BraTS 2020's case 355."""


@dataclass(frozen=True)
class Convention:
    """How files are named.

    Attributes:
        name: The reader's name.
        images: Suffix of the file name (before ``.nii.gz``, ``.nrrd`` and so on) to modality.
        labels: Suffix of the file name to label scheme; the first scheme is the convention's own.
    """

    name: str
    images: Mapping[str, str]
    labels: Mapping[str, str]

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Splits a file name into ``case`` and ``suffix``."""
        # Longest first, so that "_t1ce" is not read as a case that ends in "ce".
        suffixes = sorted((*self.images, *self.labels), key=len, reverse=True)
        joined = "|".join(re.escape(suffix) for suffix in suffixes)
        endings = "|".join(re.escape(ending) for ending in VOLUME_SUFFIXES)
        return re.compile(rf"(?P<case>.+)(?P<suffix>{joined})({endings})", re.IGNORECASE)

    def parts_of(self, name: str) -> tuple[str, str] | None:
        """The case that a file's name tells, and its suffix in lower case; None if it is named otherwise."""
        match = self.pattern.fullmatch(name)
        return (match["case"], match["suffix"].lower()) if match else None

    def first_image(self, root: Path) -> Path | None:
        """The first image file below ``root``, or None."""
        named = ((path, self.parts_of(path.name)) for path in walk_files(root))
        return next((path for path, parts in named if parts and parts[1] in self.images), None)


BRATS = Convention(
    "brats",
    images={"_flair": "flair", "_t1": "t1", "_t1ce": "t1ce", "_t2": "t2"},
    labels={"_seg": "brats", "_segm": "brats"},
)
BRATS2023 = Convention(
    "brats2023",
    images={"-t2f": "flair", "-t1n": "t1", "-t1c": "t1ce", "_t1c": "t1ce", "-t2w": "t2"},
    labels={"-seg": "brats2023", "_gtv": "whole-lesion"},
)
_COHORT = re.compile(r"brats-(?P<cohort>[a-z]+(-rt)?)-", re.IGNORECASE)


def cohort_folder(folder: Path) -> str | None:
    """The cohort that the nearest of the case's folders names, or None."""
    folder = folder.absolute()
    for name in (folder.name, *(parent.name for parent in folder.parents[:3])):
        if name.upper() in COHORT_FOLDERS:
            return name.upper()
    return None


def grade_of(cohort: str | None) -> str | None:
    """The glioma grade, where the cohort is one."""
    return cohort if cohort in _GRADES else None


def _read_brats(root: Path, options: ReadOptions) -> list[Case]:
    """The cases below ``root``; cohort and grade are the folder's, or those of BraTS's ``name_mapping.csv``."""
    grades = _grades_from_mapping(root)

    def identify(case: str, folder: Path) -> tuple[str, str | None]:
        cohort = cohort_folder(folder) or grades.get(case)
        sited = SITED.fullmatch(case)
        return cohort or ("GLI" if case.lower().startswith("brats") else "unknown"), sited["site"] if sited else None

    return _read_case_folders(root, BRATS, identify, options)


def _grades_from_mapping(root: Path) -> dict[str, str]:
    """Case id to grade, from the table that BraTS 2019 and 2020 come with, if there is one."""
    kind = FileKind("the table of BraTS' grades", "get it again or remove it", DataError)
    tables = (folder / "name_mapping.csv" for folder in (root, root.parent))
    table = next((table for table in tables if table.is_file()), None)
    grades: dict[str, str] = {}
    for row in read_rows(table, kind) if table else ():
        grade = (row.get("Grade") or "").strip().upper()
        if grade_of(grade):
            grades |= {value: grade for value in row.values() if value != row["Grade"]}
    return grades


def _read_brats2023(root: Path, options: ReadOptions) -> list[Case]:
    """The cases below ``root``; their names give the cohort."""

    def identify(case: str, folder: Path) -> tuple[str, str | None]:
        named = _COHORT.match(case)
        return named["cohort"].upper() if named else (cohort_folder(folder) or "unknown"), None

    scheme = LABEL_SCHEMES["brats2023"]
    # Of paediatric cases, 4 is no resection cavity, and the labels mean something else in other editions.
    paediatric = replace(scheme, instead=("brats-ped",))
    return [
        replace(case, scheme=paediatric) if case.scheme is scheme and case.cohort == "PED" else case
        for case in _read_case_folders(root, BRATS2023, identify, options)
    ]


_Files = dict[str, list[Path]]
_Identify = Callable[[str, Path], tuple[str, str | None]]
"""From case id and folder to cohort and site."""


def _read_case_folders(root: Path, convention: Convention, identify: _Identify, options: ReadOptions) -> list[Case]:
    """Make the cases below ``root``.

    Raises:
        DataError: In strict mode, an image or label occurs twice, or a case's folder holds files of another case.
    """
    groups = _group_files(root, convention)
    _adopt_known_labels(groups)
    _find_other_cases(groups, options)
    return [
        _make_case(case_id, folder, files, convention, identify, options) for (folder, case_id), files in groups.items()
    ]


def _group_files(root: Path, convention: Convention) -> dict[tuple[Path, str], _Files]:
    """Files by folder and case, then by modality or ``"label"``."""
    groups: dict[tuple[Path, str], _Files] = {}
    for path in walk_files(root):
        if parts := convention.parts_of(path.name):
            what = convention.images.get(parts[1], "label")
            groups.setdefault((path.parent, parts[0]), {}).setdefault(what, []).append(path)
    return groups


def _adopt_known_labels(groups: dict[tuple[Path, str], _Files]) -> None:
    """Give published labels of another name to their case."""
    for (folder, stray), files in list(groups.items()):
        owner = (folder, _KNOWN_LABELS.get(stray, ""))
        if owner in groups and set(files) == {"label"}:
            groups[owner].setdefault("label", []).extend(groups.pop((folder, stray))["label"])


def _find_other_cases(groups: Mapping[tuple[Path, str], _Files], options: ReadOptions) -> None:
    """Refuse, or note, files of one case in the folder of another: nobody knows whose scan or outline they are."""
    by_folder: dict[Path, list[str]] = {}
    for folder, case_id in groups:
        by_folder.setdefault(folder, []).append(case_id)
    for folder, ids in by_folder.items():
        with_images = [case_id for case_id in ids if set(groups[folder, case_id]) != {"label"}]
        owner = next((case_id for case_id in ids if case_id == folder.name), None)
        if owner is None and len(with_images) == 1:
            owner = with_images[0]
        for other in ids:
            if owner in (None, other) or (owner != folder.name and other in with_images):
                continue
            files = [path for paths in groups[folder, other].values() for path in paths]
            mine = next(path for paths in groups[folder, str(owner)].values() for path in paths)
            found = f"the folder of case {owner} holds files of case {other}: {', '.join(path.name for path in files)}"
            options.refuse_or_note(other_case(found, mine, files[0]), files[0], str(owner))


def _make_case(
    case_id: str, folder: Path, files: _Files, convention: Convention, identify: _Identify, options: ReadOptions
) -> Case:
    for what, paths in files.items():
        if options.strict and len(paths) > 1:
            raise doubled_files(case_id, what, paths)
    order = dict.fromkeys(convention.images.values())
    images = {modality: volume_from_file(files[modality][0]) for modality in order if modality in files}
    label = volume_from_file(files["label"][0]) if "label" in files else None
    named = convention.parts_of(label.files[0].name) if label else None
    scheme = convention.labels[named[1] if named else next(iter(convention.labels))]
    cohort, site = identify(case_id, folder)
    return Case(
        id=case_id,
        patient=case_id,
        cohort=cohort,
        images=images,
        label=label,
        scheme=options.scheme or LABEL_SCHEMES[scheme],
        grade=grade_of(cohort),
        site=site,
        format=convention.name,
        doubled=tuple(path for paths in files.values() for path in paths[1:]),
    )


def read_case_files(
    images: Mapping[str, str | PathLike[str]] | Sequence[str | PathLike[str]],
    id: str | None = None,
    *,
    label: str | PathLike[str] | None = None,
    label_scheme: str | LabelScheme = "brats2023",
    cohort: str = "unknown",
) -> Case:
    """Make a case of files named one by one, as for prediction.

    Args:
        images: Modality to file; or files whose names end in a modality, such as ``patient_t1ce.nii.gz``.
        id: Name of the case; by default what the files' names share.
        label: The outline, or None.
        label_scheme: What the label's numbers mean, and how predictions are written.
        cohort: Where the case comes from.

    Raises:
        DataError: A file is missing, a name does not give its modality, two files are the same modality, or without an
            ``id`` the names are of two cases.
        UsageError: No file was given, or ``label_scheme`` is unknown.
    """
    pairs = (
        list(images.items()) if isinstance(images, Mapping) else [(_modality_of(Path(file)), file) for file in images]
    )
    if not pairs:
        raise UsageError("no image file was given", expected="at least one NIfTI file")
    volumes: dict[str, Volume] = {}
    for name, file in pairs:
        modality, path = canonical_modality(name), Path(file)
        if not path.is_file():
            raise DataError(f"the {modality} file does not exist", where=path, remedy="check the path")
        if modality in volumes:
            raise doubled_files(id or "given by files", modality, (*volumes[modality].files, path))
        volumes[modality] = volume_from_file(path)
    outline = [Path(label)] if label is not None else []
    case_id = id or _shared_name([Path(file) for _, file in pairs] + outline, len(pairs))
    return Case(
        id=case_id,
        patient=patient_of(case_id),
        cohort=cohort,
        images=volumes,
        label=volume_from_file(Path(label)) if label is not None else None,
        scheme=scheme_by_name(label_scheme) if isinstance(label_scheme, str) else label_scheme,
        format="files",
    )


def _modality_of(path: Path) -> str:
    for convention in (BRATS2023, BRATS):
        parts = convention.parts_of(path.name)
        if parts and parts[1] in convention.images:
            return convention.images[parts[1]]
    raise DataError(
        "the file's name does not give its modality",
        where=path,
        expected="a name that ends in _flair, _t1, _t1ce, _t2 or in -t2f, -t1n, -t1c, -t2w",
        remedy=f"name the modality, as in t1ce={path.name}",
    )


def _shared_name(files: Sequence[Path], images: int) -> str:
    """The case that files' names tell, the images first; the first image's name where no convention is followed.

    Raises:
        DataError: They name two.
    """
    for convention in (BRATS2023, BRATS):
        named = [(parts[0], file) for file in files if (parts := convention.parts_of(file.name))]
        if named:
            break
    told: dict[str, Path] = {}
    for case, file in named:
        told.setdefault(case, file)
    if len(told) > 1:
        names, places = list(told), list(told.values())
        raise other_case(
            f"the files are of two cases, {names[0]} and {names[1]}: {places[0].name}, {places[1].name}", *places[:2]
        )
    folders = sorted({str(file.absolute().parent) for file in files[:images]})
    if told and len(folders) > 1:
        warn_user(
            f"the files of case {next(iter(told))} lie in several folders, and are taken for one patient's",
            where=" and ".join(folders),
            remedy="make sure that they are: hospitals may use one name for two patients",
        )
    if told and len(named) == len(files):
        return next(iter(told))
    return split_name(files[0].name)[0]


BRATS_READER = Reader(
    BRATS.name,
    "BraTS 2018-2021 names: <case>_flair/_t1/_t1ce/_t2/_seg.nii.gz",
    lambda path: BRATS.first_image(path) is not None,
    _read_brats,
)
BRATS2023_READER = Reader(
    BRATS2023.name,
    "BraTS 2023 names: <case>-t2f/-t1n/-t1c/-t2w/-seg.nii.gz",
    lambda path: BRATS2023.first_image(path) is not None,
    _read_brats2023,
)
