"""ImageNet weights of torchvision and timm: downloaded, or put in place by hand where there is no connection.

Both libraries check the SHA-256 of what they download, and neither that of a file that is there already. Here a file
in place is checked as well, so that a copy that was cut off, or of other weights, never passes for theirs.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

import torch
from torchvision.models import WeightsEnum

from metaseg.errors import DataError, MetasegError


def fetch_torchvision(title: str, weights: WeightsEnum) -> dict[str, torch.Tensor]:
    """Download torchvision's weights, or take them from torch's cache.

    Args:
        title: The network's name, for messages.
        weights: torchvision's entry, with address and checksum.

    Raises:
        DataError: The file in the cache is not torchvision's.
        MetasegError: The download failed or its checksum is wrong.
    """
    check_in_place(title, weights.url)
    try:
        found: dict[str, torch.Tensor] = weights.get_state_dict(check_hash=True, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError) as error:
        raise download_failed(title, weights.url, error) from error
    return found


def place_of(url: str) -> Path | None:
    """Where torchvision and timm look for the file of an address before they download it; None if it is of no file.

    timm's newer weights are addressed as repositories of Hugging Face, whose client keeps a cache of its own.
    """
    name = url.rpartition("/")[2]
    return Path(torch.hub.get_dir()) / "checkpoints" / name if name.endswith((".pth", ".pt")) else None


def checksum_of(url: str) -> str:
    """The first digits of a file's SHA-256, which stand in its name; empty where there are none."""
    found = torch.hub.HASH_REGEX.search(url.rpartition("/")[2])
    return found.group(1) if found else ""


def check_in_place(title: str, url: str) -> bool:
    """Check the file of an address, if it is in place already.

    Args:
        title: The network's name, for messages.
        url: The address.

    Returns:
        Whether it is known to be there.

    Raises:
        DataError: It is not the file that the library offers.
    """
    path, expected = place_of(url), checksum_of(url)
    if path is None or not expected or not path.is_file():
        return False
    state = path.stat()
    found = _sha256(path, state.st_size, state.st_mtime_ns)
    if not found.startswith(expected):
        raise DataError(
            f"not the file of the ImageNet weights of {title}: its SHA-256 begins with {found[: len(expected)]}",
            where=path,
            expected=f"the file of {url}, whose SHA-256 begins with {expected}",
            remedy="copy it again, or delete it to have it downloaded",
        )
    return True


@lru_cache(maxsize=32)
def _sha256(path: Path, size: int, changed: int) -> str:
    """The digest of a file that has not changed since it was last looked at."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def download_failed(title: str, url: str, error: Exception) -> MetasegError:
    """The error for ImageNet weights that could not be had, whichever library offers them."""
    place, checksum = place_of(url), checksum_of(url)
    file = "the file in its cache" if place is None else f"the file {place.name} in {place.parent}"
    digits = f" (its SHA-256 begins with {checksum})" if checksum else ""
    there = "" if place is None else "into that folder (TORCH_HOME names another), "
    return MetasegError(
        f"could not get the ImageNet weights of {title} ({error})",
        where=url,
        expected=f"a connection to that address, or {file}{digits}",
        remedy=f"download it where there is a connection and copy it {there}or give its path as the weights "
        "(--weights FILE); or start without (--weights none)",
    )
