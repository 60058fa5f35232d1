"""Patient-level splits: every case of a patient falls into the same part.

A split that puts two slices or two time points of one patient on both sides makes metrics look better than they are.
Here that cannot be built, loaded or used: :func:`split_problems` says what is wrong between a split and the data that
it is used on, for every verb and for the check, and :func:`missing_strata` which classes a part lacks.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from metaseg.cases.patients import SplitMember, patient_of
from metaseg.errors import DataError, UsageError, some, unknown_name, warn_user
from metaseg.files import FileKind, check_shape, read_json, write_text

DEFAULT_PARTS: Mapping[str, float] = {"train": 0.7, "val": 0.15, "test": 0.15}
Stratify = Literal["cohort", "grade", "site"]
Absent = Literal["refuse", "warn", "ignore"]
Member = TypeVar("Member", bound=SplitMember)
_FORMAT, _VERSION = "metaseg-split", 1
SPLIT_KIND = FileKind("a split file as 'metaseg data split' writes it", "make a new split", DataError)


@dataclass(frozen=True)
class Split:
    """Which case is in which part.

    Attributes:
        seed: Seed it was drawn with.
        stratify: Property of the cases whose fractions are alike in all parts, or None.
        parts: Part name to case ids. The parts of a cross-validation are ``"fold-0"``, ``"fold-1"`` and so on.
        patients: Case id to patient, for every case of the parts.

    Raises:
        DataError: A case is in two parts, a patient is in two parts, or a case has no patient.
    """

    seed: int
    stratify: str | None
    parts: Mapping[str, tuple[str, ...]]
    patients: Mapping[str, str]

    def __post_init__(self) -> None:
        _check_parts(self.parts, self.patients)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Split:
        """Read a split that :meth:`save` wrote, or the column ``split`` of a table of cases.

        Raises:
            DataError: The file is missing, not of this kind, of a newer version, or holds an invalid split.
        """
        if Path(path).suffix.lower() in (".csv", ".tsv"):
            return _split_of_table(Path(path))
        with _named(Path(path)):
            content = _read_json(Path(path))
            split: Split = check_shape(content, cls, partial(SPLIT_KIND.refuse, path=Path(path)))
        return split

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the split as JSON; an existing file is replaced whole or not at all."""
        content = {
            "format": _FORMAT,
            "version": _VERSION,
            "seed": self.seed,
            "stratify": self.stratify,
            "parts": {name: list(cases) for name, cases in self.parts.items()},
            "patients": dict(self.patients),
        }
        write_text(Path(path), json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    def select(self, cases: Sequence[Member], part: str, *, absent: Absent = "refuse") -> list[Member]:
        """The cases of a part, in the split's order; cases that the split does not name are warned of.

        Args:
            cases: All cases of the data.
            part: Name of the part.
            absent: What to do about cases of the part that are not among ``cases``.

        Raises:
            UsageError: There is no such part, or it holds none of the cases.
            DataError: Two cases have one id, a patient of the data is in two parts, or a case is absent.
        """
        if part not in self.parts:
            error = unknown_name("part of the split", part, self.parts)
            if all(name.startswith("fold-") for name in self.parts):
                error.remedy = "name a fold with --fold where the verb has it, or another part"
            raise error
        by_id = {case.id: case for case in cases}
        if len(by_id) < len(cases):
            raise DataError("two cases of the data have one id", expected="unique ids", remedy="read the data again")
        self._check_patients({case.id: case.patient for case in cases})
        gone = [case_id for case_id in self.parts[part] if case_id not in by_id]
        chosen = [by_id[case_id] for case_id in self.parts[part] if case_id in by_id]
        found = f"{len(gone)} of {len(self.parts[part])} cases of part '{part}' are not in the data: {some(gone)}"
        if gone and absent == "refuse":
            raise DataError(
                found,
                expected="the data set that the split was made for",
                remedy="make a new split, or give the right data",
            )
        if not chosen:
            raise UsageError(f"part '{part}' of the split holds none of the cases", remedy="check --split and --data")
        if gone and absent == "warn":
            warn_user(found, remedy="nothing, if the split is of more data than these")
        return chosen

    def parts_of(self, cases: Iterable[SplitMember]) -> dict[str, str]:
        """The part of every patient of the data that the split names: patient to part."""
        of_case = {case_id: part for part, ids in self.parts.items() for case_id in ids}
        return {case.patient: of_case[case.id] for case in cases if case.id in of_case}

    def _check_patients(self, patients: Mapping[str, str]) -> None:
        """Compare the split with the data's patients: sessions may be known now that were not when it was made."""
        for problem in split_problems(self.parts, patients, self.patients):
            if problem.kind in ("patient-split", "split-patients"):
                raise DataError(
                    f"the split is of other patients than the data: {problem.found}",
                    expected="all cases of a patient in one part",
                    remedy="make a new split, or give the --patients that it was made with",
                )
            if problem.kind == "split-unnamed":
                warn_user(problem.found, remedy="make a new split to use them")

    def fold(self, index: int) -> Split:
        """One turn of a cross-validation: part ``"test"`` is the fold, ``"train"`` all others.

        Raises:
            UsageError: The split has no such fold.
        """
        held_out = f"fold-{index}"
        if held_out not in self.parts:
            raise unknown_name("part of the split", held_out, self.parts)
        train = sorted(case for name, cases in self.parts.items() if name != held_out for case in cases)
        return Split(self.seed, self.stratify, {"train": tuple(train), "test": self.parts[held_out]}, self.patients)


def _split_of_table(table: Path) -> Split:
    # Imported here: the reader loads the libraries of image files, which a split file does not need.
    from metaseg.cases.readers.table import parts_of_table

    rows = parts_of_table(table)
    parts = {name: tuple(row.case for row in members) for name, members in rows.items()}
    patients = {row.case: patient_of(row.patient) for members in rows.values() for row in members}
    with _named(table):
        return Split(0, None, parts, patients)


@contextlib.contextmanager
def _named(file: Path) -> Iterator[None]:
    """Name the file in errors about a split that is read from it."""
    try:
        yield
    except DataError as error:
        error.where = error.where or file
        raise


def read_split(path: str | os.PathLike[str]) -> Split:
    """Read a split file; see :meth:`Split.load`."""
    return Split.load(path)


def make_split(
    cases: Sequence[SplitMember],
    parts: Mapping[str, float] | None = None,
    folds: int | None = None,
    seed: int = 0,
    stratify: Stratify | None = "cohort",
    groups: Mapping[str, str] | None = None,
) -> Split:
    """Draw a split by patients.

    The same cases and seed give the same split, whatever the order of ``cases``.

    Args:
        cases: The cases.
        parts: Part name to fraction of the patients (they sum to 1), or to number of patients (they sum to that of all
            patients). Default: train 0.7, val 0.15, test 0.15.
        folds: Number of folds of a cross-validation, instead of ``parts``.
        seed: Seed of the draw.
        stratify: Property whose fractions are kept alike in all parts as far as whole patients allow.
        groups: Case id to a group, such as its folder, whose fractions are kept alike as well.

    Returns:
        A split in which every case is in one part, and no part is empty.

    Raises:
        UsageError: ``parts`` or ``folds`` makes no sense.
        DataError: There are fewer patients than parts, or two cases have one id.
    """
    patients = _cases_by_patient(cases)
    wanted = _patients_per_part(parts, folds, len(patients))
    rng = np.random.default_rng(seed)
    in_parts: dict[str, list[str]] = {name: [] for name in wanted}
    taken = dict.fromkeys(wanted, 0)
    for position, patient in enumerate(_shuffled_by_stratum(patients, stratify, groups or {}, rng), start=1):
        # The part that is furthest behind its due takes the next patient, within each stratum as over all.
        behind = {
            name: position * count / len(patients) - taken[name]
            for name, count in wanted.items()
            if taken[name] < count
        }
        name = max(behind, key=lambda part: behind[part])
        taken[name] += 1
        in_parts[name].extend(case.id for case in patients[patient])
    return Split(
        seed=seed,
        stratify=stratify,
        parts={name: tuple(sorted(ids)) for name, ids in in_parts.items()},
        patients={case.id: case.patient for case in sorted(cases, key=lambda case: case.id)},
    )


def _check_parts(parts: Mapping[str, Sequence[str]], patients: Mapping[str, str]) -> None:
    """Check that every case and every patient is in one part only."""
    part_of_case: dict[str, str] = {}
    part_of_patient: dict[str, str] = {}
    for part, cases in parts.items():
        for case_id in cases:
            if case_id in part_of_case:
                raise DataError(
                    f"case {case_id} is listed twice: in '{part_of_case[case_id]}' and '{part}'",
                    expected="every case once",
                    remedy="make a new split",
                )
            part_of_case[case_id] = part
            if case_id not in patients:
                raise DataError(f"case {case_id} has no patient", remedy="make a new split")
            other = part_of_patient.setdefault(patients[case_id], part)
            if other != part:
                raise DataError(
                    f"patient {patients[case_id]} is in two parts, '{other}' and '{part}'",
                    expected="all cases of a patient in one part",
                    remedy="make a new split: metrics on this one would look better than they are",
                )


def _cases_by_patient(cases: Sequence[SplitMember]) -> dict[str, list[SplitMember]]:
    if len({case.id for case in cases}) < len(cases):
        raise DataError("two cases have one id", expected="unique ids", remedy="split one data set at a time")
    patients: defaultdict[str, list[SplitMember]] = defaultdict(list)
    for case in cases:
        patients[case.patient].append(case)
    return dict(sorted(patients.items()))


def _shuffled_by_stratum(
    patients: Mapping[str, Sequence[SplitMember]],
    stratify: Stratify | None,
    groups: Mapping[str, str],
    rng: np.random.Generator,
) -> list[str]:
    """The patients in random order within each stratum, stratum after stratum."""
    strata: defaultdict[str, list[str]] = defaultdict(list)
    for patient, cases in patients.items():
        # A patient with cases of two kinds belongs to a stratum of its own kind.
        kinds = {groups.get(case.id, "") + (str(getattr(case, stratify)) if stratify else "") for case in cases}
        strata["+".join(sorted(kinds))].append(patient)
    return [str(patient) for _, members in sorted(strata.items()) for patient in rng.permutation(np.array(members))]


def _patients_per_part(parts: Mapping[str, float] | None, folds: int | None, patients: int) -> dict[str, int]:
    """Number of patients per part: the fractions by largest remainder, at least one each."""
    fractions = _fractions(parts, folds)
    if patients < len(fractions):
        raise DataError(
            f"{patients} patients cannot fill {len(fractions)} parts ({', '.join(fractions)})",
            expected="at least one patient per part",
            remedy="use fewer parts or more patients",
        )
    if all(isinstance(fraction, int) for fraction in fractions.values()):
        if sum(fractions.values()) != patients:
            raise UsageError(
                f"the parts ask for {sum(fractions.values())} patients, the data has {patients}",
                remedy="give numbers that sum to the number of patients, or fractions that sum to 1",
            )
        return {name: int(fraction) for name, fraction in fractions.items()}
    exact = {name: fraction * patients for name, fraction in fractions.items()}
    # The small tolerance keeps 0.6 * 335 = 200.99999999999997 at 201.
    counts = {name: max(1, int(value + 1e-9)) for name, value in exact.items()}
    while sum(counts.values()) != patients:
        step = 1 if sum(counts.values()) < patients else -1
        movable = [name for name in counts if step > 0 or counts[name] > 1]
        counts[max(movable, key=lambda name: step * (exact[name] - counts[name]))] += step
    return counts


def _fractions(parts: Mapping[str, float] | None, folds: int | None) -> Mapping[str, float]:
    if folds is not None:
        if parts is not None:
            raise UsageError("both parts and folds are given", expected="one of them")
        if folds < 2:
            raise UsageError(f"{folds} folds are asked for", expected="at least 2")
        return {f"fold-{index}": 1 / folds for index in range(folds)}
    fractions = DEFAULT_PARTS if parts is None else parts
    whole = all(isinstance(fraction, int) for fraction in fractions.values())
    if (
        not fractions
        or not all(fraction > 0 for fraction in fractions.values())
        or not (whole or abs(sum(fractions.values()) - 1) < 1e-6)
    ):
        raise UsageError(
            f"the parts are {dict(fractions)}", expected="fractions above 0 that sum to 1, or whole numbers of patients"
        )
    return fractions


def _read_json(path: Path) -> Mapping[str, Any]:
    if not path.exists():
        raise SPLIT_KIND.refuse("the split file does not exist", path, "make one with 'metaseg data split'")
    content: dict[str, Any] = read_json(path, SPLIT_KIND)
    if content.get("format") != _FORMAT:
        raise SPLIT_KIND.refuse("this is no split file", path)
    if content.get("version") != _VERSION:
        found = f"the split file is of version {content.get('version')}, not {_VERSION}"
        raise SPLIT_KIND.refuse(found, path, "make it again with this version of metaseg")
    return content


@dataclass(frozen=True)
class SplitProblem:
    """One thing that is wrong.

    Attributes:
        kind: A kind of finding of ``metaseg data check``; all but ``split-unnamed`` make metrics wrong or stop a run.
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
            yield SplitProblem("patient-split", f"patient {patient} is in {listed}", next(iter(places.values()))[0])
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
