"""Phantoms as domains of a comparison: made once in the study folder, the same for every seed, with a split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metaseg.cases.phantoms import make_phantoms
from metaseg.cases.readers import read_cases
from metaseg.cases.splits import Split, make_split
from metaseg.config.segmentation import AdaptOptions, PretrainConfig
from metaseg.errors import UsageError

FOLDER = "phantoms"
SEED = 0
PARTS = {"train": 0.5, "val": 0.2, "test": 0.3}
TARGETS, SOURCES = ("met", "lgg"), ("hgg",)
OF_PHANTOMS = frozenset({"phantom_cases"})
"""Settings of a verb that the study makes its phantoms by; the verb itself is given data, and has no use for them."""


@dataclass(frozen=True)
class Phantoms:
    """The phantoms of one cohort."""

    cohort: str
    cases: int

    @property
    def name(self) -> str:
        """Name of their folder: another number of phantoms is another domain, with another split."""
        return f"{self.cohort}-{self.cases}"


def split_file(study: Path, *domains: Phantoms) -> Path:
    """The split over some domains."""
    return study / FOLDER / ("+".join(domain.name for domain in domains) + ".json")


def data_folder(study: Path, domain: Phantoms) -> Path:
    """The cases of a domain."""
    return study / FOLDER / domain.name


def phantom_pretraining(settings: Mapping[str, Any], study: Path) -> dict[str, Any]:
    """Settings of a pretraining inside a study; on the study's phantoms if they name no data.

    Raises:
        UsageError: Phantoms are asked for that are no source.
    """
    settings = dict(settings)
    asked = settings.pop("phantoms", None)
    if settings.get("data"):
        if asked is not None:
            raise UsageError("pretrain: 'data' and 'phantoms' are both given", expected="one of them")
        return settings
    source = _domain("pretrain", asked or "hgg", settings, SOURCES, PretrainConfig)
    return {**settings, "data": data_folder(study, source), "split": split_file(study, source)}


def phantom_target(
    settings: Mapping[str, Any], shared: Mapping[str, Any], pretrain: Mapping[str, Any], study: Path, where: str
) -> dict[str, Any]:
    """Settings of a target of phantoms, with the high-grade gliomas of the pretraining as its source.

    Raises:
        UsageError: There are no such phantoms, or data are named beside them.
    """
    settings = dict(settings)
    named = sorted({"data", "split", "source", "source_split"} & (set(settings) | set(shared)))
    if named:
        raise UsageError(f"{where} is of phantoms, and '{named[0]}' is given", remedy="omit 'phantoms', or the data")
    target = _domain(where, settings.pop("phantoms", "met"), {**shared, **settings}, TARGETS, AdaptOptions)
    source = _domain("pretrain", "hgg", pretrain, SOURCES, PretrainConfig)
    return {
        **settings,
        "data": data_folder(study, target),
        # The split is of both domains: naming the class says that others in it are not missing.
        "classes": [target.cohort.upper()],
        "source": data_folder(study, source),
        "split": split_file(study, source, target),
    }


def make_phantom_domain(split: Path) -> None:
    """Make the phantoms that a split file of :func:`split_file` is named after, and the file; what is there stays."""
    domains = [Phantoms(cohort, int(cases)) for cohort, cases in (name.split("-") for name in split.stem.split("+"))]
    study = split.parent.parent
    parts: dict[str, tuple[str, ...]] = {}
    patients: dict[str, str] = {}
    for domain in domains:
        folder = data_folder(study, domain)
        make_phantoms(folder, cohort=domain.cohort, cases=domain.cases, seed=SEED)
        # Each domain is split by itself, so that the source's parts are the same whatever the target.
        own = make_split(read_cases(folder), PARTS, seed=SEED)
        parts = {name: (*parts.get(name, ()), *ids) for name, ids in own.parts.items()}
        patients |= own.patients
    if not split.exists():
        Split(SEED, "cohort", parts, patients).save(split)


def is_phantom_split(split: Path | None, study: Path) -> bool:
    """Whether a split is one that the study makes."""
    return split is not None and split.parent == study / FOLDER


def _domain(
    where: str,
    cohort: Any,
    settings: Mapping[str, Any],
    allowed: tuple[str, ...],
    kind: type[AdaptOptions | PretrainConfig],
) -> Phantoms:
    if cohort not in allowed:
        raise UsageError(f"{where}: 'phantoms' is '{cohort}'", expected="one of " + ", ".join(allowed))
    cases = settings.get("phantom_cases", kind.phantom_cases)
    if not isinstance(cases, int) or isinstance(cases, bool) or cases < len(PARTS):
        raise UsageError(f"{where}: 'phantom_cases' is '{cases}'", expected=f"a whole number of at least {len(PARTS)}")
    return Phantoms(str(cohort), cases)
