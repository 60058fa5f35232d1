"""Methods that fine-tune with a penalty for leaving the pretrained network: L2-SP, EWC and LwF."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metaseg.adapt.batches import source_shots
from metaseg.adapt.methods.naive import Naive
from metaseg.adapt.methods.registry import register_method
from metaseg.errors import TrainingError
from metaseg.models.parts import head_modules
from metaseg.models.weights import non_finite


@register_method(
    "l2-sp",
    "plain",
    title="L2-SP: decay toward the pretrained weights",
    paper="Li, Grandvalet and Davoine 2018, Explicit Inductive Bias for Transfer Learning with Convolutional Networks",
)
class L2Sp(Naive):
    """Adds ``alpha / 2 ||w - w0||^2`` over the body and ``beta / 2 ||w_head||^2`` over the head to the loss.

    The head is that of :func:`~metaseg.models.parts.head_modules`; in the paper it is drawn anew for other classes,
    here it is pretrained for the same ones and decays toward zero nevertheless, as the paper's formula has it. Gains
    and offsets of normalisation are parameters like all others. With both weights at 0 this is naive fine-tuning, to
    the bit.
    """

    def prepare(self, model: nn.Module) -> int:
        """Keep the pretrained weights of the body; costs nothing.

        Raises:
            UsageError: The parts of such a network are not known.
        """
        head = {id(parameter) for module in head_modules(model) for parameter in module.parameters()}
        self.head = [parameter for parameter in model.parameters() if id(parameter) in head]
        self.body = [parameter for parameter in model.parameters() if id(parameter) not in head]
        self.start = [parameter.detach().clone() for parameter in self.body]
        return 0

    def objective(self, model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
        """The loss and both penalties; one whose weight is 0 is not computed."""
        value = super().objective(model, images, classes)
        if self.config.l2_sp_alpha:
            away = [(now - start).square().sum() for now, start in zip(self.body, self.start, strict=True)]
            value = value + self.config.l2_sp_alpha / 2 * torch.stack(away).sum()
        if self.config.l2_sp_beta:
            value = value + self.config.l2_sp_beta / 2 * torch.stack([now.square().sum() for now in self.head]).sum()
        return value


@register_method(
    "ewc",
    "plain",
    title="EWC: Fisher-weighted decay toward the pretrained weights",
    paper="Kirkpatrick et al. 2017, Overcoming catastrophic forgetting in neural networks",
    needs_source="always",
    cost="b for a batch of b slices, and at the start one for each slice of the Fisher",
)
class Ewc(Naive):
    """Adds ``lambda / 2 sum_i F_i (w_i - w0_i)^2`` to the loss; ``F`` is the source's :func:`diagonal_fisher`.

    It is measured on tumour-bearing slices of the source's training cases, drawn uniformly without replacement; all of
    them where there are fewer than asked for. With a lambda of 0 nothing is measured, and this is naive fine-tuning,
    to the bit.
    """

    def prepare(self, model: nn.Module) -> int:
        """Measure the Fisher information of the pretrained network.

        Returns:
            The slices that it was measured on.

        Raises:
            UsageError: None of the source cases bears tumour.
        """
        if not self.config.ewc_lambda:
            return 0
        chosen = self.slices()
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.start = [parameter.detach().clone() for parameter in self.parameters]
        self.fisher = diagonal_fisher(model, map(self.fabric.to_device, chosen), self.config.seed)
        return len(chosen)

    def slices(self) -> list[Tensor]:
        """The source slices, each ``(modality, height, width)`` of its own size."""
        rows = [(shot.case, int(index)) for shot in source_shots(self.setup) for index in shot.slices]
        order = np.random.default_rng([self.config.seed, 24]).permutation(len(rows))[: self.config.fisher_slices]
        chosen = [rows[number] for number in order]
        return [torch.from_numpy(case.images([index], self.setup.modalities)[0]) for case, index in chosen]

    def objective(self, model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
        """The loss and the penalty."""
        value = super().objective(model, images, classes)
        if not self.config.ewc_lambda:
            return value
        away = [
            (weight * (now - start).square()).sum()
            for weight, now, start in zip(self.fisher, self.parameters, self.start, strict=True)
        ]
        return value + self.config.ewc_lambda / 2 * torch.stack(away).sum()


def diagonal_fisher(model: nn.Module, slices: Iterable[Tensor], seed: int) -> list[Tensor]:
    """Diagonal of the Fisher information of one pixel, from one gradient for each slice.

    The sample is the slice: its log-likelihood is the **sum** over its pixels, whose classes are independent given the
    image, and its gradient is squared before anything is averaged. The mean over the slices is divided by their pixels,
    so that neither the slices' number nor their size matters, and a source pixel counts for as much as one of the
    target, over whose pixels the loss is a mean: ``F = mean_s (d log p(y_s | x_s) / dw)^2 / pixels_s``.

    The classes ``y_s`` are **drawn from the network's own prediction**, one draw for each pixel, and not the labels:
    that is an unbiased estimate of the Fisher information. With the labels it would be the so-called empirical Fisher,
    which is that only for a network whose predictions are right (Kunstner et al. 2019, Limitations of the empirical
    Fisher approximation); over a slice, the errors of neighbouring pixels then add up instead of cancelling.

    Args:
        model: The network; run in evaluation mode and in full precision.
        slices: Images ``(modality, height, width)`` on its device.
        seed: Decides the drawn classes, together with the slice's place.

    Returns:
        A tensor >= 0 for each parameter that requires a gradient, in the model's sequence.

    Raises:
        ValueError: There are no slices.
        TrainingError: A value is not finite.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    total, count, training = [torch.zeros_like(parameter) for parameter in parameters], 0, model.training
    model.eval()
    try:
        for image in slices:
            logits = model(image[None])
            classes = draw_classes(logits.detach(), [seed, 25, count])
            gradients = torch.autograd.grad(F.cross_entropy(logits, classes, reduction="sum"), parameters)
            for sum_, gradient in zip(total, gradients, strict=True):
                sum_ += gradient.square() / classes.numel()
            count += 1
    finally:
        model.train(training)
    if not count:
        raise ValueError("no slice to measure the Fisher information on")
    name = non_finite({str(tuple(sum_.shape)): sum_ for sum_ in total})
    if name is not None:
        raise TrainingError(
            f"the Fisher information of the pretrained network is not finite, in a tensor of shape {name}",
            remedy="start from other weights, or use another --method",
        )
    return [sum_ / count for sum_ in total]


def draw_classes(logits: Tensor, seed: list[int]) -> Tensor:
    """One class for each pixel, drawn from what a network predicts.

    Args:
        logits: ``(batch, class, height, width)``.
        seed: Decides the draw, on every device alike.

    Returns:
        ``(batch, height, width)``, whole numbers.
    """
    cumulative = torch.softmax(logits.float(), dim=1).cumsum(dim=1)[:, :-1]
    drawn = np.random.default_rng(seed).random(cumulative[:, :1].shape, np.float32)
    return (torch.from_numpy(drawn).to(logits.device) >= cumulative).sum(dim=1)


@register_method(
    "lwf",
    "plain",
    title="LwF: distillation from the pretrained network",
    paper="Li and Hoiem 2016, Learning without Forgetting",
    cost="b for a batch of b slices (the old network's forward pass needs no gradient, and such are never counted)",
)
class Lwf(Naive):
    """Adds ``lambda`` times the :func:`distillation` of the pretrained network on the target's batch to the loss.

    The old network is a frozen copy in evaluation mode. With a lambda of 0 this is naive fine-tuning, to the bit.
    """

    def prepare(self, model: nn.Module) -> int:
        """Keep a copy of the pretrained network; costs nothing."""
        self.old = copy.deepcopy(model).eval().requires_grad_(False)
        return 0

    def objective(self, model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
        """The loss and the distillation."""
        if not self.config.lwf_lambda:
            return super().objective(model, images, classes)
        logits = model(images)
        with torch.no_grad(), self.fabric.autocast():
            old = self.old(images)
        kept = distillation(logits.float(), old.float(), self.config.lwf_temperature)
        return self.loss(logits, classes) + self.config.lwf_lambda * kept


def distillation(new: Tensor, old: Tensor, temperature: float) -> Tensor:
    """``T^2 KL(old || new)`` of class probabilities that a temperature softens; the mean over all pixels.

    The paper's cross-entropy differs from this by the old network's entropy, which is constant. ``T^2`` keeps the
    gradient's size when the temperature is changed (Hinton et al. 2015).

    Args:
        new: Logits ``(batch, class, height, width)`` of the network that learns.
        old: Logits of the old one.
        temperature: Divides the logits, > 0.

    Returns:
        A scalar >= 0, in nats.
    """
    log_new, log_old = (torch.log_softmax(logits / temperature, dim=1) for logits in (new, old))
    return temperature**2 * (log_old.exp() * (log_old - log_new)).sum(dim=1).mean()
