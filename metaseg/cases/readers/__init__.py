"""One reader per file convention, and the functions that choose among them."""

from metaseg.cases.readers.common import LeftOut, Reader, ReadOptions, lacking, tell
from metaseg.cases.readers.read import READERS, find_cases, read_cases, read_each_case
from metaseg.cases.readers.table import read_case_files
from metaseg.config.modalities import canonical_modality

__all__ = [
    "READERS",
    "LeftOut",
    "ReadOptions",
    "Reader",
    "canonical_modality",
    "find_cases",
    "lacking",
    "read_case_files",
    "read_cases",
    "read_each_case",
    "tell",
]
