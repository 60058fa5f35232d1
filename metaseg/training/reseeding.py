"""MONAI's random transforms seeded anew for every slice, in a hundredth of the time that MONAI takes.

``set_random_state`` of a chain makes a generator for every transform, whose first state comes from the system before
the seed replaces it: 180 µs each, together a third of augmenting a slice. Seeding the generators that are there gives
the same states.
"""

from __future__ import annotations

from collections.abc import Iterator

from monai.transforms import Compose
from monai.transforms.transform import Randomizable
from monai.utils.misc import MAX_SEED


class SeededChain:
    """Transforms in a row, of which one caller at a time draws.

    Args:
        chain: MONAI's chain; its generators are replaced.
    """

    def __init__(self, chain: Compose) -> None:
        self.chain = chain
        # Before this, all transforms share one generator.
        chain.set_random_state(seed=0)
        self._drawing = [list(_within(one)) for one in chain.transforms if isinstance(one, Randomizable)]

    def seed(self, seed: int) -> None:
        """Bring every generator to the state that ``chain.set_random_state(seed)`` would give it.

        Args:
            seed: 0 or more.
        """
        self.chain.R.seed(seed % MAX_SEED)
        for drawing in self._drawing:
            own = int(self.chain.R.randint(MAX_SEED, dtype="uint32"))
            for one in drawing:
                one.R.seed(own % MAX_SEED)


def _within(transform: Randomizable) -> Iterator[Randomizable]:
    """A transform and those that it is made of, which MONAI all gives the same seed."""
    yield transform
    for value in vars(transform).values():
        if isinstance(value, Randomizable):
            yield from _within(value)
