"""Networks that segment and that classify by name, weights that load with a report, and checkpoints."""

from metaseg.models import fcn_vgg16, monai_nets  # noqa: F401  importing them registers their networks
from metaseg.models.card import ModelCard
from metaseg.models.checkpoint import load_checkpoint, load_classifier, read_checkpoint, save_checkpoint
from metaseg.models.classifier import Classifier, mc_dropout
from metaseg.models.classifiers import build_classifier, classifier_names
from metaseg.models.registry import (
    PadToStride,
    build_segmenter,
    count_parameters,
    resolve_options,
    segmenter_entry,
    segmenter_names,
)
from metaseg.models.weights import WeightReport, load_weights, unique_state

__all__ = [
    "Classifier",
    "ModelCard",
    "PadToStride",
    "WeightReport",
    "build_classifier",
    "build_segmenter",
    "classifier_names",
    "count_parameters",
    "load_checkpoint",
    "load_classifier",
    "load_weights",
    "mc_dropout",
    "read_checkpoint",
    "resolve_options",
    "save_checkpoint",
    "segmenter_entry",
    "segmenter_names",
    "unique_state",
]
