"""The end of a training whose numbers are no longer finite, and which weights are still good."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from metaseg.errors import RunError, TrainingError
from metaseg.models.card import checkpoint_files, read_card
from metaseg.models.finite import non_finite
from metaseg.models.weights import unique_state


def diverged(what: str, when: str, checkpoints: Path | None, rates: str = "--learning-rate") -> TrainingError:
    """The error of a training that diverged.

    Args:
        what: What is not finite, such as ``"loss"``.
        when: Such as ``"step 12"``.
        checkpoints: Folder with the run's checkpoints, which hold finite weights alone; None if nothing is saved.
        rates: Options to lower.
    """
    return TrainingError(
        f"the {what} became non-finite at {when}",
        expected="finite numbers",
        remedy=f"lower {rates} and start again; {_kept(checkpoints)}",
    )


def _kept(checkpoints: Path | None) -> str:
    """Which weights of before are there."""
    weights, card = checkpoint_files((checkpoints or Path()) / "last")
    try:
        step = read_card(card)[0].step
    except RunError:
        return "no weights had been saved"
    return f"{weights} holds the last good weights, those of step {step}"


def require_finite_weights(
    model: nn.Module, when: str, checkpoints: Path | None, rates: str = "--learning-rate"
) -> None:
    """Raise as :func:`diverged` says if a network's parameters or buffers are not finite."""
    name = non_finite(unique_state(model))
    if name is not None:
        raise diverged(f"tensor {name} of the network", when, checkpoints, rates)


def require_finite_images(images: Tensor, when: str) -> None:
    """Raise unless a batch is finite: what spoils a loss may be the data and not the learning rate."""
    if non_finite({"images": images}) is not None:
        raise TrainingError(
            f"the images of the batch hold non-finite values at {when}",
            expected="finite intensities",
            remedy="run 'metaseg data check' on the data, and leave the case out; or train with --augment none",
        )
