"""Meta-step engines: interchangeable ways to compute the outer gradient of MAML."""

from metaseg.adapt.engines import learn2learn as learn2learn
from metaseg.adapt.engines.auto import AutoEngine, Choice
from metaseg.adapt.engines.base import (
    ENGINES,
    Loss,
    MetaStepEngine,
    NormStatistics,
    StepResult,
    TaskBatch,
    build_engine,
    engine_names,
    register_engine,
    slice_gradient_evaluations,
)
from metaseg.adapt.engines.batched import BatchedEngine
from metaseg.adapt.engines.functional import FastWeights, FunctionalEngine, InnerLoop

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
