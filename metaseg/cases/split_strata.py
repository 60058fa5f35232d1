"""Which cohorts, grades or sites a split leaves out of a part: a class that training or test lacks spoils figures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from metaseg.cases.splits import Split, SplitMember


@dataclass(frozen=True)
class MissingStratum:
    """A stratum that is not in every part.

    Attributes:
        kind: The property: ``"cohort"``, ``"grade"`` or ``"site"``.
        name: Its value.
        patients: Number of its patients in all parts.
        parts: The parts without any of them.
    """

    kind: str
    name: str
    patients: int
    parts: tuple[str, ...]

    def __str__(self) -> str:
        """As a message to users."""
        count = "1 patient" if self.patients == 1 else f"{self.patients} patients"
        return f"{self.kind} {self.name} has {count} and is not in {', '.join(self.parts)}"


def missing_strata(cases: Sequence[SplitMember], split: Split, kind: str | None = None) -> list[MissingStratum]:
    """Strata that a part lacks, in order of their names.

    Args:
        cases: The cases that the split was made of.
        split: The split.
        kind: The property to look at; by default the one that the split keeps alike, if any. Pictures that count as
            one patient are one here as well.
    """
    kind = kind or split.stratify
    if kind is None:
        return []
    of_case = {case.id: getattr(case, kind) for case in cases}
    patients: defaultdict[str, set[str]] = defaultdict(set)
    there: defaultdict[str, set[str]] = defaultdict(set)
    for part, ids in split.parts.items():
        for case_id in ids:
            if of_case.get(case_id) is not None:
                patients[of_case[case_id]].add(split.patients[case_id])
                there[of_case[case_id]].add(part)
    return [
        MissingStratum(kind, name, len(patients[name]), absent)
        for name in sorted(there)
        if (absent := tuple(part for part in split.parts if part not in there[name]))
    ]
