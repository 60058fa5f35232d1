"""A case of files that are named one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path

from metaseg.cases.case import Case, Volume
from metaseg.cases.labels import LabelScheme
from metaseg.cases.labels import label_scheme as scheme_by_name
from metaseg.cases.readers import brats, brats2023
from metaseg.cases.readers.common import doubled_files, other_case
from metaseg.cases.sessions import patient_of
from metaseg.cases.volumes import VOLUME_SUFFIXES, volume_from_file
from metaseg.errors import DataError, UsageError, warn_user
from metaseg.modality_names import canonical_modality


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
        DataError: A file is missing, a name does not tell its modality, two files are the same modality, or without an
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
    for convention in (brats2023.CONVENTION, brats.CONVENTION):
        match = convention.pattern.fullmatch(path.name)
        if match and match["suffix"].lower() in convention.images:
            return convention.images[match["suffix"].lower()]
    raise DataError(
        "the file's name does not tell its modality",
        where=path,
        expected="a name that ends in _flair, _t1, _t1ce, _t2 or in -t2f, -t1n, -t1c, -t2w",
        remedy=f"name the modality, as in t1ce={path.name}",
    )


def _shared_name(files: Sequence[Path], images: int) -> str:
    """The case that files' names tell, the images first; the first image's name where no convention is followed.

    Raises:
        DataError: They tell two.
    """
    told: dict[str, Path] = {}
    for convention in (brats2023.CONVENTION, brats.CONVENTION):
        matches = {file: convention.pattern.fullmatch(file.name) for file in files}
        for file, match in matches.items():
            if match:
                told.setdefault(match["case"], file)
        if told:
            break
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
    if told and all(matches.values()):
        return next(iter(told))
    name = files[0].name
    suffixes = [suffix for suffix in sorted(VOLUME_SUFFIXES, key=len, reverse=True) if name.lower().endswith(suffix)]
    return name[: -len(suffixes[0])] if suffixes else files[0].stem
