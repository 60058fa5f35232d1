"""What all readers share: their interface and registry, the walk through folders, and what they leave out."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from metaseg.cases.case import Case
from metaseg.cases.labels import LabelScheme
from metaseg.cases.pictures import GroupCopies
from metaseg.errors import DataError, some, warn_user
from metaseg.registry import Registry

VOLUME_FILES = (".nii", ".nii.gz", ".nii.bz2", ".hdr", ".mgz", ".mha", ".mhd", ".nrrd", ".dcm")
"""Endings of volumes, those too that cannot be read."""
PICTURE_FILES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp", ".heic", ".jp2", ".dcm")
"""Endings of pictures, those too that cannot be read."""
_WALK_DEPTH, _SEARCH_DEPTH = 5, 12
# Cheng's release holds the indices of its cross-validation beside the images.
_KNOWN = frozenset({"cvind.mat"})
# Parts of a data set in nnU-Net's layout; those that are not read are not left out by mistake.
_PARTS = frozenset({"imagesTr", "imagesTs", "imagesVal", "labelsTr", "labelsTs", "labelsVal"})


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


@dataclass(frozen=True)
class ReadOptions:
    """What the caller of a reader asks for.

    Attributes:
        scheme: Label scheme that replaces the convention's own, or None.
        modality: Name of the modality where the files do not say, or None for the convention's default.
        strict: Raise on doubled files, and on a case with files of another one, instead of noting them.
        group_copies: Which pictures count as one patient where the files do not identify patients.
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
        read: Makes the cases of a folder, in a stable order; sessions are recognised in ``Case.patient`` afterwards.
        images: Endings of files that are images. Those below the folder that no case has are named.
        complete: Where to look for such files: in the whole ``"folder"``, in the folders of the ``"layout"``, such as
            ``imagesTr``, or nowhere (``"list"``), since a list is its user's own choice.
        last_resort: Look whether it matches only if no other convention does.
    """

    name: str
    looks_for: str
    matches: Callable[[Path], bool]
    read: Callable[[Path, ReadOptions], list[Case]]
    images: tuple[str, ...] = VOLUME_FILES
    complete: Literal["folder", "layout", "list"] = "folder"
    last_resort: bool = False


READERS: Registry[Reader] = Registry("format", "metaseg.readers", Reader)
"""All conventions, by the names that ``--format`` takes."""


def register_reader(reader: Reader) -> Reader:
    """Let every verb read a convention: ``--format`` takes its name, and ``auto`` tries it.

    Packages offer readers by entry points of the group ``metaseg.readers``.

    Raises:
        ValueError: The name is taken.
    """
    return READERS.add(reader.name, reader)


def natural_key(text: str) -> tuple[tuple[int, int | str], ...]:
    """Sort key that puts ``"slice 9"`` before ``"slice 10"``."""
    parts = re.split(r"(\d+)", text)
    return tuple((0, int(part)) if part.isdecimal() else (1, part.lower()) for part in parts if part)


def walk_files(root: Path, max_depth: int = _WALK_DEPTH) -> Iterator[Path]:
    """All visible files below ``root``, sorted within each folder, down to ``max_depth`` folders deep."""
    for folder, subfolders, names in os.walk(root, followlinks=True):
        here = Path(folder)
        depth = len(here.relative_to(root).parts)
        # Hidden names are the file system's own, such as the "._" twins that macOS leaves in archives.
        subfolders[:] = sorted(name for name in subfolders if not name.startswith(".")) if depth < max_depth else []
        yield from (here / name for name in sorted(names) if not name.startswith("."))


def relative_name(file: Path, root: Path) -> str:
    """A file's name inside a folder, with forward slashes; its path where it lies elsewhere."""
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else file.as_posix()


def find_doubled(names: Iterable[str]) -> str | None:
    """The first name that comes twice, or None."""
    return next((name for name, count in Counter(names).items() if count > 1), None)


def doubled_files(case_id: str, what: str, files: Sequence[Path]) -> DataError:
    """The error for several files that claim to be one image or label of a case."""
    return DataError(
        f"case {case_id}: {what} occurs {len(files)} times: {', '.join(path.name for path in files)}",
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


def absent_file(file: Path, case: str, place: str = "") -> LeftOut:
    """A file that a table or description lists, and that is not there."""
    found = f"the file that {place} lists is not there" if place else "the listed file is not there"
    return LeftOut("file-absent", "listed files that are not there", found, case, file, place)


def unreadable_file(file: Path, found: str, case: str = "") -> LeftOut:
    """A file that cannot be read, and without which a case is read."""
    return LeftOut("unreadable", "files that cannot be read", found, case, file)


def unread_files(root: Path, reader: Reader, taken: Collection[Path]) -> Iterator[LeftOut]:
    """Image files below a data set's folder that are of no case, and folders that hide or hold none.

    Args:
        root: The folder.
        reader: Its reader, which says what counts as an image and where to look.
        taken: Files of the cases.
    """
    if reader.complete == "list":
        return
    known = {os.path.abspath(file) for file in taken}
    parts = {part for file in known for part in Path(file).parts} & _PARTS
    unreadable: list[OSError] = []
    seen: set[str] = set()
    for folder, subfolders, names in os.walk(root, onerror=unreadable.append, followlinks=True):
        here = Path(folder)
        if not (names or subfolders or here == root or here.name in _PARTS):
            yield LeftOut("folder-empty", "empty folders", "the folder is empty", file=here)
        # A description may list files anywhere, but what lies in the folders of the layout belongs to it.
        looked_at = reader.complete == "folder" or here.name in _PARTS
        for name in sorted(names):
            if _is_image(name, reader):
                if name.startswith("."):
                    yield _hidden(here / name)
                elif looked_at and name not in _KNOWN and os.path.abspath(here / name) not in known:
                    yield _unread(here / name, reader.name)
        yield from (_hidden(here / name) for name in subfolders if _hides_images(here / name, reader))
        # Links may lead back to a folder above.
        real = {name: os.path.realpath(here / name) for name in subfolders}
        subfolders[:] = sorted(
            name for name in subfolders if not (name.startswith(".") or name in _PARTS - parts or real[name] in seen)
        )
        seen.update(real.values())
        if subfolders and len(here.relative_to(root).parts) >= _SEARCH_DEPTH:
            found = f"what lies more than {_SEARCH_DEPTH} folders deep is not looked at"
            yield LeftOut("folder-unreadable", "folders that lie too deep", found, file=here)
            subfolders.clear()
    for error in unreadable:
        found = f"the folder cannot be read: {error.strerror}"
        yield LeftOut("folder-unreadable", "folders that cannot be read", found, file=Path(error.filename))


def _is_image(name: str, reader: Reader) -> bool:
    return name.lower().endswith(reader.images) and not name.startswith("._")


def _unread(file: Path, format: str) -> LeftOut:
    if not file.exists():
        return LeftOut("file-absent", "links to files that are not there", "the link leads nowhere", file=file)
    found = f"the naming '{format}' takes this file for no case's image or label"
    return LeftOut("file-unused", f"image files that the naming '{format}' does not take", found, file=file)


def _hidden(path: Path) -> LeftOut:
    return LeftOut("file-hidden", "hidden images", "images whose names begin with a dot are not read", file=path)


def _hides_images(folder: Path, reader: Reader) -> bool:
    try:
        return folder.name.startswith(".") and any(_is_image(name, reader) for name in os.listdir(folder))
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
            what = f"cases without {missing}{'' if modalities else ', which is not used then'}"
            has = f"{missing} missing; the case has {', '.join(names) or 'no image'}"
            found.append(LeftOut("modality-missing", what, has, case))
        if labels and not labelled:
            found.append(LeftOut("label-missing", "cases without a label", "the case has no label", case))
    return found


def tell(left_out: Sequence[LeftOut], where: Path, *, refuse: bool) -> None:
    """Warn of what is left out, a sentence for each kind; or refuse it.

    Raises:
        DataError: Something is left out, and ``refuse``.
    """
    groups: defaultdict[str, dict[str, LeftOut]] = defaultdict(dict)
    for gap in left_out:
        named = relative_name(gap.file, where) if gap.file else gap.case
        groups[gap.what].setdefault(f"{named}{gap.place and f' ({gap.place})'}", gap)
    said = []
    for what, names in groups.items():
        first = next(iter(names.values()))
        reason = f" ({first.found})" if first.kind == "unreadable" else ""
        said.append(f"{what} ({len(names)}): {some(list(names))}{reason}")
    if said and refuse:
        fewer = any(gap.kind == "modality-missing" for gap in left_out)
        raise DataError(
            "; ".join(said),
            where=where,
            expected="data without gaps: nothing is left out unasked",
            remedy="mend them ('metaseg data check' lists all)"
            + (", choose modalities that all cases have with --modalities" if fewer else "")
            + ", or leave them out with --allow-missing",
        )
    for sentence in said:
        warn_user(f"left out: {sentence}", where=where, remedy="'metaseg data check' lists all")
