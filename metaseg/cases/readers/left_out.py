"""What readers leave out and what cases lack: every verb names it, and a training refuses it unless told to go on."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

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
