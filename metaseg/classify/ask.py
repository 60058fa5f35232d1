"""The file that an annotator fills: the slices wanted, with thumbnails, and their labels read back with care."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from metaseg.checked_files import FileKind, read_rows
from metaseg.classify.slices import ClassifiedSlices
from metaseg.errors import DataError
from metaseg.runs.csv_log import cell
from metaseg.written_files import replacing, write_text

COLUMNS = ("slice", "label", "thumbnail", "case", "patient", "rank", "score")
THUMBNAIL = 224


def write_questions(path: Path, slices: ClassifiedSlices, scores: Sequence[float]) -> None:
    """Write the slices whose labels are wanted, the most wanted first, and a thumbnail of each.

    Args:
        path: The CSV; thumbnails go into a folder beside it, ``NAME_thumbnails``.
        slices: The slices.
        scores: What each was ranked by.
    """
    folder = thumbnail_folder(path)
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for place, name in enumerate(slices.ids):
        picture = folder / f"{place + 1:04d}-{re.sub(r'[^A-Za-z0-9_.-]+', '_', name)}.png"
        with replacing(picture) as stream:
            thumbnail(slices, place).save(stream, format="PNG")
        rows.append(
            {
                "slice": name,
                "label": "",
                "thumbnail": f"{folder.name}/{picture.name}",
                "case": slices.case_ids[place],
                "patient": slices.patients[place],
                "rank": place + 1,
                "score": scores[place],
            }
        )
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([cell(row[column]) for column in COLUMNS] for row in rows)
    write_text(path, text.getvalue())
    # Pictures of the round before would only be mistaken for this one's.
    wanted = {Path(row["thumbnail"]).name for row in rows}
    for picture in folder.glob("[0-9][0-9][0-9][0-9]-*.png"):
        if picture.name not in wanted:
            picture.unlink()


def thumbnail_folder(path: Path) -> Path:
    """The folder of thumbnails beside the CSV ``path``."""
    return path.with_name(path.stem + "_thumbnails")


def asked_names(path: Path) -> list[str]:
    """Names of the slices that a file asks for, whatever its labels.

    Raises:
        DataError: It is no such file.
    """
    return [row["slice"].strip() for row in _rows(path)]


def thumbnail(slices: ClassifiedSlices, place: int) -> Image.Image:
    """A grey picture of a slice, its modalities side by side."""
    image = slices.images([place])[0].numpy()
    grey = np.clip((image + 2.5) / 5.0, 0.0, 1.0)
    grey[image == 0] = 0.0
    wide = np.concatenate(list(grey), axis=1)
    picture = Image.fromarray((255 * wide).round().astype(np.uint8))
    return picture.resize((THUMBNAIL * len(image), THUMBNAIL), Image.Resampling.BILINEAR)


def read_answers(path: Path, wanted: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """Read the labels that an annotator wrote.

    Args:
        path: The CSV.
        wanted: Names of the slices that were asked for.
        classes: The classes that a label may name.

    Returns:
        Class of each of ``wanted``, ``(n,)``.

    Raises:
        DataError: The file cannot be read, lacks a column or rows, names slices that nobody asked for or one twice, or
            holds labels that are missing or unknown.
    """
    rows = _rows(path)
    names = [row["slice"].strip() for row in rows]
    given = {row["slice"].strip(): row["label"].strip() for row in rows}
    doubled = [name for name, count in Counter(names).items() if count > 1]
    unknown = [name for name in given if name not in set(wanted)]
    absent = [name for name in wanted if name not in given]
    _complain(path, "names slices that were not asked for", unknown, "the rows as metaseg wrote them")
    _complain(path, "names slices twice", doubled, "one row a slice")
    _complain(path, "lacks rows of slices that were asked for", absent, "a row for each of them")
    # As the class is written, or else without regard to capitals.
    spelled = {name.lower(): number for number, name in enumerate(classes)}
    spelled |= {name: number for number, name in enumerate(classes)}
    numbers = {name: spelled.get(label, spelled.get(label.lower())) for name, label in given.items()}
    wrong = [f"{name} '{given[name]}'" for name in wanted if given[name] and numbers[name] is None]
    _complain(path, "holds labels that are no class", wrong, "one of " + ", ".join(classes))
    empty = [name for name in wanted if not given[name]]
    _complain(path, "still lacks labels", empty, "one of " + ", ".join(classes) + " in the column 'label'")
    return np.array([numbers[name] for name in wanted], dtype=np.int64)


LABELS_KIND = FileKind(
    f"the file of labels that metaseg wrote, with the columns {', '.join(COLUMNS)}, and 'label' filled",
    "put it back where --ask names it, with its first line as it was",
    DataError,
)


def _rows(path: Path) -> list[dict[str, str]]:
    return read_rows(path, LABELS_KIND, ("slice", "label"))


def _complain(path: Path, what: str, names: Sequence[str], expected: str) -> None:
    if names:
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        raise DataError(
            f"the file of labels {what}: {', '.join(names[:5])}{more} ({len(names)} in all)",
            where=path,
            expected=expected,
            remedy="mend the file and give the same command again with --resume",
        )
