"""Generated pictures: one axial T1ce slice of each phantom, a folder for each class, as public sets of images are."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from metaseg.cases.phantoms.phantom import SIZES, Phantom, build_phantom
from metaseg.cases.phantoms.write import MARKER, VERSION
from metaseg.files import making_folder

NO_TUMOUR = "no_tumor"
PICTURE_SETS: Mapping[str, Mapping[str, str]] = {
    "four-class": {"hgg": "HGG", "lgg": "LGG", "met": "MET", NO_TUMOUR: "LGG"},
    "yes-no": {"no": "LGG", "yes": "HGG"},
}
"""Classes of each set, with the cohort that their phantoms are of."""
WITHOUT = (NO_TUMOUR, "no")
"""Classes whose pictures show none of the tumour."""
BRIGHTEST = 99.8
"""Percentile of the head's intensities that becomes white."""


def make_pictures(out: Path, kind: str, cases: int, seed: int = 0) -> Path:
    """Make grey PNG pictures ``OUT/<class>/<class>_<nnn>.png``; what is there already is kept.

    No two pictures are of one phantom. The folder holds the marker of phantoms, so that all that is made from it says
    that it is synthetic.

    Args:
        out: Folder to write.
        kind: One of :data:`PICTURE_SETS`.
        cases: Pictures of each class.
        seed: Not negative.

    Returns:
        ``out``.
    """
    if out.exists():
        return out
    with making_folder(out) as made:
        marker = {"synthetic": True, "version": VERSION, "size": "small", "cases": {}}
        (made / MARKER).write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")
        for name, cohort in PICTURE_SETS[kind].items():
            (made / name).mkdir()
            first = cases if name in WITHOUT else 0
            for number in range(1, cases + 1):
                phantom = build_phantom(cohort, seed, first + number, SIZES["small"])
                picture = _picture(phantom, shows_tumour=name not in WITHOUT)
                (made / name / f"{name}_{number:03d}.png").write_bytes(picture)
    return out


def _picture(phantom: Phantom, *, shows_tumour: bool) -> bytes:
    """The slice with most tumour, or of those without any the one with most of the head, as PNG."""
    volume = phantom.images["t1ce"]
    tumour, head = ((block > 0).sum(axis=(1, 2)) for block in (phantom.label, volume))
    plane = volume[np.argmax(tumour if shows_tumour else np.where(tumour == 0, head, -1))]
    white = np.percentile(volume[volume > 0], BRIGHTEST)
    stream = io.BytesIO()
    Image.fromarray((plane / white * 255).clip(0, 255).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()
