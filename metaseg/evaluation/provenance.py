"""What a figure or a prediction came from, for the JSON files beside them."""

from __future__ import annotations

from typing import Any

from metaseg.models.card import checkpoint_files, read_card
from metaseg.runs.manifest import portable
from metaseg.runs.networks import LoadedNetwork

NOTICE = "Research only, not for clinical use."
SYNTHETIC = "SYNTHETIC phantoms, not patients"


def network_name(network: LoadedNetwork) -> str:
    """Short name of a network: that of its run, or of its file."""
    return network.run.resolve().name if network.run is not None else network.checkpoint.stem


def checkpoint_digest(network: LoadedNetwork) -> str:
    """Digest (blake2b) of the network's weights, as its card holds it."""
    return read_card(checkpoint_files(network.checkpoint)[1])[1]


def network_record(network: LoadedNetwork) -> dict[str, Any]:
    """Name, files, digest and history of a network as JSON values, without this machine's folders."""
    card = network.card
    return {
        "name": network_name(network),
        "run": None if network.run is None else portable(str(network.run)),
        "checkpoint": portable(str(network.checkpoint)),
        "checkpoint_digest": checkpoint_digest(network),
        "architecture": card.name,
        "modalities": list(card.modalities),
        "label_space": card.label_space,
        "trained_on": list(card.trained_on),
        "parent": None if card.parent is None else portable(card.parent),
        "synthetic": card.synthetic,
    }
