"""The plan of a comparison of classifiers: its entries, and each entry's run for each seed and fold."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from metaseg.cases.splits import Split
from metaseg.classify.data import (
    check_cases,
    check_folds,
    into_parts,
    open_classified,
    open_slices,
    own_split,
    phantom_cases,
    phantom_folders,
)
from metaseg.classify.fitting import check_network
from metaseg.classify.train import SPLIT_NAME
from metaseg.classify.transfer import check_transfer
from metaseg.classify.uncertainty import RANKED_ROUND, first_ranking, list_file
from metaseg.config.classification import ClassifyActiveConfig, ClassifyTrainConfig
from metaseg.config.io import load_config, present_names
from metaseg.config.studies import ClassifyCompareConfig
from metaseg.errors import MetasegError, UsageError, unknown_name
from metaseg.models.device import make_fabric
from metaseg.runs.networks import NO_FILES, weights_file
from metaseg.runs.session import content_digest
from metaseg.store.prepare import list_cases
from metaseg.studies.cells import began_from, run_unit, seconds_of, state_of
from metaseg.studies.classifiers.trials import Slot, TrainingSearch, check_validation_part, read_space
from metaseg.studies.entries import check_numbers, plain
from metaseg.studies.plan import NAME
from metaseg.studies.search import Space, with_values
from metaseg.studies.workers import Unit, Work
from metaseg.verbs import CLASSIFIER, verbs_of

ClassifierConfig = ClassifyTrainConfig | ClassifyActiveConfig
KINDS: Mapping[str, Any] = {verb.words.split()[1]: verb.config for verb in verbs_of(CLASSIFIER).values()}
NAMES = {verb: {item.name for item in fields(kind)} for verb, kind in KINDS.items()}
STUDYS_OWN = ("out", "seed", "resume", "overwrite", "device", "cache", "jobs", "ask", "ranking_from")
"""Settings of a run that the study sets, or that make no sense in one."""
FROM = "from:"
"""Begins the ``weights`` of an entry that starts from a network of the study."""


@dataclass(frozen=True)
class ClassifierWork(Work):
    """A comparison of classifiers.

    Attributes:
        study: Its settings.
        folder: Its folder.
        entries: Settings of each entry's runs, but for seed, fold and folder.
        titles: Name of each entry in tables.
        pretraining: Settings of the networks that entries start from, by label.
        spaces: What is searched of each entry that is searched.
    """

    study: ClassifyCompareConfig
    folder: Path
    entries: Mapping[str, ClassifierConfig]
    titles: Mapping[str, str]
    pretraining: Mapping[str, ClassifierConfig] = field(default_factory=dict)
    spaces: Mapping[str, Space] = field(default_factory=dict)

    @property
    def references(self) -> tuple[str, ...]:
        """Entries at whose final metric labels are counted, beside the baseline."""
        return tuple(name for name in self.study.references if name != self.baseline)

    @property
    def cells(self) -> Sequence[Unit]:
        """The runs that are compared, seed by seed and fold by fold, so that a study cut short has all entries."""
        folds = range(self.study.folds) if self.study.folds else (None,)
        return tuple(
            Unit("cell", "", label, seed=seed, fold=fold)
            for seed in self.study.seeds
            for fold in folds
            for label in _parents_first(self.entries)
        )

    @property
    def units(self) -> Sequence[Unit | Slot]:
        """All work: the networks to start from, the trials and the end of each search, and the cells."""
        units: list[Unit | Slot] = [Unit("pretrain", "", label) for label in self.pretraining]
        for label, search in self.searches.items():
            units += [*search.units, end_of(label)]
        return (*units, *self.cells)

    def needs(self, unit: Unit | Slot) -> Sequence[Unit | Slot]:
        """What a unit is made from, and the cell whose ranking it takes."""
        ranked = self.ranked_by(unit)
        return self.made_from(unit) if ranked is None else [*self.made_from(unit), ranked]

    def ranked_by(self, unit: Unit | Slot) -> Unit | None:
        """The cell whose committee ranks the slices for this one too: the first entry's that has the same committee."""
        if not isinstance(unit, Unit) or unit.kind != "cell":
            return None
        mine = _first_ranking(self.entries[unit.label])
        first = next(label for label, entry in self.entries.items() if _first_ranking(entry) == mine)
        return None if mine is None or first == unit.label else replace(unit, label=first)

    def made_from(self, unit: Unit | Slot) -> Sequence[Unit | Slot]:
        """The unit whose network this one starts from, if it is one of the study, and the search of its values."""
        parent = self.parent(unit)
        needed: list[Unit | Slot] = [] if parent is None else [parent]
        if unit.label in self.searches:
            search = self.searches[unit.label]
            if isinstance(unit, Slot):
                needed += search.needs(unit)
            else:
                needed += search.units if unit.kind == "search" else [end_of(unit.label)]
        return needed

    def parent(self, unit: Unit | Slot) -> Unit | None:
        """The unit whose network a unit starts from, if it is one of the study."""
        label = parent_of(self.entries[unit.label]) if unit.label in self.entries else None
        if label is None or (isinstance(unit, Unit) and unit.kind != "cell"):
            return None
        if label in self.pretraining:
            return Unit("pretrain", "", label)
        assert isinstance(unit, Unit)
        return replace(unit, label=label)

    def base(self, label: str) -> str:
        """What an entry's networks began with: ``none``, ``ImageNet``, a file, or networks of the study."""
        config = self.entries[label] if label in self.entries else self.pretraining[label]
        if (parent := parent_of(config)) is None:
            return "ImageNet" if config.weights == "imagenet" else config.weights
        earlier = self.base(parent)
        return parent if earlier == "none" else f"{earlier}, {parent}"

    @cached_property
    def searches(self) -> Mapping[str, TrainingSearch]:
        """The searches by entry."""
        return {label: self._search(label) for label in self.spaces}

    def _search(self, label: str) -> TrainingSearch:
        study, folder = self.study, self.folder / end_of(label).folder
        entry = self.entries[label]
        assert isinstance(entry, ClassifyTrainConfig)
        entry = replace(entry, seed=study.search_seed, test=False)
        if (parent := parent_of(entry)) is not None:
            entry = replace(entry, weights=str(self.folder / Unit("pretrain", "", parent).folder))
        return TrainingSearch(
            study=study,
            root=self.folder,
            folder=folder,
            name=label,
            label=label,
            config=entry,
            space=self.spaces[label],
            seed=(study.search_seed,),
            trials=study.trials,
            storage=study.storage,
            pruning=study.pruning,
        )

    def values(self, label: str) -> Mapping[str, Any] | None:
        """The searched values that an entry runs with; None before its search is done."""
        return self.searches[label].found() if label in self.searches else {}

    @property
    def baseline(self) -> str:
        """The entry that the others are compared with."""
        return self.study.baseline or ("random" if "random" in self.entries else next(iter(self.entries)))

    def config(self, unit: Unit) -> ClassifierConfig:
        """The settings of a unit's run; before the search of its values, those that the search begins with."""
        out = self.folder / unit.folder
        if unit.kind == "pretrain":
            return replace(self.pretraining[unit.label], out=out)
        config = with_values(self.entries[unit.label], self.values(unit.label) or {})
        config = replace(config, seed=unit.seed, out=out)
        if unit.fold is not None:
            config = replace(config, split=config.split or self.fold_file(unit.seed), fold=unit.fold)
        if (parent := self.parent(unit)) is not None:
            config = replace(config, weights=str(self.folder / parent.folder))
        ranked = self.ranked_by(unit)
        if (
            ranked is not None
            and isinstance(config, ClassifyActiveConfig)
            and list_file(self.folder / ranked.folder, RANKED_ROUND).exists()
        ):
            config = replace(config, ranking_from=self.folder / ranked.folder)
        return config

    def fold_file(self, seed: int) -> Path:
        """Where the folds of a seed are kept."""
        return self.folder / (f"folds-seed-{seed}.json" if self.study.new_splits else "folds.json")

    def is_done(self, unit: Unit | Slot) -> bool:
        """Whether a unit is finished with its settings, and from the network that there is to start from."""
        if isinstance(unit, Slot):
            return self.searches[unit.label].is_done(unit)
        if unit.kind == "search":
            return self.values(unit.label) is not None
        return self._has_run(unit) and self._is_of_its_parent(unit)

    def do(self, unit: Unit | Slot) -> None:
        """Do what is missing of a unit."""
        if isinstance(unit, Slot):
            self.searches[unit.label].do(unit)
        elif unit.kind == "search":
            self.searches[unit.label].finish()
        else:
            anew = self._has_run(unit) and not self._is_of_its_parent(unit)
            run_unit(self.folder / unit.folder, self.config(unit), self.folder, anew=anew)

    def _has_run(self, unit: Unit) -> bool:
        if self.values(unit.label) is None:
            return False
        return state_of(self.folder / unit.folder, self.config(unit), self.folder) == "done"

    def _is_of_its_parent(self, unit: Unit) -> bool:
        return self.parent(unit) is None or began_from(self.folder / unit.folder, self.config(unit).weights)

    def pace(self, unit: Unit | Slot) -> float | None:
        """Seconds of a finished run."""
        if isinstance(unit, Slot):
            return self.searches[unit.label].pace(unit)
        return seconds_of(self.folder / unit.folder)


def end_of(label: str) -> Unit:
    """The end of an entry's search, where the best of its trials is written down."""
    return Unit("search", "", label)


def _first_ranking(entry: ClassifierConfig) -> ClassifyActiveConfig | None:
    return first_ranking(entry) if isinstance(entry, ClassifyActiveConfig) else None


def make_classifier_plan(config: ClassifyCompareConfig) -> ClassifierWork:
    """Read the entries of a comparison.

    Raises:
        UsageError: There are none, or an entry's name or settings cannot be used.
    """
    example = "{verb: active, acquisition: random}"
    if not config.entries:
        raise UsageError(
            "the comparison has no entries", expected=f"entries: with at least one, such as  random: {example}"
        )
    check_numbers("seeds", config.seeds)
    assert config.out is not None
    folder = config.out.expanduser()
    entries, titles, spaces = {}, {}, {}
    for label, given in config.entries.items():
        settings = _own_settings(label, given, f"entry '{label}'")
        titles[label] = str(settings.pop("title", label))
        searched = settings.pop("search", None)
        entries[label] = read_classifier_entry(f"entry '{label}'", settings, config.shared, config, folder)
        if searched is not None:
            space, begun = _read_search(f"entry '{label}': search", searched, entries[label], config)
            if config.trials:
                spaces[label], entries[label] = space, begun
    if config.baseline is not None and config.baseline not in entries:
        raise unknown_name("entry of --baseline", config.baseline, entries)
    if strangers := [name for name in config.references if name not in entries]:
        raise unknown_name("entry of --references", strangers[0], entries)
    pretraining = {
        label: read_classifier_entry(what, _own_settings(label, given, what), {}, config, folder)
        for label, given in config.pretrain.items()
        for what in [f"pretrain '{label}'"]
    }
    _check_parents(entries, pretraining)
    _check_cross_validation(config, entries)
    return ClassifierWork(config, folder, entries, titles, pretraining, spaces)


def _read_search(
    where: str, given: Any, entry: ClassifierConfig, study: ClassifyCompareConfig
) -> tuple[Space, ClassifyTrainConfig]:
    """The space of an entry, and the settings that its search begins with."""
    if not isinstance(entry, ClassifyTrainConfig):
        raise UsageError(f"{where}, of an entry with verb active", expected="an entry that trains", remedy="omit it")
    if study.new_splits or study.folds:
        raise UsageError(
            f"{where} beside {'folds' if study.folds else 'new_splits'}: it would see patients that are tested",
            expected="one test part for all seeds",
            remedy="omit one of the two",
        )
    if (parent := parent_of(entry)) is not None and parent in study.entries:
        raise UsageError(
            f"{where}, of an entry that starts from entry '{parent}', which has a network for each seed",
            expected="weights of a file, or of a network under 'pretrain'",
        )
    if not given:
        raise UsageError(
            f"{where} is empty", expected="settings, such as learning_rate: {low: 1e-4, high: 1e-2, log: true}"
        )
    return read_space(given, entry, where)


def _own_settings(label: Any, given: Any, what: str) -> dict[str, Any]:
    if not NAME.fullmatch(str(label)):
        raise UsageError(f"the {what.split()[0]}'s name '{label}'", expected="letters, digits and . _ + -")
    if not isinstance(given or {}, Mapping):
        raise UsageError(f"{what} is {given!r}", expected="settings, such as {verb: active, acquisition: random}")
    return dict(given or {})


def parent_of(entry: ClassifierConfig) -> str | None:
    """The label of the study's network that an entry starts from; None for one that starts from elsewhere."""
    return entry.weights.removeprefix(FROM) if entry.weights.startswith(FROM) else None


def _parents_first(entries: Mapping[str, ClassifierConfig]) -> list[str]:
    """The entries in their order, but each behind the one that it starts from."""
    ordered: list[str] = []

    def put(label: str) -> None:
        parent = parent_of(entries[label])
        if parent is not None and parent in entries:
            put(parent)
        if label not in ordered:
            ordered.append(label)

    for label in entries:
        put(label)
    return ordered


def _check_parents(entries: Mapping[str, ClassifierConfig], pretraining: Mapping[str, ClassifierConfig]) -> None:
    """Raise UsageError where an entry starts from what is not there, from itself, or from another network."""
    known = {**pretraining, **entries}
    if doubled := sorted(pretraining.keys() & entries.keys()):
        raise UsageError(f"'{doubled[0]}' is an entry and under 'pretrain'", expected="two names")
    for label, entry in known.items():
        line, parent = [label], parent_of(entry)
        while parent is not None:
            if parent not in known:
                raise unknown_name(f"network of the study, in weights of '{line[-1]}',", parent, known)
            if parent in line or line[-1] in pretraining:
                raise UsageError(
                    f"'{line[-1]}' cannot start from '{parent}'",
                    expected="an entry of 'pretrain', or an entry that does not itself start from this one",
                )
            if known[parent].model != entry.model:
                raise UsageError(
                    f"entry '{label}' ({entry.model}) starts from '{parent}' ({known[parent].model})",
                    expected="the same network",
                )
            line.append(parent)
            parent = parent_of(known[parent])


def _check_cross_validation(config: ClassifyCompareConfig, entries: Mapping[str, ClassifierConfig]) -> None:
    if not config.folds:
        return
    sets = {
        (entry.data or entry.phantoms, entry.label, entry.classes) for entry in entries.values() if entry.split is None
    }
    if len(sets) > 1:
        raise UsageError(
            "the entries are of different data or classes, and 'folds' divides the patients of one set",
            remedy="make a study for each set, or give each entry a 'split' of so many folds",
        )
    if config.folds < 3:
        raise UsageError(f"--folds {config.folds}", expected="3 or more: one to test, one to validate, others to train")
    for label, entry in entries.items():
        if isinstance(entry, ClassifyActiveConfig):
            raise UsageError(
                f"entry '{label}': active learning in {config.folds} folds",
                expected="entries that train, with 'folds'",
                remedy="use seeds with 'new_splits: true' for active learning",
            )
        if entry.fold is not None:
            raise UsageError(f"entry '{label}' sets 'fold', which is the study's own", remedy="omit it")


def read_classifier_entry(
    what: str, settings: Mapping[str, Any], shared: Mapping[str, Any], study: Any, folder: Path
) -> ClassifierConfig:
    """The settings of an entry's runs.

    Args:
        what: What is read, such as ``entry 'random'``, for messages.
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
        raise UsageError(f"{what}: verb {verb}", expected="train or active")
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
            f"{what} sets '{taken[0]}', which is the study's own", remedy="set it at the top of the file, or omit it"
        )
    merged = {name: value for name, value in common.items() if name in NAMES[verb]} | own
    try:
        return load_config(
            KINDS[verb], None, {**merged, "device": study.device, "cache": study.cache, "jobs": 1, "out": folder}
        )
    except UsageError as error:
        error.found = f"{what}: {error.found}"
        raise


def check_entries(
    entries: Mapping[str, ClassifierConfig],
    folds: int = 0,
    own: Collection[str] = (),
    searched: Mapping[str, Space] = MappingProxyType({}),
) -> None:
    """Find out whether data, splits and networks allow the entries, from names alone; writes nothing.

    Args:
        entries: The entries, or other settings of runs.
        folds: Folds of the study; 0 for none.
        own: Labels of the networks that will be there when the study has made them.
        searched: What is searched of entries, by label.

    Raises:
        MetasegError: As from the runs themselves, with the entry's name.
    """
    seen: dict[tuple[Any, ...], list[Any]] = {}
    for label, entry in entries.items():
        reading = (entry.data or entry.phantoms, entry.format, entry.copies, entry.patients, entry.modalities)
        try:
            _check_network(entry, own)
            for parameter in searched.get(label, {}).values():
                # A trial starts from what its settings name, not from a network of the study.
                known = () if parameter.name == "weights" else own
                for value in parameter.ends():
                    _check_network(with_values(entry, {parameter.name: value}), known)
            make_fabric(entry.device, "32-true")
            if reading not in seen:
                # Phantoms are made when the study runs.
                seen[reading] = list_cases(
                    entry.data,
                    modalities=entry.modalities,
                    format=entry.format,
                    patients=entry.patients,
                    allow_missing=entry.allow_missing,
                    group_copies=entry.copies,
                ) or phantom_cases(entry)
            check_cases(seen[reading], entry, folds)
            if label in searched and isinstance(entry, ClassifyTrainConfig):
                check_validation_part(entry)
        except MetasegError as error:
            error.found = f"entry '{label}': {error.found}"
            raise


def _check_network(entry: ClassifierConfig, own: Collection[str]) -> None:
    """Raise where network, weights and transfer of an entry cannot be had, or contradict each other."""
    check_network(replace(entry, weights="none") if parent_of(entry) in own else entry)
    if isinstance(entry, ClassifyTrainConfig):
        check_transfer(entry)


def input_digests(entries: Mapping[str, ClassifierConfig]) -> dict[str, str]:
    """Digests of what runs of entries read, for :func:`~metaseg.studies.cells.check_inputs`."""
    stores: dict[tuple[Any, ...], str] = {}
    found = {}
    for label, entry in entries.items():
        reading = (entry.data, entry.format, entry.patients, entry.modalities, entry.input_size, entry.copies)
        if reading not in stores:
            stores[reading] = open_classified(entry).fingerprint
        found[f"data of {label}"] = stores[reading]
        within = entry.weights in NO_FILES or parent_of(entry) is not None
        weights = None if within else Path(weights_file(entry.weights))
        files = {"split": entry.split, "case table": entry.case_table, "weights": weights}
        found |= {f"{name} of {label}": content_digest(path) for name, path in files.items() if path is not None}
    return found


def with_split(work: ClassifierWork) -> ClassifierWork:
    """The plan with one division of the patients for all seeds and entries, drawn once, unless it has its own.

    Folds are drawn for each seed where the study has new splits. Entries without data work on phantoms, the same for
    all seeds.

    Raises:
        MetasegError: The data cannot be used.
    """
    entries, pretraining = (
        {label: replace(entry, data=entry.data or phantom_folders(entry, 0)) for label, entry in group.items()}
        for group in (work.entries, work.pretraining)
    )
    without = [label for label, entry in entries.items() if entry.split is None]
    if without and work.study.folds:
        _write_folds(work, entries[without[0]])
    if without and not work.study.new_splits:
        path = work.fold_file(0) if work.study.folds else work.folder / SPLIT_NAME
        if not path.exists():
            first = entries[without[0]]
            into_parts(open_slices(first), first).split.save(path)
        entries |= {label: replace(entries[label], split=path) for label in without}
    return replace(work, entries=entries, pretraining=pretraining)


def _write_folds(work: ClassifierWork, first: ClassifierConfig) -> None:
    """Draw the folds that are not there yet, and look at those that are."""
    folds = work.study.folds
    files = {work.fold_file(seed): seed for seed in work.study.seeds}
    for path, seed in files.items():
        if path.exists():
            check_folds(Split.load(path), folds, path)
        else:
            own_split(open_slices(first), seed if work.study.new_splits else first.seed, folds).save(path)
