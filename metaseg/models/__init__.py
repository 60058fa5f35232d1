"""Segmentation networks by name, weights that load with a report, and checkpoints."""

from metaseg.models import fcn_vgg16, monai_nets  # noqa: F401  importing them registers their networks
from metaseg.models.checkpoint import ModelCard, load_checkpoint, read_checkpoint, save_checkpoint
from metaseg.models.padding import PadToStride
from metaseg.models.registry import (
    build_segmenter,
    count_parameters,
    resolve_options,
    segmenter_entry,
    segmenter_names,
)
from metaseg.models.weights import WeightReport, load_weights, unique_state

__all__ = [
    "ModelCard",
    "PadToStride",
    "WeightReport",
    "build_segmenter",
    "count_parameters",
    "load_checkpoint",
    "load_weights",
    "read_checkpoint",
    "resolve_options",
    "save_checkpoint",
    "segmenter_entry",
    "segmenter_names",
    "unique_state",
]
