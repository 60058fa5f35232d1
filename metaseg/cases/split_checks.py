"""What can be wrong between a split and the data that it is used on: the same for every verb and for the check."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from metaseg.cases.sessions import patient_of
from metaseg.errors import some


@dataclass(frozen=True)
class SplitProblem:
    """One thing that is wrong.

    Attributes:
        kind: A kind of finding of ``metaseg data check``; all but ``split-unnamed`` make figures wrong or stop a run.
        found: What was found, as one sentence.
        case: A case that it is about.
    """

    kind: str
    found: str
    case: str = ""


def split_problems(
    parts: Mapping[str, Sequence[str]], patients: Mapping[str, str], told: Mapping[str, str]
) -> Iterator[SplitProblem]:
    """Parts without cases, patients in two parts, other patients, and cases that only the split or only the data have.

    Args:
        parts: Part name to case ids.
        patients: Case id to patient, of all cases of the data.
        told: Case id to patient as the split says; earlier versions took sessions for patients.
    """
    named = [case for ids in parts.values() for case in ids]
    for part, ids in parts.items():
        if not ids:
            yield SplitProblem("split-empty", f"part '{part}' of the split names no case")
    seen: defaultdict[str, defaultdict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for part, ids in sorted(parts.items()):
        for case in ids:
            seen[patients.get(case, case)][part].append(case)
    for patient, places in seen.items():
        if len(places) > 1:
            listed = "; ".join(f"{part}: {', '.join(ids)}" for part, ids in places.items())
            yield SplitProblem("patient-split", f"patient {patient} stands in {listed}", next(iter(places.values()))[0])
    other = [
        case for case, patient in told.items() if patients.get(case, patient) not in (patient, patient_of(patient))
    ]
    if other:
        found = (
            f"{len(other)} cases are of other patients than the split says, such as {other[0]}: "
            f"{patients[other[0]]}, not {told[other[0]]}"
        )
        yield SplitProblem("split-patients", found, other[0])
    if absent := [case for case in named if case not in patients]:
        found = f"{len(absent)} of the split's {len(named)} cases are not there: {some(sorted(absent))}"
        yield SplitProblem("split-absent", found)
    if unnamed := sorted(patients.keys() - set(named)):
        found = f"{len(unnamed)} of {len(patients)} cases are in no part of the split: {some(unnamed)}"
        yield SplitProblem("split-unnamed", found, unnamed[0])
