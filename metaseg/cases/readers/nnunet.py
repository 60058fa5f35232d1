"""Folders with a ``dataset.json``: nnU-Net's raw format and the Medical Segmentation Decathlon.

The Decathlon (Antonelli et al. 2022) lists 4-D files with all modalities; nnU-Net (Isensee et al. 2021) keeps one file
per channel, ``imagesTr/<case>_0000.nii.gz``, in version 1 with the Decathlon's list, in version 2 without one.
The label scheme follows from the names of the labels.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from metaseg.cases.case import Case, Volume
from metaseg.cases.labels import CAVITY, LABEL_SCHEMES, SUBREGIONS, WHOLE_LESION, LabelScheme, label_scheme
from metaseg.cases.readers.common import (
    LeftOut,
    Reader,
    ReadOptions,
    absent_file,
    doubled_files,
    find_doubled,
    natural_key,
    other_case,
)
from metaseg.cases.volumes import split_name, volume_from_file
from metaseg.config.modalities import canonical_modality
from metaseg.errors import DataError, MetasegError
from metaseg.files import FileKind, read_json

DESCRIPTION = "dataset.json"
_PARTS = ("imagesTr", "imagesTs")
_KIND = FileKind(
    "a dataset.json with 'modality' or 'channel_names', and 'labels', as nnU-Net and the Decathlon write them",
    error=DataError,
)
_CHANNEL = re.compile(r"(?P<case>.+)_\d{4}")
_MEANINGS = {
    "RC": r"rc|.*cavity.*",
    "WT": r"wt|tumou?r|lesions?|metastas[ie]s|mets?|gtv|cancer|mass|.*whole.*",
    "TC": r"tc|core|(?!.*(nec|non)).*tumou?rcore.*",
    "NCR": r"ncr|net|netc|ncrnet|cc|.*(necro|cyst|tumou?rcore).*|(?=.*non).*enhanc.*",
    "ED": r"ed|snfh|.*(edema|flairhyper).*",
    "ET": r"et|at|.*enhanc.*",
}
"""Class (NCR, ED, ET, RC) or region (WT, TC) to the names for it, letters only; the first that fits."""
_NO_CLASS = {"background", "bg", "backgrd", "clear label", "unlabelled", "unlabeled", "ignore"}


@dataclass(frozen=True)
class _Entry:
    """Files of one case, before it is known whether they exist."""

    case_id: str
    images: tuple[Path, ...]
    label: Path | None


def matches(path: Path) -> bool:
    """Whether ``path`` holds a ``dataset.json``, or is one of the image folders beside one."""
    return (_root(path) / DESCRIPTION).is_file()


def read(path: Path, options: ReadOptions) -> list[Case]:
    """Make the labelled cases; ``imagesTs`` is read when it is given as ``path`` or when nothing else is there.

    Raises:
        DataError: ``dataset.json`` cannot be understood, or in strict mode lists a file of one case for another.
    """
    root = _root(path)
    description = _Description.load(root / DESCRIPTION)
    parts = (path.name,) if path.name in _PARTS else _PARTS
    for part in parts:
        entries = description.entries(part)
        if entries:
            break
    counted = description.content.get("numTraining")
    if part == "imagesTr" and isinstance(counted, int) and counted > len(entries):
        found = f"numTraining is {counted}, but {len(entries)} cases are there"
        options.left_out.append(
            LeftOut("file-absent", f"cases that are not there ({found})", found, file=root / DESCRIPTION)
        )
    scheme = description.scheme(options.scheme)
    _find_other_cases(entries, options)
    cases = [_make_case(entry, description, scheme, options) for entry in entries]
    return sorted(cases, key=lambda case: natural_key(case.id))


def _root(path: Path) -> Path:
    return path.absolute().parent if path.name in _PARTS else path


@dataclass(frozen=True)
class _Description:
    """What ``dataset.json`` says."""

    file: Path
    content: Mapping[str, Any]

    @classmethod
    def load(cls, file: Path) -> _Description:
        description = cls(file, read_json(file, _KIND))
        if not description.channels or not isinstance(description.content.get("labels"), dict):
            raise _KIND.refuse("the description lacks its modalities or labels", file, "add the entries")
        if doubled := find_doubled(description.channels):
            raise _KIND.refuse(f"two channels are {doubled}", file, "rename one")
        return description

    @property
    def channels(self) -> tuple[str, ...]:
        """Modality names in channel order."""
        names = self.content.get("channel_names", self.content.get("modality"))
        if isinstance(names, list):
            names = dict(enumerate(names))
        if not isinstance(names, dict):
            return ()
        ordered = sorted(names.items(), key=lambda item: natural_key(str(item[0])))
        return tuple(canonical_modality(str(name)) for _, name in ordered)

    @property
    def cohort(self) -> str:
        """The data set's name, such as ``"BRATS"``."""
        name = self.content.get("name") or re.sub(r"^(Task|Dataset)\d+_", "", self.file.absolute().parent.name)
        return str(name)

    def scheme(self, asked: LabelScheme | None) -> LabelScheme:
        """The scheme asked for, or the one that the label names imply."""
        labels = self.content["labels"]
        if asked is None:
            return scheme_from_names(labels, self.file)
        ignored = ignored_value(labels)
        return asked if ignored is None or ignored in asked.values else replace(asked, ignore=ignored)

    def entries(self, part: str) -> list[_Entry]:
        """The cases of ``imagesTr`` or ``imagesTs``, in whichever way the description lists them."""
        listed = self.content.get("training" if part == "imagesTr" else "test")
        named = self.content.get("dataset")
        if part == "imagesTr" and isinstance(named, dict):
            return [self._named_entry(case_id, entry) for case_id, entry in named.items()]
        if isinstance(listed, list) and listed:
            return [self._listed_entry(entry) for entry in listed]
        return self._found_entries(part)

    def _named_entry(self, case_id: str, entry: object) -> _Entry:
        if not isinstance(entry, dict) or not isinstance(entry.get("images"), list):
            raise self._malformed(entry)
        images = tuple(self.file.parent / str(image) for image in entry["images"])
        return _Entry(case_id, images, self.file.parent / str(entry["label"]) if entry.get("label") else None)

    def _listed_entry(self, entry: object) -> _Entry:
        record = {"image": entry} if isinstance(entry, str) else entry
        if not isinstance(record, dict) or not isinstance(record.get("image"), str):
            raise self._malformed(entry)
        image = self.file.parent / record["image"]
        stem, suffix = split_name(image.name)
        images: tuple[Path, ...] = (image,)
        # nnU-Net's version 1 lists <case>.nii.gz, but keeps <case>_0000.nii.gz and so on.
        if not image.exists():
            split = tuple(image.with_name(f"{stem}_{index:04}{suffix}") for index in range(len(self.channels)))
            images = split if any(file.exists() for file in split) else images
        return _Entry(stem, images, self.file.parent / record["label"] if record.get("label") else None)

    def _found_entries(self, part: str) -> list[_Entry]:
        suffix = str(self.content.get("file_ending", ".nii.gz"))
        pattern = re.compile(rf"(?P<case>.+)_\d{{4}}{re.escape(suffix)}")
        folder = self.file.parent / part
        names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        matched = (pattern.fullmatch(name) for name in names if not name.startswith("."))
        labels = self.file.parent / part.replace("images", "labels")
        return [
            _Entry(
                case_id,
                tuple(folder / f"{case_id}_{index:04}{suffix}" for index in range(len(self.channels))),
                labels / f"{case_id}{suffix}" if part == "imagesTr" or labels.is_dir() else None,
            )
            for case_id in dict.fromkeys(match["case"] for match in matched if match)
        ]

    def _malformed(self, entry: object) -> MetasegError:
        found = f"the description lists a case as {entry!r}"
        return _KIND.refuse(found, self.file, 'list it as {"image": ..., "label": ...}')


def _make_case(entry: _Entry, description: _Description, scheme: LabelScheme, options: ReadOptions) -> Case:
    channels = description.channels
    if len(entry.images) == len(channels):
        images: dict[str, Volume] = {
            name: volume_from_file(file) for name, file in zip(channels, entry.images, strict=True) if file.exists()
        }
    elif len(entry.images) == 1:
        (file,) = entry.images
        images = {name: volume_from_file(file, index) for index, name in enumerate(channels)} if file.exists() else {}
    else:
        raise doubled_files(entry.case_id, f"one of {len(channels)} channels", entry.images)
    listed = (*entry.images, *([entry.label] if entry.label else []))
    options.left_out.extend(absent_file(file, entry.case_id) for file in listed if not file.exists())
    return Case(
        id=entry.case_id,
        patient=entry.case_id,
        cohort=description.cohort,
        images=images,
        label=volume_from_file(entry.label) if entry.label and entry.label.exists() else None,
        scheme=scheme,
        format="nnunet",
    )


def _find_other_cases(entries: Sequence[_Entry], options: ReadOptions) -> None:
    """Refuse, or note, images and labels that carry another listed case's name, or the names of two cases."""
    ids = {entry.case_id for entry in entries}
    for entry in entries:
        channels = {_CHANNEL.fullmatch(split_name(file.name)[0]) for file in entry.images}
        named = {match["case"] for match in channels if match}
        for file in (*entry.images, *([entry.label] if entry.label else [])):
            stem = split_name(file.name)[0]
            match = _CHANNEL.fullmatch(stem)
            other = stem if stem in ids else match["case"] if match else None
            if other != entry.case_id and (other in ids or (file in entry.images and len(named) > 1)):
                found = f"case {entry.case_id} is listed with a file of case {other}: {file.name}"
                options.refuse_or_note(other_case(found, entry.images[0], file), file, entry.case_id)


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


READER = Reader(
    "nnunet",
    "nnU-Net raw or Medical Segmentation Decathlon: a dataset.json with imagesTr",
    matches,
    read,
    complete="layout",
)
