"""One reader per file convention, and the functions that choose among them."""

from metaseg.cases.readers.common import Reader, ReadOptions, canonical_modality
from metaseg.cases.readers.read import READERS, read_case_files, read_cases

__all__ = ["READERS", "ReadOptions", "Reader", "canonical_modality", "read_case_files", "read_cases"]
