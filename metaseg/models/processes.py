"""Several processes at one piece of work: who does which part, and how the results come together.

Every process holds the same network and computes the same loss, that of the whole batch; only the network's passes are
distributed. Losses that pool a batch (Dice over all its pixels) and penalties on the weights so keep their meaning, and
the gradient is that of one process, to rounding. Layers whose result depends on the whole batch span it: batch
normalisation pools its statistics, and dropout draws one mask for the batch, of which each process takes its own rows.
With one process everything here does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, TypeVar

import torch
from lightning_fabric import Fabric
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from metaseg.cases.case import FailedCase, one_case
from metaseg.errors import UsageError
from metaseg.terminal import Progress, progress
from metaseg.threads import ReadAhead

T = TypeVar("T")
Item = TypeVar("Item")
Prepared = TypeVar("Prepared")
Result = TypeVar("Result")
Draw = Callable[[int], tuple[Tensor, Tensor]]


def several(fabric: Fabric) -> bool:
    """Whether processes have joined to work together."""
    return fabric.world_size > 1


def is_first(fabric: Fabric) -> bool:
    """Whether this is the process that writes and speaks; one alone is."""
    return fabric.global_rank == 0


def own_part(fabric: Fabric, items: Sequence[T]) -> list[T]:
    """The items that this process works on: every n-th of n processes."""
    return list(items[fabric.global_rank :: fabric.world_size])


def gather(fabric: Fabric, mine: Sequence[T]) -> list[T]:
    """What all processes made of their :func:`own_part`, in the order of the items; the same for each.

    Args:
        fabric: Of this process.
        mine: One object for each item of the part, of any kind that can be pickled.
    """
    if not several(fabric):
        return list(mine)
    parts: list[Any] = [None] * fabric.world_size
    distributed.all_gather_object(parts, list(mine))
    longest = max(len(part) for part in parts)
    return [part[row] for row in range(longest) for part in parts if row < len(part)]


def distributed_map(fabric: Fabric, function: Callable[[T], Any], items: Sequence[T]) -> list[Any]:
    """``[function(item) for item in items]``, the items distributed."""
    return gather(fabric, [function(item) for item in own_part(fabric, items)])


def each_case(
    fabric: Fabric,
    items: Mapping[str, Item],
    read: Callable[[Item], Prepared],
    work: Callable[[Item, Prepared, Progress], Result],
    done: str,
) -> tuple[list[Result], list[FailedCase]]:
    """What is made of every case, one in memory at a time beside the one that is read ahead.

    Args:
        fabric: Of this process; several processes work on a part of the cases each.
        items: Case ids, and what stands for each case.
        read: Reads a case, on a thread of its own while the case before is worked on.
        work: Takes the item, what was read and the progress bar, and gives the result, which can be pickled.
        done: What was done to the cases, such as ``"predicted"``.

    Returns:
        The results of the cases that could be done, in order, and those that failed; the same in all processes.
    """
    own = own_part(fabric, list(items.items()))
    outcomes: list[tuple[list[Result], list[FailedCase]]] = []
    title = f"{done.removesuffix('ed')}ing"

    def read_at(place: int) -> Prepared:
        return read(own[place][1])

    with progress(title, len(own)) as bar, ReadAhead(read_at) as ahead:
        for place, (case, item) in enumerate(own):
            results, failed = list[Result](), list[FailedCase]()
            with one_case(case, failed):
                prepared = ahead(place, following=range(place + 1, min(place + 2, len(own))))
                results.append(work(item, prepared, bar))
            outcomes.append((results, failed))
            for failure in failed:
                bar.note(f"{case}: not {done}\n{failure.error}")
            bar.advance()
    everyones = gather(fabric, outcomes)
    return [result for part, _ in everyones for result in part], [failure for _, part in everyones for failure in part]


@contextmanager
def first_of_machine(fabric: Fabric) -> Iterator[None]:
    """Let one process of each machine do the block first, such as filling a cache that the others then find."""
    if several(fabric) and fabric.local_rank > 0:
        fabric.barrier()
    yield
    if several(fabric) and fabric.local_rank == 0:
        fabric.barrier()


def row_bounds(rows: int, processes: int) -> list[int]:
    """Where the processes' shards of a batch begin, and where the last ends; none is larger than another by two."""
    return [rows * rank // processes for rank in range(processes + 1)]


def agree(fabric: Fabric, model: nn.Module) -> None:
    """Give all processes the first one's weights and buffers, to the bit."""
    if several(fabric):
        for tensor in (*model.parameters(), *model.buffers()):
            distributed.broadcast(tensor.data, 0)


def combine_gradients(fabric: Fabric, parameters: Iterable[Tensor], *, mean: bool) -> None:
    """Sum ``p.grad`` over all processes, in one exchange.

    Args:
        fabric: Of this process.
        parameters: The same everywhere, in the same sequence. One without gradient counts as zero, and stays without
            where no process has one: optimisers leave such a parameter alone, weight decay included.
        mean: Divide by the number of processes, as :class:`WholeBatch` wants it.
    """
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    if not several(fabric) or not trainable:
        return
    known = trainable[0].new_tensor([parameter.grad is not None for parameter in trainable])
    parts = [torch.zeros_like(tensor) if tensor.grad is None else tensor.grad for tensor in trainable]
    flat = torch.cat([known, *(part.reshape(-1) for part in parts)])
    distributed.all_reduce(flat)
    present, flat = flat[: len(trainable)].tolist(), flat[len(trainable) :]
    if mean:
        flat /= fabric.world_size
    sizes = [tensor.numel() for tensor in trainable]
    for parameter, count, values in zip(trainable, present, flat.split(sizes), strict=True):
        parameter.grad = values.view_as(parameter).clone() if count else None


class WholeBatch(nn.Module):
    """A network whose logits are those of the whole batch, although this process passes its own shard of it alone.

    Backward hands the own shard its gradient times the number of processes. Gradients of terms that every process
    computes, such as penalties, come once from each: in the mean over processes both are those of one process.

    Args:
        model: The network, as the fabric set it up.
        fabric: Of this process.
    """

    def __init__(self, model: nn.Module, fabric: Fabric) -> None:
        super().__init__()
        self.model, self.fabric = model, fabric
        self.pools = any(isinstance(module, WholeBatchNorm) for module in model.modules())
        self.dropouts = [module for module in model.modules() if isinstance(module, WholeBatchDropout)]

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(batch, ...)`` of images ``(batch, modality, height, width)``, the same in every process.

        Raises:
            UsageError: A network with batch normalisation gets fewer slices than there are processes.
        """
        processes = self.fabric.world_size
        if len(images) < processes and self.pools:
            raise UsageError(
                f"a batch of {len(images)} slices for {processes} processes and a network with batch normalisation",
                expected="one slice for each process at least",
                remedy="raise --batch-size, or lower --devices",
            )
        bounds = row_bounds(len(images), processes)
        start, stop = bounds[self.fabric.global_rank : self.fabric.global_rank + 2]
        own = images[start:stop]
        for module in self.dropouts:
            module.rows = (start, stop, len(images))
        logits = self.model(own) if len(own) else None
        if len(images) < processes:
            # Who has no slice does not know the logits' shape; the last process always has one.
            known: Any = None if logits is None else (tuple(logits.shape[1:]), logits.dtype)
            shape, kind = self.fabric.broadcast(known, src=processes - 1)
            if logits is None:
                logits = images.new_zeros((0, *shape), dtype=kind).requires_grad_(torch.is_grad_enabled())
        gathered: Tensor = _GatherRows.apply(logits, bounds, self.fabric.global_rank)
        return gathered


class _GatherRows(torch.autograd.Function):
    """All processes' rows, one shard after the other."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, bounds: list[int], rank: int) -> Tensor:
        ctx.start, ctx.stop, ctx.processes = bounds[rank], bounds[rank + 1], len(bounds) - 1
        return gather_rows(own, bounds)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient[ctx.start : ctx.stop] * ctx.processes, None, None


def gather_rows(own: Tensor, bounds: Sequence[int]) -> Tensor:
    """Rows ``(batch, ...)`` of all processes' shards ``(shard, ...)``; without gradient.

    Args:
        own: The own shard, of as many rows as ``bounds`` says.
        bounds: See :func:`row_bounds`.
    """
    sizes = [stop - start for start, stop in pairwise(bounds)]
    # Collectives want equal shapes: shards are filled up to the longest.
    padded = F.pad(own.detach(), [0] * (2 * own.dim() - 1) + [max(sizes) - len(own)]).contiguous()
    parts = [torch.empty_like(padded) for _ in sizes]
    distributed.all_gather(parts, padded)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def span_batches(model: nn.Module) -> None:
    """Let batch normalisation and dropout work on the batch of all processes; in place, weights stay.

    By changing the layers' class, since whoever freezes layers holds on to these very objects.
    """
    for module in model.modules():
        if type(module) in NORMS:
            module.__class__ = WholeBatchNorm
        elif type(module) in DROPOUTS:
            drop, module.__class__ = DROPOUTS[type(module)], WholeBatchDropout
            module.drop = drop  # type: ignore[assignment]


class WholeBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation over the slices of all processes, on any device (torch's own knows CUDA only).

    Gradients that come in are those of :class:`WholeBatch`: times the number of processes.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of axes."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``(shard, channel, ...)``."""
        if not self.training:
            return super().forward(input)
        values = input.to(torch.promote_types(input.dtype, torch.float32))
        axes = [axis for axis in range(input.dim()) if axis != 1]
        shape = [1, -1, *[1] * (input.dim() - 2)]
        count = values.new_tensor([values.numel() / values.shape[1]])
        sums = _SumOverProcesses.apply(torch.cat([values.sum(dim=axes), count]))
        number, mean = sums[-1].detach(), sums[:-1] / sums[-1].detach()
        centred = values - mean.view(shape)
        # In two passes: the difference of two large sums would lose digits.
        variance = _SumOverProcesses.apply(centred.square().sum(dim=axes)) / number
        self._follow(mean.detach(), variance.detach() * number / (number - 1))
        result = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            result = result * self.weight.view(shape) + self.bias.view(shape)
        return result.to(input.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics."""
        if not self.track_running_stats or self.running_mean is None or self.running_var is None:
            return
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        factor = 1.0 / float(self.num_batches_tracked or 1) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean), factor)
        self.running_var.lerp_(variance.to(self.running_var), factor)


class _SumOverProcesses(torch.autograd.Function):
    """The sum over all processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.detach().clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        distributed.all_reduce(total)
        return total


class WholeBatchDropout(nn.modules.dropout._DropoutNd):
    """Dropout whose mask is drawn for the whole batch, as one process draws it, and of which the own rows are taken.

    The processes' generators have to stand alike.

    Attributes:
        drop: The function of its kind, such as that of whole channels.
        rows: Where the own shard of the batch begins and ends, and the rows of the batch; set before each pass.
    """

    drop: Callable[..., Tensor]
    rows: tuple[int, int, int]

    def forward(self, input: Tensor) -> Tensor:
        """Drop values of ``(shard, ...)``."""
        if not self.training or not self.p:
            return input
        start, stop, count = self.rows
        return input * self.drop(input.new_ones((count, *input.shape[1:])), self.p)[start:stop]


DROPOUTS: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.Dropout: F.dropout,
    nn.Dropout1d: F.dropout1d,
    nn.Dropout2d: F.dropout2d,
    nn.Dropout3d: F.dropout3d,
}
