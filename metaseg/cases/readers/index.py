"""A first table of cases for files that follow no naming: found by their names and folders, to be reviewed.

A file's name says its modality, or that it is an outline, at its end or beginning; the rest names the case. Where there
is no rest, as in ``patient07/FLAIR.nii.gz``, the folders do. Patterns such as ``{case}/{modality}.nii.gz`` say it
outright. What is in doubt is left out and reported, never guessed.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from metaseg.cases.case import MODALITIES
from metaseg.cases.patients import patient_of
from metaseg.cases.readers.case_folders import COHORT_FOLDERS
from metaseg.cases.readers.common import natural_key, relative_name, walk_files
from metaseg.cases.readers.table import COLUMNS, column_of
from metaseg.cases.volumes import VOLUME_SUFFIXES, split_name
from metaseg.config.modalities import canonical_modality
from metaseg.errors import DataError, UsageError

_MAX_DEPTH = 9
_GAPS = re.compile(r"[_\-. ]+")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_LESION_WORDS = _words("lesion lesions lesionmask tumor tumour tumormask tumorseg gtv")
# A folder "tumor" may be a class of patients: these say that outlines lie in it.
_LABEL_FOLDERS = _words(
    "annotation annotations gt label labels labelstr labelsts lesionmask mask masks outlines roi rois seg segm segs "
    "segmentation segmentations"
)
_LABEL_WORDS = (
    _LESION_WORDS
    | _LABEL_FOLDERS
    | _words("consensus goldstandard gold standard groundtruth ground truth manual outline dseg expert")
)
_AUTOMATIC = _words("automated automatic auto approx pred prediction predicted")
_ANATOMY = _words("brain brainmask bet parenchyma tissue skull")
# Versions of a file that a plainer one goes before.
_VERSION_WORDS = _words(
    "bias bc bfc brain bet coreg corrected iso isotropic mni n4 norm normalized preproc preprocessed reg registered "
    "resampled skullstripped ss std stripped unstripped 1mm"
)
_GENERIC_FOLDERS = _words(
    "anat data dataset derivatives image images imagestr imagests imagesstructural imagesstructuralunstripped mr mri "
    "nifti niftis nii raw rawdata scans structural test testing train training val validation volumes"
)
_KNOWN_LABELS = {"upenn-gbm": "brats", "ucsf-pdgm": "brats"}
"""Beginning of published names to the label convention of their outlines."""

_PLACEHOLDERS = ("case", "patient", "session", "cohort", "site", "modality")


@dataclass(frozen=True)
class IndexedCase:
    """One row of the table to be written.

    Attributes:
        told: Column of the table to its text, such as ``case`` and ``patient``.
        files: Modality or ``"label"`` to its file.
    """

    told: Mapping[str, str]
    files: Mapping[str, Path]


@dataclass(frozen=True)
class Index:
    """What was found in a folder.

    Attributes:
        cases: The cases, in the order of their names.
        left_out: Files without a place in the table, and why.
    """

    cases: tuple[IndexedCase, ...]
    left_out: Mapping[Path, str]

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that any case needs: what is known, modalities, then the label."""
        told = [name for name in COLUMNS if name != "label_scheme" and any(name in case.told for case in self.cases)]
        images = {name for case in self.cases for name in case.files} - {"label"}
        modalities = sorted(images, key=lambda name: (MODALITIES.index(name) if name in MODALITIES else 9, name))
        last = [name for name in ("label", "label_scheme") if any(name in {**c.files, **c.told} for c in self.cases)]
        return (*told, *modalities, *last)

    def to_csv(self, folder: Path) -> str:
        """The table, with paths relative to ``folder`` where they lie below it, and absolute elsewhere."""
        import pandas as pd

        base = folder.absolute()
        rows = [
            {**case.told, **{name: relative_name(file.absolute(), base) for name, file in case.files.items()}}
            for case in self.cases
        ]
        return pd.DataFrame(rows, columns=list(self.columns)).to_csv(index=False, lineterminator="\n")


@dataclass(frozen=True)
class _Place:
    """Where a file may stand: the case it names, what it is, and how much goes before it (0 for the plainest file)."""

    case: str
    column: str
    rank: int = 0
    told: tuple[tuple[str, str], ...] = ()


def index_folder(root: Path, patterns: Sequence[str] = ()) -> Index:
    """Look for cases by the names of files.

    Args:
        root: Folder of the data set.
        patterns: Paths below it with ``{case}``, ``{patient}``, ``{session}``, ``{cohort}``, ``{site}`` and
            ``{modality}``; ``*`` stands for anything within a name, ``**`` for any folders. What a pattern's files are
            may come first, as in ``t1ce={case}/7.nii.gz`` or ``label={case}/roi.nii.gz``. If given, names are not
            looked at otherwise.

    Raises:
        UsageError: A pattern cannot be understood.
        DataError: There is no such folder, or no case was found.
    """
    if not root.is_dir():
        raise DataError("there is no such folder", where=root, remedy="check the path")
    files = [path for path in walk_files(root, _MAX_DEPTH) if path.name.lower().endswith(VOLUME_SUFFIXES)]
    compiled = [_compile(pattern) for pattern in patterns]
    places: dict[Path, _Place] = {}
    left_out: dict[Path, str] = {}
    for path in files:
        relative = path.relative_to(root)
        place = _by_pattern(relative, compiled) if compiled else _by_name(relative)
        if isinstance(place, str):
            left_out[path] = place
        else:
            places[path] = place
    if not compiled:
        places = _told_apart(places, root)
    cases = tuple(_gather(places, left_out))
    if not cases:
        raise DataError(
            f"no case was found among {len(files)} image files",
            where=root,
            expected="names that give modality and case, such as P1_T1ce.nii.gz or P1/FLAIR.nii.gz",
            remedy="say how files are named: --pattern '{case}/{modality}.nii.gz' --pattern 'label={case}/roi.nii.gz'",
        )
    return Index(cases, left_out)


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _by_name(relative: Path) -> _Place | str:
    """The place that a file's name and folders tell, or why there is none."""
    stem, folders = split_name(relative.name)[0], relative.parts[:-1]
    words = _GAPS.split(stem.lower())
    in_label_folder = any(_is_label_folder(folder) for folder in folders)
    column, rest, version = _by_entities(stem) if stem.lower().startswith("sub-") and "_" in stem else _split(stem)
    if in_label_folder:
        column = "label"
    elif column is None:
        column = next(
            (canonical_modality(name) for name in reversed(folders) if canonical_modality(name) in MODALITIES), None
        )
    if column is None:
        return "the name gives no modality"
    if column == "label" and (_AUTOMATIC & set(words) or (_ANATOMY & set(words) and not _LESION_WORDS & set(words))):
        return "by its name no outline of a lesion, or one that a program drew"
    told = next((("cohort", name.upper()) for name in reversed(folders) if name.upper() in COHORT_FOLDERS), None)
    derived = "derivatives" in (folder.lower() for folder in folders) and column != "label"
    case = rest if re.search(r"\d", rest) else "_".join(_telling(folders))
    return _Place(case, column, 2 * derived + version, (told,) if told else ()) if case else "the name gives no case"


def _telling(folders: Sequence[str]) -> list[str]:
    """Folders that may name a patient or session."""
    return [
        name
        for name in folders
        if not ({_plain(name), name.lower()} & _GENERIC_FOLDERS)
        and not _is_label_folder(name)
        and canonical_modality(name) not in MODALITIES
        and name.upper() not in COHORT_FOLDERS
    ]


def _is_label_folder(name: str) -> bool:
    words = set(_GAPS.split(name.lower()))
    return bool(words & _LABEL_FOLDERS) and words <= _LABEL_WORDS | _VERSION_WORDS | {"images", "tr", "ts"}


def _by_entities(stem: str) -> tuple[str | None, str, bool]:
    """Column, case and whether it is a version, of a BIDS name such as ``sub-01_ses-02_ce-gd_T1w``."""
    *entities, suffix = stem.split("_")
    keys = {entity.split("-")[0].lower() for entity in entities}
    case = "_".join(entity for entity in entities if entity.lower().startswith(("sub-", "ses-")))
    if suffix.lower() in _LABEL_WORDS:
        return "label", case, False
    column = canonical_modality(suffix)
    if column not in MODALITIES:
        column_by_words, _, version = _split(stem)
        return column_by_words, case, version
    return "t1ce" if column == "t1" and "ce" in keys else column, case, bool(keys & {"space", "desc", "rec"})


def _split(stem: str) -> tuple[str | None, str, bool]:
    """Column, what is left of the name, and whether words such as ``bias`` say that a plainer file may exist."""
    found = list(re.finditer(r"[^_\-. ]+", stem))
    words = [match[0] for match in found]
    # As in T1_to_FLAIR: what follows is another image.
    end = next((number for number, word in enumerate(words) if number and word.lower() in ("to", "in")), len(words))
    while end > 1 and words[end - 1].lower() in _VERSION_WORDS:
        end -= 1
    for length in range(min(4, end), 0, -1):
        for start in dict.fromkeys((end - length, 0)):
            column = _column_of_words(words[start : start + length])
            if column and start == 0:
                left = stem[found[length].start() :] if length < end else ""
                return column, left, end < len(words)
            if column:
                while start > 1 and words[start - 1].lower() in _VERSION_WORDS:
                    start -= 1
                return column, stem[: found[start - 1].end()], end < len(words)
    return None, stem, end < len(words)


def _column_of_words(words: Sequence[str]) -> str | None:
    if all(word.lower() in _LABEL_WORDS for word in words):
        return "label"
    modality = canonical_modality("".join(words))
    return modality if modality in MODALITIES else None


def _compile(pattern: str) -> tuple[str | None, re.Pattern[str]]:
    """Column that the pattern's files are all of, or None, and an expression for their paths."""
    named = re.fullmatch(r"(?P<column>[\w+-]+)=(?P<rest>.+)", pattern)
    column, rest = (column_of(named["column"]), named["rest"]) if named else (None, pattern)
    seen: set[str] = set()
    expression = ""
    for part in re.split(r"(\{[^{}]*\}|\*\*/?|\*)", rest.replace("\\", "/").removeprefix("./")):
        name = part[1:-1]
        if part.startswith("{") and name in _PLACEHOLDERS:
            shape = "[^/]+?" if name == "modality" else "[^/]+"
            expression += f"(?P={name})" if name in seen else f"(?P<{name}>{shape})"
            seen.add(name)
        elif part.startswith("{"):
            seen.clear()
            break
        else:
            expression += {"**/": "(?:.+/)?", "**": ".*", "*": "[^/]*"}.get(part, re.escape(part))
    if not seen & {"case", "patient"} or ("modality" in seen) == (column is not None):
        raise UsageError(
            f"the pattern '{pattern}' cannot be understood",
            where="--pattern",
            expected="a path with {case} or {patient}, and {modality} or what the files are in front, such as "
            "'{case}/{modality}.nii.gz' or 'label={case}/roi.nii.gz'",
            remedy="use " + ", ".join(f"{{{name}}}" for name in _PLACEHOLDERS) + ", * and **",
        )
    return column, re.compile(expression, re.IGNORECASE)


def _by_pattern(relative: Path, patterns: Sequence[tuple[str | None, re.Pattern[str]]]) -> _Place | str:
    for column, expression in patterns:
        match = expression.fullmatch(relative.as_posix())
        if match:
            told = match.groupdict()
            column = column or column_of(told.pop("modality"))
            case = told.pop("case", None) or "_".join(filter(None, (told["patient"], told.get("session"))))
            return _Place(case, column, 0, tuple(told.items()))
    return "no pattern fits"


def _told_apart(places: Mapping[Path, _Place], root: Path) -> dict[Path, _Place]:
    """Put folders into the name of a case where files of several folders claim one place in it."""
    claims: defaultdict[tuple[str, str, int], set[Path]] = defaultdict(set)
    for path, place in places.items():
        claims[place.case.casefold(), place.column, place.rank].add(path.parent)
    unclear = {case for (case, _, _), folders in claims.items() if len(folders) > 1}
    result = {}
    for path, place in places.items():
        if place.case.casefold() in unclear:
            folders = [
                name
                for name in _telling(path.relative_to(root).parts[:-1])
                if name.casefold() not in place.case.casefold()
            ]
            place = replace(place, case="_".join((place.case, *folders)))
        result[path] = place
    return result


def _gather(places: Mapping[Path, _Place], left_out: dict[Path, str]) -> Iterator[IndexedCase]:
    """The cases, with the plainest file of each kind; files that could stand for one another are left out."""
    grouped: defaultdict[str, list[Path]] = defaultdict(list)
    for path, place in places.items():
        grouped[place.case.casefold()].append(path)
    for _, paths in sorted(grouped.items(), key=lambda item: natural_key(item[0])):
        cells: dict[str, Path] = {}
        told: dict[str, str] = {}
        for column in dict.fromkeys(places[path].column for path in paths):
            claiming = [path for path in paths if places[path].column == column]
            best = min(places[path].rank for path in claiming)
            chosen = [path for path in claiming if places[path].rank == best]
            left_out |= {
                path: f"a plainer file for the {column} of its case was found"
                for path in claiming
                if path not in chosen
            }
            if len(chosen) == 1:
                cells[column] = chosen[0]
                told |= dict(places[chosen[0]].told)
            else:
                left_out |= {path: f"one of {len(chosen)} files for the {column} of its case" for path in chosen}
        if set(cells) <= {"label"}:
            left_out |= dict.fromkeys(cells.values(), "an outline without an image")
            continue
        yield IndexedCase(_told(places[paths[0]].case, told, "label" in cells), dict(sorted(cells.items())))


def _told(case: str, told: Mapping[str, str], labelled: bool) -> dict[str, str]:
    """What the row says of a case besides its files."""
    patient = told.get("patient") or patient_of(case)
    row = {**told, "case": case, "patient": patient}
    if patient != case and case.startswith(patient) and "session" not in row:
        row["session"] = case[len(patient) :].strip("_-. ")
    scheme = next((scheme for start, scheme in _KNOWN_LABELS.items() if case.lower().startswith(start)), None)
    return row | ({"label_scheme": scheme} if scheme and labelled else {})
