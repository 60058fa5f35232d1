"""The source slices that a method may draw from, in the form in which the target's are drawn."""

from __future__ import annotations

from metaseg.adapt.setting import Setting, Shot
from metaseg.errors import UsageError
from metaseg.sampling import tumour_slices


def source_shots(setting: Setting) -> tuple[Shot, ...]:
    """The source's training cases with all of their tumour-bearing slices, by case id.

    Raises:
        UsageError: None of them bears tumour.
    """
    cases = sorted(setting.memory, key=lambda case: case.id)
    shots = [Shot(case, tumour_slices(case.areas(setting.space)[:, 1:], case.num_slices)) for case in cases]
    bearing = tuple(shot for shot in shots if len(shot.slices))
    if not bearing:
        raise UsageError(
            f"none of the source's {len(cases)} training cases bears tumour",
            expected="source slices with tumour to draw from",
            remedy="check the labels of the source, or choose a method that needs no source data",
        )
    return bearing
