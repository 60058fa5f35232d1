"""A network at work on prepared cases: probabilities, classes and Dice of their slices, labels on their files' grid."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from metaseg.cases.case import Case
from metaseg.cases.geometry import Geometry
from metaseg.cases.labels import LABEL_SCHEMES, LABEL_SPACES, LabelSpace
from metaseg.errors import DataError, UsageError
from metaseg.inference.logits import Autocast, largest_class, over_cores, predict_logits
from metaseg.metrics.overlap import joint_histogram, region_counts
from metaseg.models.card import ModelCard
from metaseg.models.device import make_fabric
from metaseg.models.parts import feature_modules
from metaseg.runs.networks import LoadedNetwork, load_network
from metaseg.store.prepare_case import PrepareOptions, UnstoredCase, read_unstored
from metaseg.store.stored_case import StoredCase, to_space

Finished = TypeVar("Finished")
Slices = Sequence[int] | np.ndarray


@dataclass(frozen=True)
class CaseSegmentation:
    """What a network sees in a whole case.

    Attributes:
        classes: Class values ``(slices, height, width)``, ``uint8``, on the full canonical grid.
        kept: Class to its probabilities ``(slices, height, width)``, ``float32``, on the stored grid.
        decision: To whom a gate gave the case, where one did.
    """

    classes: np.ndarray
    kept: Mapping[int, np.ndarray]
    decision: Decision | None = None


@dataclass(frozen=True)
class Decision:
    """What a gate says of a case.

    Attributes:
        domain: ``source`` or ``target``: whose network takes it.
        probability: That it is of the target.
    """

    domain: str
    probability: float

    def __str__(self) -> str:
        return f"as {self.domain} (target with probability {self.probability:.2f})"


@dataclass(frozen=True, eq=False)
class Predictor:
    """A segmentation network with all that it takes to use it.

    Attributes:
        network: Gives logits ``(batch, class, height, width)``. It is in evaluation mode while it predicts, and back
            in its own mode afterwards.
        modalities: Its input modalities, in order.
        space: What its classes mean.
        tta: Average over flips (test-time augmentation).
        batch_size: Slices of one forward pass.
        autocast: Makes the context of mixed precision.
        card: Its model card, where there is one.
    """

    network: nn.Module
    modalities: tuple[str, ...]
    space: LabelSpace
    tta: bool = False
    batch_size: int = 8
    autocast: Autocast = nullcontext
    card: ModelCard | None = None

    @classmethod
    def load(
        cls,
        path: str | Path,
        checkpoint: str = "best",
        *,
        device: str = "auto",
        precision: str = "32-true",
        tta: bool = False,
        batch_size: int = 8,
    ) -> Self:
        """The network of a run folder or a checkpoint, ready to predict.

        Args:
            path: A run folder, or a checkpoint ``X.safetensors`` (or ``X``) with ``X.json`` beside it.
            checkpoint: ``best`` or ``last`` of a run.
            device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
            precision: ``32-true``, ``16-mixed`` or ``bf16-mixed``.
            tta: Average over flips (test-time augmentation).
            batch_size: Slices of one forward pass.

        Raises:
            RunError: There is no such run or checkpoint, or it is damaged, or a classifier's.
            UsageError: The device is not here, or cannot do the precision.
        """
        fabric = make_fabric(device, precision)
        return cls.from_network(load_network(path, checkpoint), fabric, tta=tta, batch_size=batch_size)

    @classmethod
    def from_network(cls, network: LoadedNetwork, fabric: Fabric, *, tta: bool = False, batch_size: int = 8) -> Self:
        """As :meth:`load`, of a network in memory, which is moved to the device of ``fabric``."""
        card = network.card
        model = fabric.to_device(network.model)
        return cls(model, card.modalities, LABEL_SPACES[card.label_space], tta, batch_size, fabric.autocast, card)

    def predict(self, case: Case | np.ndarray, affine: np.ndarray | None = None) -> np.ndarray:
        """Labels of a case on the grid of its files.

        Args:
            case: A case of :func:`~metaseg.cases.readers.read_cases`, or an array ``(modality, i, j, k)`` with the
                modalities in the order of :attr:`modalities`.
            affine: Of an array, its voxel-to-world matrix (4, 4) in mm, as nibabel gives it; by default axes run to
                the patient's right, front and top, with voxels of 1 mm.

        Returns:
            Classes of :attr:`space` on the same grid ``(i, j, k)``, ``uint8``.

        Raises:
            DataError: The case cannot be read, lacks a modality or is empty; the array has another shape.
            TrainingError: The network gives numbers that are not finite.
        """
        prepared = self.prepare(case if isinstance(case, Case) else self._case_of(np.asarray(case), affine))
        return prepared.info.geometry.from_canonical(self.segment(prepared).classes)

    def prepare(self, case: Case) -> UnstoredCase:
        """Read a case's images and bring them to what the network takes; its label, if any, is left out.

        Raises:
            DataError: The case cannot be read, lacks a modality, or holds nothing but zeros.
        """
        case.require(self.modalities)
        # Without its label, which must not influence the crop, and without modalities that the network lacks.
        bare = replace(case, images={name: case.images[name] for name in self.modalities}, label=None)
        image_size = self.card.normalisation.get("image_size") if self.card else None
        return read_unstored(bare, PrepareOptions(self.modalities, image_size), threads=torch.get_num_threads())

    def _case_of(self, array: np.ndarray, affine: np.ndarray | None) -> Case:
        if array.ndim != 4 or len(array) != len(self.modalities):
            raise DataError(
                f"an array of shape {array.shape} for a network of {', '.join(self.modalities)}",
                expected=f"({len(self.modalities)}, i, j, k), a volume for each modality",
            )
        geometry = Geometry.from_affine(array.shape[1:], np.eye(4) if affine is None else np.asarray(affine))
        scheme = next(scheme for scheme in LABEL_SCHEMES.values() if scheme.space == self.space)
        images = {name: _ArrayVolume(values, geometry) for name, values in zip(self.modalities, array, strict=True)}
        return Case("array", "array", "array", images, None, scheme)

    def probabilities(self, case: StoredCase, slices: Slices | None = None) -> np.ndarray:
        """Class probabilities of a case's slices on the stored grid.

        Args:
            case: The prepared case.
            slices: Stored slices; by default all.

        Returns:
            ``(class, slices, height, width)``, ``float32``, summing to 1 over classes.
        """
        parts = [part.cpu().numpy() for part in self._over_slices(_softmax, case, slices)]
        return np.concatenate(parts).transpose(1, 0, 2, 3)

    def classes(self, case: StoredCase, slices: Slices | None = None) -> np.ndarray:
        """Class of the largest logit of each pixel on the stored grid, ``(slices, height, width)``, ``uint8``."""
        return np.concatenate(list(self._over_slices(_largest, case, slices)))

    def segment(self, case: StoredCase, keep: Sequence[int] = ()) -> CaseSegmentation:
        """Most probable class of every voxel of the full canonical grid; background outside the stored crop.

        Where slices were shrunk for the store, probabilities are brought to the full size before the class is chosen.

        Args:
            case: The prepared case.
            keep: Classes whose probabilities are wanted as well.
        """
        if _is_shrunk(case):
            maps = self.probabilities(case)
            classes = case.restore(maps).argmax(axis=0).astype(np.uint8)
            return CaseSegmentation(classes, {value: maps[value] for value in keep})
        stored, kept = self.most_probable(case, keep)
        classes = np.zeros(case.info.geometry.canonical_shape, dtype=np.uint8)
        classes[_crop(case)] = stored
        return CaseSegmentation(classes, dict(zip(keep, kept, strict=True)))

    def most_probable(self, case: StoredCase, keep: Sequence[int] = ()) -> tuple[np.ndarray, np.ndarray]:
        """The class of the largest probability, and the probabilities of some classes alone.

        Equal to the maximum over what :meth:`probabilities` gives (the first of equal ones), in a fraction of its
        memory.

        Args:
            case: The prepared case.
            keep: Classes whose probabilities are wanted.

        Returns:
            Classes ``(slices, height, width)``, ``uint8``, and probabilities ``(kept class, slices, height, width)``,
            ``float32``, on the stored grid.
        """
        chosen = list(keep)
        classes = np.empty(case.info.shape, dtype=np.uint8)
        kept = np.empty((len(chosen), *case.info.shape), dtype=np.float32)

        def finish(logits: Tensor) -> tuple[np.ndarray, np.ndarray]:
            probabilities = _softmax(logits)
            return _largest(probabilities), probabilities[:, chosen].cpu().numpy()

        start = 0
        for most, some in self._over_slices(finish, case):
            batch = slice(start, start + len(most))
            classes[batch], kept[:, batch] = most, some.swapaxes(0, 1)
            start += len(most)
        return classes, kept

    def describe_slices(self, case: StoredCase, slices: Slices | None = None) -> tuple[np.ndarray, np.ndarray]:
        """What the network makes of each slice, as numbers by which slices can be told apart.

        Args:
            case: The prepared case.
            slices: Stored slices; by default all.

        Returns:
            Mean and standard deviation over each slice of the outputs of the encoder's layers: ``(slices, 2 x channels
            of all layers)``, those of one layer after the other; and :data:`CONFIDENCE` ``(slices, 5)``. Both
            ``float32``.

        Raises:
            UsageError: It is not known which layers of the network are its encoder, or they are never called.
        """
        passed = threading.local()  # batches are passed side by side in threads

        def keep(module: nn.Module, inputs: object, output: Tensor) -> None:
            spread, mean = torch.std_mean(output.float(), dim=(2, 3), correction=0)
            passed.layers = [*getattr(passed, "layers", ()), mean, spread]

        def finish(logits: Tensor) -> tuple[np.ndarray, np.ndarray]:
            layers, passed.layers = getattr(passed, "layers", ()), []
            if not layers:
                raise UsageError("the network does not pass the modules of its encoder whole")
            encoded = torch.cat(layers, dim=1)
            return encoded.cpu().numpy(), _confidence(_softmax(logits)).cpu().numpy()

        hooks = [layer.register_forward_hook(keep) for layer in feature_modules(self.network)]
        try:
            parts = list(replace(self, tta=False)._over_slices(finish, case, slices))
        finally:
            for hook in hooks:
                hook.remove()
        return np.concatenate([encoded for encoded, _ in parts]), np.concatenate([sure for _, sure in parts])

    def dice(self, case: StoredCase) -> dict[str, float]:
        """Dice of each region over all outlined slices on the stored grid, the quick metric that training watches.

        Args:
            case: A labelled case. Where its label knows the whole lesion only, WT alone is compared.

        Returns:
            Region name to Dice in [0, 1]; NaN where label and prediction are both empty.
        """
        predicted = self.classes(case, case.outlined)
        label, known = case.labels(case.outlined), case.space
        if known != self.space and self.space.num_classes < known.num_classes:
            label, known = to_space(label, known, self.space, case.id), self.space
        histogram = joint_histogram(label, predicted, max(known.num_classes, self.space.num_classes))
        return {
            region: float(region_counts(histogram, known.regions[region], values).dice())
            for region, values in self.space.regions.items()
            if region in known.regions
        }

    def _over_slices(
        self, finish: Callable[[Tensor], Finished], case: StoredCase, slices: Slices | None = None
    ) -> Iterator[Finished]:
        """What ``finish`` makes of the logits of one batch of slices after the other.

        On a CPU the batches are spread over torch's threads.
        """
        indices = np.arange(case.num_slices) if slices is None else np.asarray(slices)
        batches = [indices[start : start + self.batch_size] for start in range(0, len(indices), self.batch_size)]
        device = next(self.network.parameters()).device

        @torch.inference_mode()
        def work(batch: np.ndarray) -> Finished:
            images = torch.from_numpy(case.images(batch, self.modalities, keep=False)).to(device)
            with self.autocast():
                logits = predict_logits(self.network, images, self.tta, f"case {case.id}")
            return finish(logits)

        threads = min(torch.get_num_threads(), len(batches)) if device.type == "cpu" else 1
        training = self.network.training
        self.network.eval()
        try:
            yield from over_cores(work, batches, threads)
        finally:
            self.network.train(training)


@dataclass(frozen=True, eq=False)
class _ArrayVolume:
    """An array ``(i, j, k)`` as a :class:`~metaseg.cases.case.Volume`."""

    values: np.ndarray
    grid: Geometry
    files: tuple[Path, ...] = (Path("array"),)

    def geometry(self) -> Geometry:
        return self.grid

    def read(self) -> np.ndarray:
        return self.grid.to_canonical(self.values)


def _softmax(logits: Tensor) -> Tensor:
    return torch.softmax(logits, dim=1)


CONFIDENCE = (
    "fraction of the slice that is more likely tumour than not",
    "largest probability of tumour",
    "mean entropy of tumour against background",
    "the same over what is tumour",
    "mean probability of tumour over it",
)
"""What :meth:`Predictor.describe_slices` says of a network's confidence; the last two are 0 where nothing is tumour."""


def _confidence(probabilities: Tensor) -> Tensor:
    """:data:`CONFIDENCE` ``(batch, 5)`` of class probabilities ``(batch, class, height, width)``."""
    tumour = probabilities[:, 1:].sum(dim=1).flatten(1)
    inside = (tumour > 0.5).float()
    entropy = torch.special.entr(tumour) + torch.special.entr(1 - tumour.clamp(max=1))
    area = inside.sum(dim=1)
    over = [(values * inside).sum(dim=1) / (area + 1) for values in (entropy, tumour)]
    return torch.stack([inside.mean(dim=1), tumour.amax(dim=1), entropy.mean(dim=1), *over], dim=1)


def _largest(scores: Tensor) -> np.ndarray:
    """Class of the largest score, the first of equal ones, ``(batch, height, width)``."""
    classes: np.ndarray = largest_class(scores).cpu().numpy()
    return classes


def full_probabilities(case: StoredCase, maps: Mapping[int, np.ndarray]) -> Iterator[np.ndarray]:
    """Class probabilities on the full canonical grid, one class after the other; all background outside the crop.

    Args:
        case: The prepared case.
        maps: Every class's probabilities ``(slices, height, width)`` on the stored grid.

    Yields:
        ``(slices, height, width)``, ``float32``.
    """
    if _is_shrunk(case):
        yield from case.restore(np.stack([maps[value] for value in sorted(maps)]))
        return
    for value in sorted(maps):
        full = np.full(case.info.geometry.canonical_shape, 0.0 if value else 1.0, dtype=np.float32)
        full[_crop(case)] = maps[value]
        yield full


def full_image(case: StoredCase, modality: str) -> np.ndarray:
    """Intensities of one modality on the full canonical grid, for pictures: 0 outside the stored crop.

    Returns:
        ``(slices, height, width)``, ``float32``; enlarged bilinearly where slices were shrunk for the store.
    """
    from skimage.transform import resize

    (channel,) = case.channels((modality,))
    stored = np.asarray(case.raw_images[:, channel], dtype=np.float32)
    if _is_shrunk(case):
        (_, _), (y0, y1), (x0, x1) = case.info.crop
        stored = resize(stored, (len(stored), y1 - y0, x1 - x0), order=1, mode="edge", preserve_range=True)
    image = np.zeros(case.info.geometry.canonical_shape, dtype=np.float32)
    image[_crop(case)] = stored
    return image


def _crop(case: StoredCase) -> tuple[slice, ...]:
    return tuple(slice(start, stop) for start, stop in case.info.crop)


def _is_shrunk(case: StoredCase) -> bool:
    """Whether slices were shrunk for the store."""
    return case.info.shape[1:] != tuple(stop - start for start, stop in case.info.crop[1:])


def mean_dice(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean over cases of each region's Dice, leaving out the cases that are empty in both (NaN if all are)."""
    regions = dict.fromkeys(region for row in rows for region in row)
    means = {}
    for region in regions:
        values = np.array([row[region] for row in rows if region in row])
        values = values[~np.isnan(values)]
        means[region] = float(values.mean()) if values.size else float("nan")
    return means
