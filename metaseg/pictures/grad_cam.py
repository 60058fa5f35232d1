"""Grad-CAM: where in a slice a classifier's score of a class comes from (Selvaraju et al. 2017, arXiv:1610.02391)."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from metaseg.pictures import overlay as drawing
from metaseg.pictures.overlay import GAP, SMALL, heated, shown_slice

LEAST_SIDE = 4
"""Height and width in pixels from which on a feature map is taken for the picture."""
_NOTE = "red: raises the score of the class most"


def grad_cam(
    model: nn.Module,
    images: Tensor,
    target_layer: str | None = None,
    classes: int | Sequence[int] | np.ndarray | None = None,
) -> np.ndarray:
    """Maps of what raises the score of a class, by MONAI, each divided by its own maximum.

    A copy of the network is measured, in evaluation mode and single precision: mode, gradients, hooks and frozen
    parameters of the network itself stay as they are, and frozen parameters make no difference.

    Args:
        model: Any network that gives logits ``(batch, class)``.
        images: ``(batch, channel, height, width)``.
        target_layer: Name of the layer whose feature maps are weighted; by default :func:`last_convolution`.
        classes: The class of all images, or one for each; by default the one with the highest logit.

    Returns:
        ``(batch, height, width)`` in [0, 1], ``float32``. A map that is nowhere positive, as where the score does not
        depend on the image, is 0 everywhere.

    Raises:
        ValueError: The network has no such layer or class, its logits do not depend on the layer, or the shapes are
            others.
    """
    if images.ndim != 4:
        raise ValueError(f"images {tuple(images.shape)}: expected (batch, channel, height, width)")
    if not len(images):
        return np.zeros((0, *images.shape[2:]), dtype=np.float32)
    with torch.inference_mode(False), torch.enable_grad():
        network = _measured_copy(model)
        place = next((parameter.device for parameter in network.parameters()), images.device)
        # A copy, since no gradient passes through tensors of the inference mode; with a gradient, so that one reaches
        # every layer.
        inputs = images.detach().to(place, torch.float32, copy=True).contiguous()
        with torch.no_grad():
            logits = network(inputs)
            layer = last_convolution(network, inputs[:1]) if target_layer is None else target_layer
        chosen = _chosen(logits, classes)
        return _scaled(_maps(network, inputs.requires_grad_(True), layer, chosen))


def last_convolution(model: nn.Module, images: Tensor) -> str:
    """Name of the last 2-D convolution, in the order of the modules, whose feature map shows where something is.

    Convolutions of a single pixel, as behind global pooling or in squeeze-and-excitation, know no place. On small
    images the last maps have two or three pixels a side: the last one of at least :data:`LEAST_SIDE` is taken, or the
    last of more than one pixel if there is none.

    Args:
        model: The network; it is run once.
        images: ``(batch, channel, height, width)`` to run it with.

    Raises:
        ValueError: There is none.
    """
    sizes: dict[str, tuple[int, int]] = {}
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):

            def keep(_: nn.Module, __: object, output: Tensor, name: str = name) -> None:
                sizes[name] = (output.shape[-2], output.shape[-1])

            hooks.append(module.register_forward_hook(keep))
    try:
        with torch.no_grad():
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    ordered = [name for name, _ in model.named_modules() if sizes.get(name, (1, 1)) != (1, 1)]
    found = [name for name in ordered if min(sizes[name]) >= LEAST_SIDE] or ordered
    if not found:
        raise ValueError("the network has no convolution with a feature map: name a target layer")
    return found[-1]


def grad_cam_picture(
    image: np.ndarray,
    heat: np.ndarray,
    title: str = "",
    synthetic: bool = False,
    *,
    planar: bool = False,
    panel: int = 360,
) -> np.ndarray:
    """Draw a slice and, beside it, the same slice with its map over it.

    Args:
        image: Intensities ``(height, width)``, canonical frame.
        heat: Map in [0, 1], same shape; what is near 0 stays grey.
        title: Heading.
        synthetic: True marks the picture as made from phantoms.
        planar: True for a separate 2-D image: it is neither mirrored nor marked L/R.
        panel: Longer side of a panel in pixels.

    Returns:
        ``uint8`` array ``(rows, columns, 3)``.

    Raises:
        ValueError: The shapes differ.
    """
    if image.shape != heat.shape or image.ndim != 2:
        raise ValueError(f"image {image.shape} and heat {heat.shape}: expected two slices of the same shape")
    whole, mirror = (slice(None), slice(None)), not planar
    width, height = drawing.panel_size(image.shape, panel)
    grey = shown_slice(image, whole, (width, height), mirror)
    needed = max(2 * width + 3 * GAP, drawing.text_width(_NOTE, SMALL) + 2 * GAP)
    canvas, top = drawing.new_page(needed, height + 30, title, synthetic)
    panels = (np.repeat(grey[..., None], 3, axis=2), heated(grey, heat, mirror))
    for left, picture in zip((GAP, 2 * GAP + width), panels, strict=True):
        canvas.paste(Image.fromarray(picture), (left, top))
        if mirror:
            drawing.put_sides(canvas, left, top, width, height, SMALL)
    drawing.put_text(canvas, (GAP, top + height + 6), _NOTE, SMALL, drawing.FAINT)
    return np.asarray(canvas)


def _measured_copy(model: nn.Module) -> nn.Module:
    """A copy for measuring; its activations no longer work in place, which hooks of gradients forbid."""
    network = copy.deepcopy(model).float().eval().requires_grad_(True)
    for module in network.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]
    return network


def _chosen(logits: Tensor, classes: int | Sequence[int] | np.ndarray | None) -> np.ndarray:
    """The class of each image, ``(batch,)``."""
    if logits.ndim != 2:
        raise ValueError(f"logits {tuple(logits.shape)}: expected (batch, class)")
    if classes is None:
        return logits.argmax(dim=1).cpu().numpy()
    chosen = np.asarray(classes, dtype=np.int64)
    if chosen.shape not in ((), (len(logits),)):
        raise ValueError(f"classes {chosen.shape}: expected one, or one for each of {len(logits)} images")
    if chosen.size and (chosen.min() < 0 or chosen.max() >= logits.shape[1]):
        raise ValueError(f"classes outside 0 .. {logits.shape[1] - 1}")
    return np.broadcast_to(chosen, (len(logits),))


def _maps(network: nn.Module, images: Tensor, layer: str, classes: np.ndarray) -> np.ndarray:
    """Grad-CAM before scaling, at least 0, ``(batch, height, width)``."""
    if layer not in dict(network.named_modules()):
        raise ValueError(f"the network has no layer {layer}")
    from monai.visualize import GradCAM

    cam = GradCAM(network, layer, postprocessing=lambda maps: maps)
    heats = np.zeros((len(images), *images.shape[2:]), dtype=np.float32)
    # A class at a time: given a class for each image, MONAI would add up the scores of all of them for every image.
    for number in np.unique(classes):
        chosen = np.flatnonzero(classes == number)
        part = images[torch.from_numpy(chosen).to(images.device)]
        try:
            found = cam(part, class_idx=int(number))
        except (KeyError, IndexError) as error:
            raise ValueError(f"the logits do not depend on layer {layer}") from error
        heats[chosen] = found[:, 0].detach().cpu().numpy()
    return heats


def _scaled(heats: np.ndarray) -> np.ndarray:
    """Each map divided by its maximum; one that is 0 everywhere stays so."""
    highest = heats.max(axis=(1, 2), keepdims=True)
    return np.clip(heats / np.where(highest > 0, highest, 1.0), 0.0, 1.0).astype(np.float32)
