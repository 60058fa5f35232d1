"""Weights that fit only in part are loaded, with a report of what was and what was not; none that is not finite.

A network with one NaN predicts an empty mask, and its metrics look like those of a poor one. So weights are checked
whenever they are saved or loaded, and what a network gives whenever it is used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from metaseg.errors import DataError, MetasegError, TrainingError

PREFIXES = ("module.", "_orig_mod.", "net.")
"""What DataParallel, torch.compile and our ``PadToStride`` put before a network's own keys."""
NESTED = ("state_dict", "model_state_dict", "model", "network_weights")
"""Under which key training scripts keep the state dict of a ``.pth`` file."""
Shape = tuple[int, ...]


@dataclass(frozen=True)
class WeightReport:
    """What :func:`load_weights` did. Names are the model's own keys; those unexpected are the file's.

    Attributes:
        origin: Where the weights came from.
        loaded: Tensors taken over, those adapted among them.
        adapted: First convolutions spread over another number of modalities.
        skipped: ``(name, shape in the file, shape in the model)`` of those that do not fit; the model's values stay.
        missing: Tensors of the model that the file lacks; the model's values stay.
        unexpected: Tensors of the file that the model lacks.
        fraction: Of the model's parameters, by count, that were loaded, 0 to 1.
        notes: What else was done on loading.
    """

    origin: str
    loaded: tuple[str, ...]
    adapted: tuple[str, ...]
    skipped: tuple[tuple[str, Shape, Shape], ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    fraction: float
    notes: tuple[str, ...] = ()

    def lines(self, limit: int = 6) -> list[str]:
        """The report for people; of each list at most ``limit`` entries are shown."""
        total = len(self.loaded) + len(self.skipped) + len(self.missing)
        # Rounded down, so that 100 % means all of them.
        percent = math.floor(self.fraction * 1000) / 10
        lines = [f"loaded {len(self.loaded)} of {total} tensors ({percent} % of the parameters) from {self.origin}"]
        lines += [f"  {note}" for note in self.notes]
        lines += [f"  spread over the modalities: {name}" for name in self.adapted]
        misfits = [f"{name}: {there} in the file, {here} in the network" for name, there, here in self.skipped]
        lines += _listed("does not fit, starts fresh", misfits, limit)
        lines += _listed("not in the file, starts fresh", self.missing, limit)
        lines += _listed("in the file only, left out", self.unexpected, limit)
        return lines


def _listed(title: str, entries: tuple[str, ...] | list[str], limit: int) -> list[str]:
    lines = [f"  {title}: {entry}" for entry in entries[:limit]]
    return [*lines, f"  {title}: {len(entries) - limit} more"] if len(entries) > limit else lines


def load_weights(
    model: nn.Module,
    source: Path | Mapping[str, torch.Tensor],
    min_loaded: float = 0.5,
    *,
    adapt_input: bool = False,
    origin: str | None = None,
) -> WeightReport:
    """Load what fits into a model, by name and shape, and report the rest.

    Wrappers' prefixes (:data:`PREFIXES`) do not matter on either side. A head with another number of classes is
    skipped and keeps its fresh values; so is a first convolution with another number of modalities, unless
    ``adapt_input`` is set. If an error is raised, the model is as it was.

    Args:
        model: Changed in place; keeps its number type and device.
        source: A file, see :func:`read_tensors`, or tensors by name.
        min_loaded: Least fraction of the model's parameters, by count, that must fit, 0 to 1.
        adapt_input: Spread a first convolution over the model's modalities with :func:`inflate_input`.
        origin: What to call the source in report and messages.

    Returns:
        What was loaded and what was not.

    Raises:
        DataError: The file cannot be read, too little of it fits, or a value that would be loaded is not finite.
    """
    tensors = read_tensors(source) if isinstance(source, Path) else source
    origin = origin or (str(source) if isinstance(source, Path) else "the given tensors")
    own = unique_state(model)
    given, unexpected = _by_own_name(model, own, tensors)
    fitting: dict[str, torch.Tensor] = {}
    adapted: list[str] = []
    skipped: list[tuple[str, Shape, Shape]] = []
    for name, tensor in given.items():
        if tensor.shape == own[name].shape:
            fitting[name] = tensor
        elif adapt_input and _is_input_kernel(model, own[name], tensor):
            fitting[name] = inflate_input(tensor, own[name].shape[1])
            adapted.append(name)
        else:
            skipped.append((name, tuple(tensor.shape), tuple(own[name].shape)))
    parameters = {name: tensor.numel() for name, tensor in own.items() if isinstance(tensor, nn.Parameter)}
    fitted = sum(count for name, count in parameters.items() if name in fitting)
    report = WeightReport(
        origin,
        loaded=tuple(name for name in own if name in fitting),
        adapted=tuple(adapted),
        skipped=tuple(skipped),
        missing=tuple(name for name in own if name not in given),
        unexpected=tuple(unexpected),
        fraction=fitted / max(sum(parameters.values()), 1),
    )
    _require(report, fitting, min_loaded)
    with torch.no_grad():
        for name, tensor in fitting.items():
            own[name].copy_(tensor)
    return report


def _by_own_name(
    model: nn.Module, own: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Bring a file's tensors under the model's own names; the second value lists those that have none."""
    first_name = {id(tensor): name for name, tensor in own.items()}
    # Second names of a layer lead to the first one, so that either is understood.
    known = {bare_key(name): first_name[id(tensor)] for name, tensor in model.state_dict(keep_vars=True).items()}
    given = {known[bare_key(key)]: tensor for key, tensor in tensors.items() if bare_key(key) in known}
    return given, [key for key in tensors if bare_key(key) not in known]


def _is_input_kernel(model: nn.Module, own: torch.Tensor, given: torch.Tensor) -> bool:
    """Whether these are one convolution on the image, built for two different numbers of modalities."""
    if own.ndim != 4 or given.ndim != 4 or own.shape[0] != given.shape[0] or own.shape[2:] != given.shape[2:]:
        return False
    kernels = (tensor.shape[1] for tensor in unique_state(model).values() if tensor.ndim == 4)
    in_channels = getattr(model, "in_channels", None) or next(kernels)
    return bool(own.shape[1] == in_channels)


def _require(report: WeightReport, fitting: Mapping[str, torch.Tensor], min_loaded: float) -> None:
    if report.fraction < min_loaded:
        raise DataError(
            "the weights do not fit the network: " + "\n".join(report.lines(limit=3)),
            where=report.origin,
            expected=f"at least {min_loaded:.0%} of the network's parameters, by name and shape",
            remedy="build the network that the weights were made for: its name, options, modalities and classes",
        )
    require_finite(fitting, DataError, report.origin)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a weight file onto the CPU; nothing but tensors is ever unpickled.

    Args:
        path: A ``.safetensors`` file, with or without its suffix, or a file that ``torch.save`` wrote.

    Returns:
        Name to tensor; of a training script's file, its state dict.

    Raises:
        DataError: The file is missing, damaged, or holds something else.
    """
    named = path.with_name(path.name + ".safetensors")
    file = path if path.is_file() or not named.is_file() else named
    try:
        content = load_safetensors(file.read_bytes()) if file.suffix == ".safetensors" else _torch_load(file)
    except OSError as error:
        raise DataError(
            f"cannot read the weights ({error.strerror})",
            where=path,
            expected="a metaseg checkpoint, a .safetensors or a .pth file",
            remedy="name the file itself, such as RUN/checkpoints/best",
        ) from error
    except SafetensorError as error:
        raise DataError(
            f"the weights are damaged ({error})",
            where=file,
            expected="a complete .safetensors file",
            remedy="copy or download the file again",
        ) from error
    nested = [value for key in NESTED if isinstance(value := content.get(key), Mapping)]
    state = nested[0] if nested else content
    tensors = {str(key): value for key, value in state.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise DataError(
            "the file holds no weights",
            where=file,
            expected="tensors by name, at the top or under one of " + ", ".join(NESTED),
        )
    return tensors


def _torch_load(file: Path) -> Mapping[str, object]:
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch.load answers a damaged or refused file with nearly any type of error
        raise DataError(
            "cannot read the weights: the file is damaged or holds more than tensors",
            where=file,
            expected="a file of tensors alone, as torch.save(model.state_dict(), file) writes it",
            remedy="copy the file again; if it holds other objects and you trust it, save its state dict alone",
        ) from error
    if not isinstance(content, Mapping):
        raise DataError(f"the file holds a {type(content).__name__}", where=file, expected="a state dict")
    return content


def unique_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The parameters and buffers of a model, each once, under the first of its names.

    Some networks (MONAI's ``DynUNet``) hold a layer under two names; a state dict then lists its tensors twice.
    """
    unique: dict[int, str] = {}
    state = model.state_dict(keep_vars=True)
    for name, tensor in state.items():
        unique.setdefault(id(tensor), name)
    return {name: state[name] for name in unique.values()}


def bare_key(key: str) -> str:
    """A state dict's key without the prefixes of wrappers (:data:`PREFIXES`)."""
    stripped = key
    while stripped.startswith(PREFIXES):
        stripped = stripped.partition(".")[2]
    return stripped


def inflate_input(kernel: torch.Tensor, in_channels: int) -> torch.Tensor:
    """Spread a convolution's kernel over another number of input channels.

    Every new channel gets the mean over the old ones, scaled so that the response to equal channels is unchanged.

    Args:
        kernel: ``(out, old, height, width)``.
        in_channels: The new number.

    Returns:
        ``(out, in_channels, height, width)``.
    """
    scale = kernel.shape[1] / in_channels
    return (kernel.mean(dim=1, keepdim=True) * scale).repeat(1, in_channels, 1, 1)


def non_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Name of the first tensor that holds NaN or infinity; None if there is none."""
    floating = {name: tensor.detach() for name, tensor in tensors.items() if tensor.is_floating_point()}
    # Sums tell of all tensors of a device at once. Only where one is not finite, which may be its own overflow, is each
    # tensor looked at.
    sums: dict[torch.device, list[Tensor]] = {}
    for tensor in floating.values():
        sums.setdefault(tensor.device, []).append(tensor.sum().float())
    if all(bool(torch.isfinite(torch.stack(some)).all()) for some in sums.values()):
        return None
    return next((name for name, tensor in floating.items() if not bool(torch.isfinite(tensor).all())), None)


def require_finite(tensors: Mapping[str, Tensor], kind: type[MetasegError], where: str | Path) -> None:
    """Raise an error of a kind if any of a file's weights is not finite."""
    name = non_finite(tensors)
    if name is not None:
        raise kind(
            f"the weights hold non-finite values in {name}",
            where=where,
            expected="finite numbers",
            remedy="use an earlier checkpoint, from before the training diverged",
        )


def finite_output(output: Tensor, of: str) -> Tensor:
    """What a network gives, unchanged.

    Args:
        output: Logits or embeddings.
        of: What it is given for, such as ``"case P1"``, for the message.

    Raises:
        TrainingError: A value is not finite.
    """
    if non_finite({"output": output}) is not None:
        raise TrainingError(
            f"the network gives numbers that are not finite for {of}",
            expected="finite numbers; its weights are so large that they overflow",
            remedy="use an earlier checkpoint or train again with a lower learning rate; with --precision 16-mixed, "
            "try 32-true",
        )
    return output
