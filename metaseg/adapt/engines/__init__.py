"""Meta-step engines: interchangeable ways to compute the outer gradient of MAML."""

from metaseg.adapt.engines import learn2learn_engine as learn2learn_engine  # enters its engine into the registry
from metaseg.adapt.engines.auto_engine import AutoEngine, Choice
from metaseg.adapt.engines.base import (
    ENGINES,
    Loss,
    MetaStepEngine,
    StepResult,
    TaskBatch,
    build_engine,
    engine_names,
    register_engine,
    slice_gradient_evaluations,
)
from metaseg.adapt.engines.batched_engine import BatchedEngine
from metaseg.adapt.engines.fast_weights import FastWeights
from metaseg.adapt.engines.functional_engine import FunctionalEngine, InnerLoop
from metaseg.adapt.engines.isolation import NormStatistics

__all__ = [
    "ENGINES",
    "AutoEngine",
    "BatchedEngine",
    "Choice",
    "FastWeights",
    "FunctionalEngine",
    "InnerLoop",
    "Loss",
    "MetaStepEngine",
    "NormStatistics",
    "StepResult",
    "TaskBatch",
    "build_engine",
    "engine_names",
    "register_engine",
    "slice_gradient_evaluations",
]
