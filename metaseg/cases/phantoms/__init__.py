"""Phantoms: synthetic brains with gliomas or metastases in four sequences, to try metaseg without patient data."""

from metaseg.cases.phantoms.phantom import COHORTS, SIZES, Phantom, PhantomSize, build_phantom
from metaseg.cases.phantoms.pictures import PICTURE_SETS, make_pictures
from metaseg.cases.phantoms.write import MARKER, VERSION, make_phantoms

__all__ = [
    "COHORTS",
    "MARKER",
    "PICTURE_SETS",
    "SIZES",
    "VERSION",
    "Phantom",
    "PhantomSize",
    "build_phantom",
    "make_phantoms",
    "make_pictures",
]
