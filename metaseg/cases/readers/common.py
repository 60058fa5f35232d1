"""What readers leave out and what cases lack: every verb names it, and a training refuses it unless told to go on.

What all readers share: their interface, modality names and the walk through folders.

Tell the label scheme from the label names of a ``dataset.json``.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from metaseg.cases.case import Case
from metaseg.cases.labels import CAVITY, LABEL_SCHEMES, SUBREGIONS, WHOLE_LESION, LabelScheme, label_scheme
from metaseg.cases.pictures import GroupCopies
from metaseg.errors import DataError, some, warn_user

_VOLUMES = (".nii", ".nii.gz", ".nii.bz2", ".hdr", ".mgz", ".mha", ".mhd", ".nrrd", ".dcm")
_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp", ".heic", ".jp2", ".dcm")
_IMAGES = {"slices": _PICTURES, "image-folder": _PICTURES, "cheng-mat": (".mat",)}
# Cheng's release holds the indices of its cross-validation beside the images.
_KNOWN = frozenset({"cvind.mat"})
# Parts of a data set in nnU-Net's layout; those that are not read are not left out by mistake.
_PARTS = frozenset({"imagesTr", "imagesTs", "imagesVal", "labelsTr", "labelsTs", "labelsVal"})
_DEPTH = 12


@dataclass(frozen=True)
class LeftOut:
    """A file, folder or case that is not read, or not all of it.

    Attributes:
        kind: A kind of finding of ``metaseg data check``.
        what: What it is one of, such as ``"cases without a label"``.
        found: What was found, as a sentence about this one.
        case: The case, where it is about one.
        file: The file or folder, where it is about one.
        place: Where a table lists it, such as ``"row 3, column t1ce"``.
    """

    kind: str
    what: str
    found: str
    case: str = ""
    file: Path | None = None
    place: str = ""


def absent_file(file: Path, case: str, place: str = "") -> LeftOut:
    """A file that a table or description lists, and that is not there."""
    found = f"the file that {place} lists is not there" if place else "the listed file is not there"
    return LeftOut("file-absent", "listed files that are not there", found, case, file, place)


def unreadable_file(file: Path, found: str, case: str = "") -> LeftOut:
    """A file that cannot be read, and without which a case is read."""
    return LeftOut("unreadable", "files that cannot be read", found, case, file)


def unread_files(root: Path, format: str, taken: Collection[Path]) -> Iterator[LeftOut]:
    """Image files below a data set's folder that are of no case, and folders that hide or hold none.

    Args:
        root: The folder.
        format: Name of the reader, which decides what counts as an image.
        taken: Files of the cases.
    """
    if format == "table":
        # The table is its user's own choice of files.
        return
    known = {os.path.abspath(file) for file in taken}
    parts = {part for file in known for part in Path(file).parts} & _PARTS
    suffixes = _IMAGES.get(format, _VOLUMES)
    unreadable: list[OSError] = []
    seen: set[str] = set()
    for folder, subfolders, names in os.walk(root, onerror=unreadable.append, followlinks=True):
        here = Path(folder)
        if not (names or subfolders or here == root or here.name in _PARTS):
            yield LeftOut("folder-empty", "empty folders", "the folder is empty", file=here)
        # A dataset.json may list files anywhere, but what lies in the folders of the layout belongs to it.
        listed, in_part = format == "nnunet", here.name in _PARTS
        for name in sorted(names):
            if name.lower().endswith(suffixes) and not name.startswith("._"):
                if name.startswith("."):
                    yield _hidden(here / name)
                elif name not in _KNOWN and os.path.abspath(here / name) not in known and (in_part or not listed):
                    yield _unread(here / name, format)
        for name in subfolders:
            if name.startswith(".") and _holds_images(here / name, suffixes):
                yield _hidden(here / name)
        # Links may lead back to a folder above.
        real = {name: os.path.realpath(here / name) for name in subfolders}
        subfolders[:] = sorted(
            name for name in subfolders if not (name.startswith(".") or name in _PARTS - parts or real[name] in seen)
        )
        seen.update(real.values())
        if subfolders and len(here.relative_to(root).parts) >= _DEPTH:
            found = f"what lies more than {_DEPTH} folders deep is not looked at"
            yield LeftOut("folder-unreadable", "folders that lie too deep", found, file=here)
            subfolders.clear()
    for error in unreadable:
        found = f"the folder cannot be read: {error.strerror}"
        yield LeftOut("folder-unreadable", "folders that cannot be read", found, file=Path(error.filename))


def _unread(file: Path, format: str) -> LeftOut:
    if not file.exists():
        return LeftOut("file-absent", "links to files that are not there", "the link leads nowhere", file=file)
    found = f"the naming '{format}' takes this file for no case's image or label"
    return LeftOut("file-unused", f"image files that the naming '{format}' does not take", found, file=file)


def _hidden(path: Path) -> LeftOut:
    return LeftOut("file-hidden", "hidden images", "images whose names begin with a dot are not read", file=path)


def _holds_images(folder: Path, suffixes: tuple[str, ...]) -> bool:
    try:
        return any(name.lower().endswith(suffixes) and not name.startswith("._") for name in os.listdir(folder))
    except OSError:
        return False


def lacking(
    cases: Iterable[tuple[str, Sequence[str], bool]], modalities: Sequence[str] = (), *, labels: bool
) -> list[LeftOut]:
    """Cases without a label or a modality.

    Args:
        cases: Id, modalities, and whether there is a label.
        modalities: Those that are needed; by default all that any case has.
        labels: Labels are needed too.
    """
    cases = list(cases)
    wanted = tuple(modalities) or tuple(dict.fromkeys(name for _, names, _ in cases for name in names))
    found = []
    for case, names, labelled in cases:
        if missing := " and ".join(name for name in wanted if name not in names):
            effect = "" if modalities else ", which is not used then"
            has = ", ".join(names) or "no image"
            found.append(
                LeftOut(
                    "modality-missing",
                    f"cases without {missing}{effect}",
                    f"{missing} missing; the case has {has}",
                    case,
                )
            )
        if labels and not labelled:
            found.append(LeftOut("label-missing", "cases without a label", "the case has no label", case))
    return found


def tell(left_out: Sequence[LeftOut], where: Path, *, refuse: bool) -> None:
    """Warn of what is left out, a sentence for each kind; or refuse it.

    Raises:
        DataError: Something is left out, and ``refuse``.
    """
    groups: defaultdict[str, dict[str, LeftOut]] = defaultdict(dict)
    for one in left_out:
        file = one.file and (
            one.file.relative_to(where).as_posix() if one.file.is_relative_to(where) else str(one.file)
        )
        groups[one.what].setdefault(f"{file or one.case}{one.place and f' ({one.place})'}", one)
    said = []
    for what, names in groups.items():
        first = next(iter(names.values()))
        reason = f" ({first.found})" if first.kind == "unreadable" else ""
        said.append(f"{what} ({len(names)}): {some(list(names))}{reason}")
    if said and refuse:
        modalities = any(one.kind == "modality-missing" for one in left_out)
        raise DataError(
            "; ".join(said),
            where=where,
            expected="data without gaps: nothing is left out unasked",
            remedy="mend them ('metaseg data check' lists all)"
            + (", choose modalities that all cases have with --modalities" if modalities else "")
            + ", or leave them out with --allow-missing",
        )
    for sentence in said:
        warn_user(f"left out: {sentence}", where=where, remedy="'metaseg data check' lists all")


_MAX_DEPTH = 5


@dataclass(frozen=True)
class ReadOptions:
    """What the caller of a reader asks for.

    Attributes:
        scheme: Label scheme that replaces the convention's own, or None.
        modality: Name of the modality where the files do not tell it, or None for the convention's default.
        strict: Raise on doubled files, and on a case with files of another one, instead of noting them.
        group_copies: Which pictures count as one patient where the files tell no patients.
        left_out: Where a reader notes what it passes over, except for files that no case has, which are found later.
        accounted: Files of no case that need no word, such as the mask of a slice that is left out.
    """

    scheme: LabelScheme | None = None
    modality: str | None = None
    strict: bool = True
    group_copies: GroupCopies = "near"
    left_out: list[LeftOut] = field(default_factory=list)
    accounted: set[Path] = field(default_factory=set)

    def refuse_or_note(self, error: DataError, file: Path, case: str = "") -> None:
        """Raise an error about a case with files of another one; if not strict, note it.

        Raises:
            DataError: That error, if strict.
        """
        if self.strict:
            raise error
        self.left_out.append(LeftOut("other-case", "files of another case", error.found, case, file))


@dataclass(frozen=True)
class Reader:
    """One file convention.

    Attributes:
        name: As in ``--format``.
        looks_for: What it looks for, for messages.
        matches: Whether a folder seems to follow the convention; looks at names only.
        read: Makes the cases of a folder, in a stable order; sessions are told from ``Case.patient`` after that.
    """

    name: str
    looks_for: str
    matches: Callable[[Path], bool]
    read: Callable[[Path, ReadOptions], list[Case]]


def natural_key(text: str) -> tuple[tuple[int, int | str], ...]:
    """Sort key that puts ``"slice 9"`` before ``"slice 10"``."""
    parts = re.split(r"(\d+)", text)
    return tuple((0, int(part)) if part.isdecimal() else (1, part.lower()) for part in parts if part)


def walk_files(root: Path, max_depth: int = _MAX_DEPTH) -> Iterator[Path]:
    """All visible files below ``root``, sorted within each folder, down to ``max_depth`` folders deep."""
    for folder, subfolders, names in os.walk(root, followlinks=True):
        here = Path(folder)
        depth = len(here.relative_to(root).parts)
        # Hidden names are the file system's own, such as the "._" twins that macOS leaves in archives.
        subfolders[:] = sorted(name for name in subfolders if not name.startswith(".")) if depth < max_depth else []
        yield from (here / name for name in sorted(names) if not name.startswith("."))


def subfolders(root: Path) -> list[Path]:
    """Visible folders directly below ``root``, sorted."""
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def find_doubled(names: Iterable[str]) -> str | None:
    """The first name that comes twice, or None."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def doubled_files(case_id: str, what: str, files: Iterable[Path]) -> DataError:
    """The error for several files that claim to be one image or label of a case."""
    files = list(files)
    return DataError(
        f"case {case_id}: {what} is there {len(files)} times: {', '.join(path.name for path in files)}",
        where=", ".join(str(path) for path in files),
        expected=f"one file for {what}",
        remedy="keep one and move the others out of the data set",
    )


def other_case(found: str, *files: Path) -> DataError:
    """The error for files of two cases that are given as one's."""
    return DataError(
        found,
        where=" and ".join(map(str, files)),
        expected="files of one case, named after it",
        remedy="find out whose they are; then rename them or move them to their case",
    )


_MEANINGS = {
    "RC": r"rc|.*cavity.*",
    "WT": r"wt|tumou?r|lesions?|metastas[ie]s|mets?|gtv|cancer|mass|.*whole.*",
    "TC": r"tc|core|(?!.*(nec|non)).*tumou?rcore.*",
    "NCR": r"ncr|net|netc|ncrnet|cc|.*(necro|cyst|tumou?rcore).*|(?=.*non).*enhanc.*",
    "ED": r"ed|snfh|.*(edema|flairhyper).*",
    "ET": r"et|at|.*enhanc.*",
}
"""Class (NCR, ED, ET, RC) or region (WT, TC) to the names that stand for it, letters alone; the first that fits."""
_NO_CLASS = {"background", "bg", "backgrd", "clear label", "unlabelled", "unlabeled", "ignore"}


def scheme_from_names(labels: Mapping[str, object], where: Path) -> LabelScheme:
    """Choose the label scheme whose values mean what the names say.

    Args:
        labels: The entry ``labels`` of a ``dataset.json``: value to name (Medical Segmentation Decathlon), name to
            value (nnU-Net), or name to list of values (nnU-Net's regions).
        where: The file, for the message.

    Returns:
        The scheme. Where the names are not understood, one that writes as ``brats2023`` does and refuses to read.
    """
    scheme = _known_scheme({name: values for name, values in _named(labels) if name not in _NO_CLASS})
    if scheme is None:
        return replace(LABEL_SCHEMES["brats2023"], unclear=_cannot_tell(labels, where))
    # The names have said what each value means, so that no other edition is in question.
    instead = ("any-lesion",) if scheme.space is WHOLE_LESION else ()
    return replace(scheme, instead=instead, ignore=ignored_value(labels))


def ignored_value(labels: Mapping[str, object]) -> int | None:
    """The value that nnU-Net's label ``ignore`` has, or None."""
    return next((max(values) for name, values in _named(labels) if name == "ignore"), None)


def _named(labels: Mapping[str, object]) -> Iterator[tuple[str, frozenset[int]]]:
    """Names in lower case and their values above 0, whichever way round the file lists them."""
    for key, entry in labels.items():
        by_value = isinstance(entry, str) and key.strip().isdecimal()
        values = [key] if by_value else entry if isinstance(entry, list) else [entry]
        numbers = frozenset(int(str(value)) for value in values if str(value).strip().isdecimal()) - {0}
        if numbers:
            yield (str(entry) if by_value else key).strip().lower(), numbers


def _known_scheme(named: Mapping[str, frozenset[int]]) -> LabelScheme | None:
    meanings: dict[str, frozenset[int]] = {}
    for name, values in named.items():
        letters = re.sub(r"[^a-z]", "", name)
        meaning = next((meaning for meaning, names in _MEANINGS.items() if re.fullmatch(names, letters)), None)
        # Necrosis, cysts and other core that does not enhance are one class here.
        if meaning is None or (meaning in meanings and meaning != "NCR"):
            return None
        meanings[meaning] = meanings.get(meaning, frozenset()) | values
    classes = _classes(meanings)
    if classes is None or max(classes) > 255:
        return None
    space = WHOLE_LESION if set(meanings) == {"WT"} else CAVITY if "RC" in meanings else SUBREGIONS
    known = (scheme for scheme in LABEL_SCHEMES.values() if scheme.space is space and scheme.others is None)
    spelled = label_scheme(",".join(f"{value}={space.classes[number]}" for value, number in classes.items()))
    return next((scheme for scheme in known if scheme.values == spelled.values), spelled)


def _classes(meanings: Mapping[str, frozenset[int]]) -> dict[int, int] | None:
    """File value to class of the label space, or None if the meanings do not give it."""
    cavity = meanings.get("RC", frozenset())
    told = set(meanings) - {"RC"}
    if set(meanings) == {"WT"}:
        return dict.fromkeys(meanings["WT"], 1)
    if told == {"WT", "TC", "ET"}:
        whole, core, enhancing = meanings["WT"], meanings["TC"], meanings["ET"]
        if not enhancing < core < whole or cavity & whole:
            return None
        parts = {1: core - enhancing, 2: whole - core, 3: enhancing}
    elif told == {"NCR", "ED", "ET"}:
        parts = {position: meanings[SUBREGIONS.classes[position]] for position in (1, 2, 3)}
    else:
        return None
    pairs = [(value, position) for position, values in {**parts, 4: cavity}.items() for value in values]
    return dict(sorted(pairs)) if len(dict(pairs)) == len(pairs) else None


def _cannot_tell(labels: Mapping[str, object], where: Path) -> DataError:
    values = sorted(value for name, numbers in _named(labels) if name not in _NO_CLASS for value in numbers)
    return DataError(
        f"cannot tell what the labels mean: {dict(labels)}",
        where=where,
        expected="necrotic core, edema, enhancing tumour; or nnU-Net's three regions; or one label, the whole lesion",
        remedy=f"say what each value means: --label-scheme {','.join(f'{value}=?' for value in dict.fromkeys(values))} "
        "with NCR, ED, ET, RC, background, or lesion for each ?; or name the convention: "
        + ", ".join(f"{scheme.name} ({scheme.meaning})" for scheme in LABEL_SCHEMES.values()),
    )
