"""Grad-CAM pictures of slices: where a classifier looked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from metaseg.classify.measure import softmax
from metaseg.classify.slices import ClassifiedSlices
from metaseg.evaluation.grad_cam import grad_cam, grad_cam_picture
from metaseg.models import Classifier
from metaseg.written_files import replacing


def write_grad_cams(
    folder: Path, model: Classifier, slices: ClassifiedSlices, positions: Sequence[int] | np.ndarray
) -> list[Path]:
    """Write a picture for each slice, of what spoke for the class that was predicted.

    Args:
        folder: Where to; made if need be.
        model: The classifier.
        slices: The slices.
        positions: Which of them, in the order of the files' names.

    Returns:
        The files.
    """
    device = next(model.parameters()).device
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for number, place in enumerate(positions, start=1):
        image = slices.images([int(place)])
        heat = grad_cam(model, image.to(device))[0]
        probabilities = softmax(model.eval()(image.to(device)).detach())[0]
        predicted = int(np.argmax(probabilities))
        name = slices.ids[int(place)]
        truth = int(slices.labels[place])
        title = f"{name}: {slices.classes[predicted]} {probabilities[predicted]:.2f}"
        if truth >= 0:
            title += f" (truth: {slices.classes[truth]})"
        picture = grad_cam_picture(
            shown_channel(image[0].numpy(), slices.modalities),
            heat,
            title,
            slices.store.synthetic,
            planar=slices.store.cases[slices.owners[int(place)]].info.geometry.planar,
        )
        path = folder / f"{number:03d}-{re.sub(r'[^A-Za-z0-9_.-]+', '_', name)}.png"
        with replacing(path) as stream:
            Image.fromarray(picture).save(stream, format="PNG")
        written.append(path)
    return written


def shown_channel(image: np.ndarray, modalities: Sequence[str]) -> np.ndarray:
    """The modality of ``(modality, height, width)`` that shows enhancement, or the first, with a black background."""
    shown = image[modalities.index("t1ce") if "t1ce" in modalities else 0]
    # Scores have a background of 0, which is a middle grey; pictures take the lowest value for it.
    return np.where(shown == 0, shown.min(), shown)
