"""A case prepared in memory: what a store would hold of it, without files, for a case that is read once."""

from __future__ import annotations

import numpy as np

from metaseg.cases.case import Case
from metaseg.store.prepare_case import PrepareOptions, arrange_case
from metaseg.store.store import warn_of_findings
from metaseg.store.stored_case import StoredCase, StoredCaseInfo


class UnstoredCase(StoredCase):
    """The same as a stored case in all that it gives, bit for bit; its arrays are in memory.

    Args:
        case: Where it came from, for messages.
        info: What ``case.json`` would hold.
        images: Intensities ``(slices, modality, height, width)``, ``int16`` or ``float32``.
    """

    def __init__(self, case: Case, info: StoredCaseInfo, images: np.ndarray) -> None:
        self._hold(case.files[0].parent, info)
        self.raw_images = images


def read_unstored(case: Case, options: PrepareOptions, threads: int = 1) -> UnstoredCase:
    """Read and prepare an unlabelled case.

    Args:
        case: The case; without its label, which would change the crop.
        options: How to prepare it.
        threads: Files to read at a time.

    Raises:
        DataError: The case cannot be read, lacks a modality, or holds nothing but zeros.
    """
    if case.label is not None:
        raise ValueError(f"case {case.id} has a label: a labelled case belongs into a store")
    info, arrays = arrange_case(case, options, threads)
    prepared = UnstoredCase(case, info, arrays["images"])
    warn_of_findings([prepared])
    return prepared
