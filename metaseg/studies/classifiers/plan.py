"""The plan of a comparison of classifiers: its entries, and each entry's run for each seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from metaseg.cases.case import Case
from metaseg.cases.labels import LABEL_SCHEMES
from metaseg.cases.readers import read_cases
from metaseg.classify.data import check_cases, divide, open_cases, open_slices
from metaseg.classify.fitting import NO_FILES, weights_file
from metaseg.classify.train import SPLIT_NAME, check_strategy
from metaseg.config.classification import ClassifyActiveConfig, ClassifyTrainConfig
from metaseg.config.io import load_config
from metaseg.config.studies import ClassifyCompareConfig
from metaseg.errors import MetasegError, UsageError, unknown_name
from metaseg.models.card import checkpoint_files, read_card
from metaseg.models.classifiers import find_classifier
from metaseg.models.device import make_fabric
from metaseg.models.weights import read_tensors
from metaseg.store.prepare import phantom_folder
from metaseg.store.store import is_store, open_store
from metaseg.studies.cells import run_unit, seconds_of, state_of
from metaseg.studies.inputs import file_digest
from metaseg.studies.plan import CELLS, NAME

ClassifierConfig = ClassifyTrainConfig | ClassifyActiveConfig
KINDS: Mapping[str, type[ClassifierConfig]] = {"train": ClassifyTrainConfig, "active": ClassifyActiveConfig}
STUDYS_OWN = ("out", "seed", "resume", "overwrite", "device", "cache", "jobs", "ask")
"""Settings of a run that the study sets, or that make no sense in one."""


@dataclass(frozen=True)
class Cell:
    """One entry with one seed.

    Attributes:
        label: The entry.
        seed: The seed.
    """

    label: str
    seed: int

    @property
    def name(self) -> str:
        """As in messages: ``entropy/seed-0``."""
        return f"{self.label}/seed-{self.seed}"

    @property
    def folder(self) -> Path:
        """Its folder within the study."""
        return Path(CELLS, self.label, f"seed-{self.seed}")


@dataclass(frozen=True)
class ClassifierWork:
    """A comparison of classifiers as :class:`~metaseg.studies.work.Work`.

    Attributes:
        study: Its settings.
        folder: Its folder.
        entries: Settings of each entry's runs, but for seed and folder.
        titles: Name of each entry in tables.
    """

    study: ClassifyCompareConfig
    folder: Path
    entries: Mapping[str, ClassifierConfig]
    titles: Mapping[str, str]

    @property
    def jobs(self) -> int:
        """Processes that work side by side."""
        return self.study.jobs

    @property
    def threads(self) -> int:
        """Threads of each process."""
        return self.study.threads

    @property
    def units(self) -> Sequence[Cell]:
        """All cells, seed by seed, so that a study that is cut short has all entries."""
        return tuple(Cell(label, seed) for seed in self.study.seeds for label in self.entries)

    def config(self, cell: Cell) -> ClassifierConfig:
        """The settings of a cell's run."""
        return replace(self.entries[cell.label], seed=cell.seed, out=self.folder / cell.folder)

    def needs(self, unit: Cell) -> Sequence[Cell]:
        """Nothing: the cells stand alone."""
        return ()

    def is_done(self, unit: Cell) -> bool:
        """Whether a cell is finished with its settings."""
        return state_of(self.folder / unit.folder, self.config(unit), self.folder) == "done"

    def do(self, unit: Cell) -> None:
        """Do what is missing of a cell."""
        run_unit(self.folder / unit.folder, self.config(unit), self.folder)

    def amount(self, unit: Cell) -> float:
        """Cells count alike."""
        return 1.0

    def spent(self, unit: Cell) -> float:
        """Nothing of a cell is counted before its end."""
        return 0.0

    def pace(self, unit: Cell) -> float | None:
        """Seconds of a finished cell."""
        return seconds_of(self.folder / unit.folder)


def make_classifier_plan(config: ClassifyCompareConfig) -> ClassifierWork:
    """Read the entries of a comparison.

    Raises:
        UsageError: There are none, or an entry's name or settings cannot be used.
    """
    if not config.entries:
        raise UsageError(
            "the comparison has no entries",
            expected="entries: with at least one, such as  random: {verb: active, strategy: random}",
        )
    assert config.out is not None
    folder = config.out.expanduser()
    entries, titles = {}, {}
    for label, given in config.entries.items():
        if not NAME.fullmatch(str(label)):
            raise UsageError(f"the entry's name '{label}'", expected="letters, digits and . _ + -")
        if not isinstance(given or {}, Mapping):
            raise UsageError(
                f"entry '{label}' is {given!r}", expected="settings, such as {verb: active, strategy: random}"
            )
        settings = dict(given or {})
        titles[label] = str(settings.pop("title", label))
        entries[label] = read_classifier_entry(str(label), settings, config.shared, config, folder)
    if config.baseline is not None and config.baseline not in entries:
        raise unknown_name("entry of --baseline", config.baseline, entries)
    return ClassifierWork(config, folder, entries, titles)


def read_classifier_entry(
    label: str,
    settings: Mapping[str, Any],
    shared: Mapping[str, Any],
    study: Any,
    folder: Path,
) -> ClassifierConfig:
    """The settings of an entry's runs.

    Args:
        label: The entry, for messages.
        settings: Its own settings, and its ``verb``.
        shared: Settings of all entries; those that an entry's verb does not have are left out.
        study: Settings of the study.
        folder: Its folder.

    Raises:
        UsageError: The verb or a setting is unknown or not allowed.
    """
    own = {str(key).replace("-", "_"): value for key, value in settings.items()}
    verb = str(own.pop("verb", shared.get("verb", "train"))).removeprefix("classify-")
    if verb not in KINDS:
        raise UsageError(f"entry '{label}': verb {verb}", expected="train or active")
    kind = KINDS[verb]
    known = {field.name for field in fields(kind)}
    common = {str(key).replace("-", "_"): value for key, value in shared.items() if key != "verb"}
    strangers = [
        name for name in common if not any(name in {field.name for field in fields(one)} for one in KINDS.values())
    ]
    if strangers:
        raise UsageError(
            f"shared: no setting '{strangers[0]}'", expected="settings of 'metaseg classify train' or 'active'"
        )
    taken = [name for name in (*own, *common) if name in STUDYS_OWN]
    if taken:
        raise UsageError(
            f"entry '{label}' sets '{taken[0]}', which is the study's own",
            remedy="set it at the top of the file, or leave it away",
        )
    merged = {**{name: value for name, value in common.items() if name in known}, **own}
    if verb == "active" and "strategy" in common and "strategy" not in own:
        # Shared by entries that train, it is the strategy of transfer.
        merged.pop("strategy", None)
    try:
        return load_config(
            kind, None, {**merged, "device": study.device, "cache": study.cache, "jobs": 1, "out": folder}
        )
    except UsageError as error:
        raise UsageError(
            f"entry '{label}': {error.found}", where=error.where, expected=error.expected, remedy=error.remedy
        ) from error


PHANTOMS = tuple(
    Case(id=grade, patient=grade, cohort=grade, grade=grade, images={}, label=None, scheme=LABEL_SCHEMES["brats"])
    for grade in ("HGG", "LGG")
)
"""What phantoms tell of themselves."""


def check_entries(entries: Mapping[str, ClassifierConfig]) -> None:
    """Find out whether data, splits and networks allow the entries, from names alone; writes nothing.

    Raises:
        MetasegError: As from the runs themselves, with the entry's name.
    """
    seen: dict[tuple[Any, ...], list[Any]] = {}
    for label, entry in entries.items():
        reading = (entry.data, entry.format, entry.copies, entry.patients)
        try:
            find_classifier(entry.model)
            if entry.weights not in NO_FILES:
                _check_weights(Path(weights_file(entry.weights)))
            make_fabric(entry.device, "32-true")
            if isinstance(entry, ClassifyTrainConfig):
                check_strategy(entry.strategy, entry.weights)
            if reading not in seen:
                # Phantoms are of two grades, and made when the study runs.
                seen[reading] = [case for folder in entry.data for case in _members(entry, folder)]
            check_cases(seen[reading] or PHANTOMS, entry)
        except MetasegError as error:
            error.found = f"entry '{label}': {error.found}"
            raise


def _check_weights(path: Path) -> None:
    """Raise unless a file holds tensors, and those of no segmentation network where it has a card."""
    card = checkpoint_files(path)[1]
    if card.exists() and read_card(card)[0].task != "classification":
        raise UsageError("the weights are those of a segmentation network", where=path, expected="a classifier's")
    read_tensors(path)


def _members(entry: ClassifierConfig, folder: Path) -> list[Any]:
    if is_store(folder):
        return list(open_store(folder))
    return read_cases(
        folder,
        format=entry.format,
        patients=entry.patients,
        allow_missing=entry.allow_missing,
        group_copies=entry.copies,
    )


def input_digests(entries: Mapping[str, ClassifierConfig]) -> dict[str, str]:
    """Digests of what runs of entries read, for :func:`~metaseg.studies.inputs.check_inputs`."""
    stores: dict[tuple[Any, ...], str] = {}
    found = {}
    for label, entry in entries.items():
        reading = (entry.data, entry.format, entry.patients, entry.modalities, entry.input_size, entry.copies)
        if reading not in stores:
            stores[reading] = open_cases(entry, entry).fingerprint
        found[f"data of {label}"] = stores[reading]
        weights = None if entry.weights in NO_FILES else Path(weights_file(entry.weights))
        files = {"split": entry.split, "case table": entry.case_table, "weights": weights}
        found |= {f"{name} of {label}": file_digest(path) for name, path in files.items() if path is not None}
    return found


def _with_phantoms(entry: ClassifierConfig) -> ClassifierConfig:
    """An entry without data works on phantoms, the same for all seeds."""
    if entry.data:
        return entry
    return replace(
        entry, data=tuple(phantom_folder(grade, entry.phantom_cases, 0, entry.cache) for grade in ("hgg", "lgg"))
    )


def with_split(work: ClassifierWork) -> ClassifierWork:
    """The plan with one division of the patients for all seeds and entries, drawn once, unless it has its own.

    Raises:
        MetasegError: The data cannot be used.
    """
    work = replace(work, entries={label: _with_phantoms(entry) for label, entry in work.entries.items()})
    without = [label for label, entry in work.entries.items() if entry.split is None]
    if work.study.new_splits or not without:
        return work
    path = work.folder / SPLIT_NAME
    if not path.exists():
        first = work.entries[without[0]]
        divide(open_slices(first, first), first, 0).split.save(path)
    entries = {
        label: replace(entry, split=path) if entry.split is None else entry for label, entry in work.entries.items()
    }
    return replace(work, entries=entries)
