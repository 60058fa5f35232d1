"""Batches drawn ahead by threads, while a GPU works on the ones before."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from metaseg.training.loop import Batch

DrawRows = Callable[[int, slice], Batch]
"""Takes a step and rows of its batch, gives these rows."""

MOST_THREADS = 4
"""Chosen without a GPU at hand; more would wait for each other at the interpreter's lock."""


def threads_ahead(device: torch.device) -> int:
    """Threads that draw ahead for a device: none on a CPU, whose cores have the network to compute."""
    return 0 if device.type == "cpu" else min(MOST_THREADS, max(1, (os.cpu_count() or 1) - 1))


class DrawAhead:
    """Draws the same batches as the function it is given, in part before they are asked for.

    Args:
        draw: Takes a step and rows of its batch and gives these rows; a pure function that threads may call.
        threads: Threads, each of which has one batch under way; 0 draws when asked.
        total_steps: The step at which there is nothing more to draw.
    """

    def __init__(self, draw: DrawRows, threads: int, total_steps: int) -> None:
        self.draw, self.threads, self.total_steps = draw, threads, total_steps
        self._pool = ThreadPoolExecutor(threads, "metaseg-draw") if threads else None
        self._ahead: dict[int, Future[Batch]] = {}

    def __call__(self, step: int, rows: slice) -> Batch:
        """The rows of a step's batch; what is drawn ahead are the same rows of the steps that follow."""
        if self._pool is None:
            return self.draw(step, rows)
        for number in range(step, max(step + 1, min(step + self.threads + 1, self.total_steps))):
            if number not in self._ahead:
                self._ahead[number] = self._pool.submit(self.draw, number, rows)
        # Of steps that were passed over, nothing is kept.
        for number in [number for number in self._ahead if number < step]:
            self._ahead.pop(number).cancel()
        return self._ahead.pop(step).result()
