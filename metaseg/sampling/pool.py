"""The pool: what an order may know of the slices it ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from metaseg.errors import UsageError
from metaseg.sampling.decompose import Side
from metaseg.sampling.scores import FloatArray, IntArray


@dataclass(frozen=True, kw_only=True, eq=False)
class Pool:
    """Slices to be ordered; every array has one entry a slice, ``(n,)``, unless it says another shape.

    Attributes:
        index: The slice's place in its case (or the image's in its set): its name, unique, and the breaker of ties.
        dice: Dice under the current network, ``0 .. 1``.
        entropy: Predictive entropy in nats.
        foreground: Tumour area in pixels.
        side: The side of the decomposition that these slices are, or None where there is none.
        scores: Further scores by name, such as those of active learning for classifiers.
        embedding: Features of each slice, ``(n, d)``, such as the activations before the last layer.
        labelled_embedding: Those of the slices that have labels already and are not in the pool, ``(m, d)``.
        wanted: How many will be drawn, where that is known. An order that chooses one slice after another may stop
            there and let the others follow by index.

    Raises:
        UsageError: A value is not finite, as after a diverged training.
        ValueError: Lengths differ, an index occurs twice, or fewer than 0 are wanted.
    """

    index: np.ndarray
    dice: np.ndarray | None = None
    entropy: np.ndarray | None = None
    foreground: np.ndarray | None = None
    side: Side | None = None
    scores: Mapping[str, np.ndarray] = field(default_factory=dict)
    embedding: np.ndarray | None = None
    labelled_embedding: np.ndarray | None = None
    wanted: int | None = None

    def __post_init__(self) -> None:
        index = np.asarray(self.index)
        if index.ndim != 1 or (index.size and index.dtype.kind not in "iu") or np.unique(index).size != index.size:
            raise ValueError("index must be a one-dimensional array of distinct whole numbers")
        for name, values in self._present().items():
            if np.shape(values) != index.shape:
                raise ValueError(f"{name} has shape {np.shape(values)}, expected {index.shape} as index has")
            _require_finite(f"the score '{name}'", values)
        if self.wanted is not None and self.wanted < 0:
            raise ValueError(f"{self.wanted} slices are wanted")
        self._check_embeddings()

    def _check_embeddings(self) -> None:
        if self.embedding is None:
            if self.labelled_embedding is not None:
                raise ValueError("labelled_embedding is given without embedding")
            return
        shape = np.shape(self.embedding)
        if len(shape) != 2 or shape[0] != len(self):
            raise ValueError(f"embedding has shape {shape}, expected ({len(self)}, d)")
        _require_finite("the embedding", self.embedding)
        if self.labelled_embedding is not None:
            labelled = np.shape(self.labelled_embedding)
            if len(labelled) != 2 or labelled[1] != shape[1]:
                raise ValueError(f"labelled_embedding has shape {labelled}, expected (m, {shape[1]}) as embedding has")
            _require_finite("the labelled embedding", self.labelled_embedding)

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

    def features(self) -> FloatArray:
        """The embedding, ``(n, d)``.

        Raises:
            UsageError: This pool was made without it.
        """
        if self.embedding is None:
            raise UsageError(
                "the slices have no embedding",
                expected="features of each slice",
                remedy="give 'embedding' for every slice, or choose an order that does without it",
            )
        return np.asarray(self.embedding, dtype=np.float64)

    def require(self, name: str) -> None:
        """Make sure that what an order needs is there: a score of that name, or ``embedding``.

        Raises:
            UsageError: It is not.
        """
        if name == "embedding":
            self.features()
        else:
            self.score(name)

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
            embedding=None if self.embedding is None else np.asarray(self.embedding)[positions],
        )

    def by_index(self) -> IntArray:
        """Positions in ascending order of index."""
        return np.argsort(self.index, kind="stable")

    def _present(self) -> dict[str, np.ndarray]:
        named = {"dice": self.dice, "entropy": self.entropy, "foreground": self.foreground}
        return {**self.scores, **{name: values for name, values in named.items() if values is not None}}


def _require_finite(what: str, values: np.ndarray) -> None:
    """Refuse an array, ``(n,)`` or ``(n, d)``, in which a slice has a value that is not finite."""
    finite = np.isfinite(values)
    if not np.all(finite):
        slices = finite if finite.ndim == 1 else finite.all(axis=1)
        raise UsageError(
            f"{what} is not finite for {np.count_nonzero(~slices)} of {len(slices)} slices",
            remedy="check that the network's weights and its input are finite",
        )
