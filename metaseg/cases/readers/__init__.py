"""One reader per file convention, and the functions that choose among them."""

from metaseg.cases.readers.case_folders import read_case_files
from metaseg.cases.readers.common import (
    READERS,
    LeftOut,
    Reader,
    ReadOptions,
    find_doubled,
    lacking,
    register_reader,
    tell,
)
from metaseg.cases.readers.read import Reading, find_cases, give_cases, read_cases, read_each_case
from metaseg.config.modalities import canonical_modality

__all__ = [
    "READERS",
    "LeftOut",
    "ReadOptions",
    "Reader",
    "Reading",
    "canonical_modality",
    "find_cases",
    "find_doubled",
    "give_cases",
    "lacking",
    "read_case_files",
    "read_cases",
    "read_each_case",
    "register_reader",
    "tell",
]
