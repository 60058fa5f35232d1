"""Networks that segment and that classify by name, weights that load with a report, and checkpoints."""

from metaseg.models import monai_nets, fcn_vgg16  # noqa: F401, I001  importing them registers their networks, in order
from metaseg.models.card import ModelCard
from metaseg.models.checkpoint import load_checkpoint, load_classifier, read_checkpoint, save_checkpoint
from metaseg.models.classifier import Classifier, mc_dropout
from metaseg.models.classifiers import build_classifier, classifier_names
from metaseg.models.segmenters import (
    SEGMENTERS,
    PadToStride,
    build_segmenter,
    count_parameters,
    give_network,
    resolve_options,
    segmenter,
)
from metaseg.models.weights import WeightReport, load_weights, unique_state

__all__ = [
    "SEGMENTERS",
    "Classifier",
    "ModelCard",
    "PadToStride",
    "WeightReport",
    "build_classifier",
    "build_segmenter",
    "classifier_names",
    "count_parameters",
    "give_network",
    "load_checkpoint",
    "load_classifier",
    "load_weights",
    "mc_dropout",
    "read_checkpoint",
    "resolve_options",
    "save_checkpoint",
    "segmenter",
    "unique_state",
]
