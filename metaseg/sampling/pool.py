"""The pool: what an order may know of the slices it ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from metaseg.errors import UsageError
from metaseg.sampling.decompose import Side
from metaseg.sampling.scores import FloatArray, IntArray, require_finite


@dataclass(frozen=True, kw_only=True, eq=False)
class Pool:
    """Slices to be ordered; every array has one entry a slice, ``(n,)``.

    Attributes:
        index: The slice's place in its case: its name, unique, and the breaker of ties.
        dice: Dice under the current network, ``0 .. 1``.
        entropy: Predictive entropy in nats.
        foreground: Tumour area in pixels.
        side: The side of the decomposition that these slices are, or None where there is none.
        scores: Further scores by name.

    Raises:
        UsageError: A value is not finite, as after a diverged training.
        ValueError: Lengths differ, or an index occurs twice.
    """

    index: np.ndarray
    dice: np.ndarray | None = None
    entropy: np.ndarray | None = None
    foreground: np.ndarray | None = None
    side: Side | None = None
    scores: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        index = np.asarray(self.index)
        if index.ndim != 1 or (index.size and index.dtype.kind not in "iu") or np.unique(index).size != index.size:
            raise ValueError("index must be a one-dimensional array of distinct whole numbers")
        for name, values in self._present().items():
            if np.shape(values) != index.shape:
                raise ValueError(f"{name} has shape {np.shape(values)}, expected {index.shape} as index has")
            require_finite(f"the score '{name}'", values)

    def __len__(self) -> int:
        return len(self.index)

    def score(self, name: str) -> FloatArray:
        """The score called ``name``: ``dice``, ``entropy``, ``foreground`` or a key of ``scores``; ``(n,)``.

        Raises:
            UsageError: This pool was made without it.
        """
        present = self._present()
        if name not in present:
            raise UsageError(
                f"the slices have no score '{name}'",
                expected=f"'{name}' beside: {', '.join(present) or 'none'}",
                remedy=f"give '{name}' for every slice, or choose an order that does without it",
            )
        return np.asarray(present[name], dtype=np.float64)

    def with_score(self, name: str, values: np.ndarray) -> Pool:
        """The same slices with one more score, ``(n,)``; it replaces one of that name.

        Raises:
            UsageError: A value is not finite.
            ValueError: The length differs.
        """
        return replace(self, scores={**self.scores, name: values})

    def take(self, positions: np.ndarray, side: Side | None = None) -> Pool:
        """The slices at ``positions``, in that sequence, as a pool of their own; they keep their index."""
        positions = np.asarray(positions, dtype=np.int64)
        parts = {name: np.asarray(values)[positions] for name, values in self._present().items()}
        return replace(
            self,
            index=np.asarray(self.index)[positions],
            dice=parts.get("dice"),
            entropy=parts.get("entropy"),
            foreground=parts.get("foreground"),
            side=side,
            scores={name: parts[name] for name in self.scores},
        )

    def by_index(self) -> IntArray:
        """Positions in ascending order of index."""
        return np.argsort(self.index, kind="stable")

    def _present(self) -> dict[str, np.ndarray]:
        named = {"dice": self.dice, "entropy": self.entropy, "foreground": self.foreground}
        return {**self.scores, **{name: values for name, values in named.items() if values is not None}}
