"""The cases of an adaptation's two domains: opened, and of the source which are watched and which drawn from."""

from __future__ import annotations

from pathlib import Path

from metaseg.cases.splits import Split
from metaseg.config.segmentation import AdaptOptions, PretrainConfig
from metaseg.errors import UsageError
from metaseg.runs.folder import RunFolder
from metaseg.runs.networks import LoadedNetwork
from metaseg.store.prepare import open_cases
from metaseg.store.store import SliceStore
from metaseg.training.pretrain import open_pretraining_data


def open_domain(
    config: AdaptOptions, network: LoadedNetwork, folders: tuple[Path, ...], classes: tuple[str, ...]
) -> SliceStore:
    """Open folders as the network needs them.

    Raises:
        UsageError: Other modalities are asked for than the network takes.
        DataError: The cases cannot be used.
    """
    check_modalities(config, network)
    return open_cases(
        config,
        folders,
        labels=network.card.label_space,
        modalities=network.card.modalities,
        classes=classes,
        need_labels=True,
        image_size=config.image_size or network.card.normalisation.get("image_size"),
    )


def check_modalities(config: AdaptOptions, network: LoadedNetwork) -> None:
    """Raise where other modalities are asked for than the network takes.

    Raises:
        UsageError: They are.
    """
    if config.modalities and config.modalities != network.card.modalities:
        raise UsageError(
            f"--modalities {','.join(config.modalities)} differ from the network's",
            expected=",".join(network.card.modalities),
            remedy="omit --modalities",
        )


def open_source(config: AdaptOptions, network: LoadedNetwork) -> SliceStore:
    """All labelled source cases: those of ``--source``, or else those that the network was pretrained with."""
    if config.source:
        return open_domain(config, network, config.source, config.source_classes).labelled()
    if network.run is None or RunFolder.open(network.run).verb != "pretrain":
        return SliceStore(())
    return open_pretraining_data(RunFolder.open(network.run).config(PretrainConfig)).labelled()


def source_to_watch(config: AdaptOptions, network: LoadedNetwork, source: SliceStore) -> SliceStore:
    """The source cases whose forgetting is watched: none that the network was trained on; may be empty."""
    if not config.source:
        if not len(source) or not network.validation_cases:
            print("No --source given and the network has no validation patients: the source domain is not watched.")
            return SliceStore(())
        return source.select(network.validation_cases)
    trained = network.trained_patients
    kept = SliceStore(tuple(case for case in _part(config, source, config.test_part) if case.patient not in trained))
    if not len(kept):
        print("All --source patients were trained on: the source domain is not watched.")
    return kept


def source_memory(config: AdaptOptions, network: LoadedNetwork, source: SliceStore) -> SliceStore:
    """The source cases that a method may draw from: those the network was trained on, else the split's.

    Raises:
        UsageError: There are none.
    """
    trained = network.trained_patients
    cases = tuple(case for case in source if case.patient in trained)
    if not cases and config.source and config.split is not None:
        cases = _part(config, source, config.train_part).cases
    if not cases:
        raise no_source_to_draw_from()
    return SliceStore(cases)


def no_source_to_draw_from() -> UsageError:
    """The error of a method that rehearses, where there is nothing to rehearse."""
    return UsageError(
        "the method draws from the source's training cases, and there are none",
        expected="--source with patients that the network was trained on, or a --split that names some",
        remedy="give the source's folder with --source, or choose a method that needs no source data",
    )


def _part(config: AdaptOptions, source: SliceStore, part: str) -> SliceStore:
    """The source's cases of a part of the split; all where the split is the target's alone."""
    if config.split is None:
        return source
    split = Split.load(config.split)
    if not any(case.id in split.patients for case in source):
        return source
    return source.part(split, part, absent="ignore")
