"""Meta-step engines: interchangeable ways to compute the outer gradient of MAML."""

from metaseg.adapt.engines.base import (
    ENGINES,
    EngineChoice,
    InnerLoop,
    MetaStepEngine,
    NormStatistics,
    StepResult,
    TaskBatch,
    build_engine,
    slice_gradient_evaluations,
)
from metaseg.adapt.engines.batched import BatchedEngine
from metaseg.adapt.engines.functional import FastWeights, FunctionalEngine
from metaseg.adapt.engines.learn2learn import difference_from_reference

__all__ = [
    "ENGINES",
    "BatchedEngine",
    "EngineChoice",
    "FastWeights",
    "FunctionalEngine",
    "InnerLoop",
    "MetaStepEngine",
    "NormStatistics",
    "StepResult",
    "TaskBatch",
    "build_engine",
    "difference_from_reference",
    "slice_gradient_evaluations",
]
