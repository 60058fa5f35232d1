"""Batches of which each of several processes reads and augments its own share alone."""

from __future__ import annotations

from collections.abc import Callable

from lightning_fabric import Fabric
from torch import Tensor

from metaseg.models.processes import gather_rows, row_bounds, several
from metaseg.training.draw_ahead import DrawAhead, DrawRows, threads_ahead
from metaseg.training.loop import Batch


def shared_draw(fabric: Fabric, draw: DrawRows, batch_size: int, total_steps: int) -> Callable[[int], Batch]:
    """The loop's draw of a batch of which this process passes its share alone; for a GPU, threads draw ahead.

    Args:
        fabric: Of this process.
        draw: Draws rows of a batch; the same for all processes, and one that threads may call.
        batch_size: Rows of every batch.
        total_steps: Steps of the loop.

    Returns:
        Draws a batch whose images are zero but for the own share's, see
        :class:`~metaseg.models.processes.WholeBatch`; its classes are those of the whole batch.
    """
    draw = DrawAhead(draw, threads_ahead(fabric.device), total_steps)
    if not several(fabric):
        return lambda step: draw(step, slice(None))
    bounds = row_bounds(batch_size, fabric.world_size)
    start, stop = bounds[fabric.global_rank], bounds[fabric.global_rank + 1]

    def shared(step: int) -> Batch:
        # Who has no row still has to know what one looks like.
        images, classes = draw(step, slice(start, max(stop, start + 1)))
        whole = images.new_zeros((batch_size, *images.shape[1:]))
        whole[start:stop] = images[: stop - start]
        return whole, _gathered(fabric, classes[: stop - start], bounds)

    return shared


def _gathered(fabric: Fabric, classes: Tensor, bounds: list[int]) -> Tensor:
    """Classes of the whole batch, on the device: NCCL gathers nowhere else."""
    return gather_rows(fabric.to_device(classes), bounds)
