"""The plan of a comparison of classifiers: its entries, and each entry's run for each seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from metaseg.classify.data import (
    PHANTOM_GRADES,
    check_cases,
    graded_case,
    into_parts,
    open_classified,
    open_slices,
    phantom_folders,
)
from metaseg.classify.train import SPLIT_NAME
from metaseg.classify.transfer import check_transfer
from metaseg.config.classification import ClassifyActiveConfig, ClassifyTrainConfig
from metaseg.config.io import load_config, present_names
from metaseg.config.studies import ClassifyCompareConfig
from metaseg.errors import MetasegError, UsageError, unknown_name
from metaseg.models.card import checkpoint_files, read_card
from metaseg.models.classifiers import find_classifier
from metaseg.models.device import make_fabric
from metaseg.models.weights import read_tensors
from metaseg.runs.networks import NO_FILES, weights_file
from metaseg.runs.session import content_digest
from metaseg.store.prepare import list_cases
from metaseg.studies.cells import run_unit, seconds_of, state_of
from metaseg.studies.entries import plain
from metaseg.studies.plan import NAME
from metaseg.studies.workers import Unit, Work
from metaseg.verbs import CLASSIFIER, verbs_of

ClassifierConfig = ClassifyTrainConfig | ClassifyActiveConfig
KINDS: Mapping[str, Any] = {verb.words.split()[1]: verb.config for verb in verbs_of(CLASSIFIER).values()}
NAMES = {verb: {field.name for field in fields(kind)} for verb, kind in KINDS.items()}
STUDYS_OWN = ("out", "seed", "resume", "overwrite", "device", "cache", "jobs", "ask")
"""Settings of a run that the study sets, or that make no sense in one."""


@dataclass(frozen=True)
class ClassifierWork(Work):
    """A comparison of classifiers.

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
    def units(self) -> Sequence[Unit]:
        """All cells, seed by seed, so that a study that is cut short has all entries."""
        return tuple(Unit("cell", "", label, seed=seed) for seed in self.study.seeds for label in self.entries)

    @property
    def baseline(self) -> str:
        """The entry that the others are compared with."""
        return self.study.baseline or ("random" if "random" in self.entries else next(iter(self.entries)))

    def config(self, cell: Unit) -> ClassifierConfig:
        """The settings of a cell's run."""
        return replace(self.entries[cell.label], seed=cell.seed, out=self.folder / cell.folder)

    def is_done(self, unit: Unit) -> bool:
        """Whether a cell is finished with its settings."""
        return state_of(self.folder / unit.folder, self.config(unit), self.folder) == "done"

    def do(self, unit: Unit) -> None:
        """Do what is missing of a cell."""
        run_unit(self.folder / unit.folder, self.config(unit), self.folder)

    def pace(self, unit: Unit) -> float | None:
        """Seconds of a finished cell."""
        return seconds_of(self.folder / unit.folder)


def make_classifier_plan(config: ClassifyCompareConfig) -> ClassifierWork:
    """Read the entries of a comparison.

    Raises:
        UsageError: There are none, or an entry's name or settings cannot be used.
    """
    example = "{verb: active, strategy: random}"
    if not config.entries:
        raise UsageError(
            "the comparison has no entries", expected=f"entries: with at least one, such as  random: {example}"
        )
    assert config.out is not None
    folder = config.out.expanduser()
    entries, titles = {}, {}
    for label, given in config.entries.items():
        if not NAME.fullmatch(str(label)):
            raise UsageError(f"the entry's name '{label}'", expected="letters, digits and . _ + -")
        if not isinstance(given or {}, Mapping):
            raise UsageError(f"entry '{label}' is {given!r}", expected=f"settings, such as {example}")
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
    own, common = plain(settings), plain(shared)
    verb = str(own.pop("verb", common.pop("verb", "train"))).removeprefix("classify-")
    if verb not in KINDS:
        raise UsageError(f"entry '{label}': verb {verb}", expected="train or active")
    if verb == "active":
        # Shared by entries that train, what was called a strategy once is their way of transfer.
        common.pop("strategy", None)
    own, common = present_names(KINDS[verb], own), present_names(KINDS[verb], common)
    fields_of_any = [field for kind in verbs_of(CLASSIFIER).values() for field in kind.fields]
    of_any = {name for field in fields_of_any for name in (field.name, *field.earlier)}
    if strangers := [name for name in common if name not in of_any]:
        raise UsageError(
            f"shared: no setting '{strangers[0]}'", expected="settings of 'metaseg classify train' or 'active'"
        )
    if taken := [name for name in (*own, *common) if name in STUDYS_OWN]:
        raise UsageError(
            f"entry '{label}' sets '{taken[0]}', which is the study's own",
            remedy="set it at the top of the file, or omit it",
        )
    merged = {name: value for name, value in common.items() if name in NAMES[verb]} | own
    try:
        return load_config(
            KINDS[verb], None, {**merged, "device": study.device, "cache": study.cache, "jobs": 1, "out": folder}
        )
    except UsageError as error:
        error.found = f"entry '{label}': {error.found}"
        raise


def check_entries(entries: Mapping[str, ClassifierConfig]) -> None:
    """Find out whether data, splits and networks allow the entries, from names alone; writes nothing.

    Raises:
        MetasegError: As from the runs themselves, with the entry's name.
    """
    seen: dict[tuple[Any, ...], list[Any]] = {}
    for label, entry in entries.items():
        reading = (entry.data, entry.format, entry.copies, entry.patients)
        try:
            find_classifier(entry.model).validated(entry.model_options)
            if entry.weights not in NO_FILES:
                _check_weights(Path(weights_file(entry.weights)))
            make_fabric(entry.device, "32-true")
            if isinstance(entry, ClassifyTrainConfig):
                check_transfer(entry)
            if reading not in seen:
                # Phantoms are of two grades, and made when the study runs.
                seen[reading] = list_cases(
                    entry.data,
                    format=entry.format,
                    patients=entry.patients,
                    allow_missing=entry.allow_missing,
                    group_copies=entry.copies,
                ) or [graded_case(grade, grade, grade) for grade in map(str.upper, PHANTOM_GRADES)]
            check_cases(seen[reading], entry)
        except MetasegError as error:
            error.found = f"entry '{label}': {error.found}"
            raise


def _check_weights(path: Path) -> None:
    """Raise unless a file holds tensors, and those of no segmentation network where it has a card."""
    card = checkpoint_files(path)[1]
    if card.exists() and read_card(card)[0].task != "classification":
        raise UsageError("the weights are those of a segmentation network", where=path, expected="a classifier's")
    read_tensors(path)


def input_digests(entries: Mapping[str, ClassifierConfig]) -> dict[str, str]:
    """Digests of what runs of entries read, for :func:`~metaseg.studies.cells.check_inputs`."""
    stores: dict[tuple[Any, ...], str] = {}
    found = {}
    for label, entry in entries.items():
        reading = (entry.data, entry.format, entry.patients, entry.modalities, entry.input_size, entry.copies)
        if reading not in stores:
            stores[reading] = open_classified(entry).fingerprint
        found[f"data of {label}"] = stores[reading]
        weights = None if entry.weights in NO_FILES else Path(weights_file(entry.weights))
        files = {"split": entry.split, "case table": entry.case_table, "weights": weights}
        found |= {f"{name} of {label}": content_digest(path) for name, path in files.items() if path is not None}
    return found


def with_split(work: ClassifierWork) -> ClassifierWork:
    """The plan with one division of the patients for all seeds and entries, drawn once, unless it has its own.

    Entries without data work on phantoms, the same for all seeds.

    Raises:
        MetasegError: The data cannot be used.
    """
    entries = {
        label: replace(entry, data=entry.data or phantom_folders(entry.phantom_cases, 0, entry.cache))
        for label, entry in work.entries.items()
    }
    without = [label for label, entry in entries.items() if entry.split is None]
    if without and not work.study.new_splits:
        path = work.folder / SPLIT_NAME
        if not path.exists():
            first = entries[without[0]]
            into_parts(open_slices(first), first).split.save(path)
        entries |= {label: replace(entries[label], split=path) for label in without}
    return replace(work, entries=entries)
