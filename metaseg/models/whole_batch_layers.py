"""Layers whose result depends on the whole batch, for processes that each pass a share of it.

Batch normalisation pools its statistics, and dropout draws one mask for the batch: so several processes compute what
one does. Other random layers draw the same mask in every process, for its own rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def span_batches(model: nn.Module) -> None:
    """Let batch normalisation and dropout work on the batch of all processes; in place, weights stay.

    By changing the layers' class, since whoever freezes layers holds on to these very objects.
    """
    for module in model.modules():
        if type(module) in NORMS:
            module.__class__ = WholeBatchNorm
        elif type(module) in DROPOUTS:
            module.__class__ = DROPOUTS[type(module)]


class WholeBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation over the slices of all processes, on any device (torch's own knows CUDA only).

    Gradients that come in are those of :class:`WholeBatch`: times the number of processes.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of axes."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``(share, channel, ...)``."""
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
        rows: Where the own share of the batch begins and ends, and the rows of the batch; set before each pass.
    """

    rows: tuple[int, int, int]
    drop: ClassVar[Callable[..., Tensor]] = staticmethod(F.dropout)

    def forward(self, input: Tensor) -> Tensor:
        """Drop values of ``(share, ...)``."""
        if not self.training or not self.p:
            return input
        start, stop, count = self.rows
        return input * self.drop(input.new_ones((count, *input.shape[1:])), self.p)[start:stop]


class _Dropout1d(WholeBatchDropout):
    drop = staticmethod(F.dropout1d)


class _Dropout2d(WholeBatchDropout):
    drop = staticmethod(F.dropout2d)


class _Dropout3d(WholeBatchDropout):
    drop = staticmethod(F.dropout3d)


DROPOUTS: dict[type[nn.Module], type[WholeBatchDropout]] = {
    nn.Dropout: WholeBatchDropout,
    nn.Dropout1d: _Dropout1d,
    nn.Dropout2d: _Dropout2d,
    nn.Dropout3d: _Dropout3d,
}
