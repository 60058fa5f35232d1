"""ImageNet weights for tests: files of the right names and shapes, made in a moment and offered by a local server."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import timm
import torch
import torchvision.models
from torch import Tensor


def shaped_like_imagenet(library: str, name: str) -> dict[str, Tensor]:
    """The state dict of a network with ImageNet's thousand classes.

    Each output channel has one random value, repeated by strides of 0: a VGG-16 takes kilobytes in memory and on disk.
    """
    with torch.device("meta"):
        net = timm.create_model(name) if library == "timm" else torchvision.models.get_model(name, weights=None)
    generator = torch.Generator().manual_seed(0)
    return {key: _repeated(key, tensor, generator) for key, tensor in net.state_dict().items()}


def _repeated(key: str, tensor: Tensor, generator: torch.Generator) -> Tensor:
    if not tensor.is_floating_point():
        return torch.zeros(tensor.shape, dtype=tensor.dtype)
    values = torch.randn(tensor.shape[0], generator=generator) / max(tensor[0].numel(), 1) ** 0.5
    values = values.abs() + 0.5 if "running_var" in key else values
    return values.view(-1, *[1] * (tensor.ndim - 1)).expand(tensor.shape)


class ImageNetFiles:
    """Weight files that stand for those of torchvision and timm while a test runs.

    Attributes:
        folder: What the server offers.
        cache: Where the libraries keep what they downloaded, and look first.
        asked: Files that were asked for.
    """

    def __init__(self, folder: Path, cache: Path, asked: list[str], address: str, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.cache, self.asked, self._address, self._patch = folder, cache, asked, address, patch

    def publish(self, name: str, state: Mapping[str, object] | None = None) -> Path:
        """Write a network's file, named by its checksum, and have the library look for it on the server.

        Args:
            name: In torchvision, or ``timm:NAME``.
            state: What it holds; by default random values in the network's shapes.
        """
        library, _, inner = name.rpartition(":")
        unnamed = self.folder / "unnamed.pth"
        torch.save(dict(state or shaped_like_imagenet(library, inner)), unnamed)
        digest = hashlib.sha256(unnamed.read_bytes()).hexdigest()
        file = unnamed.rename(self.folder / f"{inner}-{digest[:8]}.pth")
        url = f"{self._address}/{file.name}"
        if library == "timm":
            found = timm.models.get_pretrained_cfg(inner)
            registry = timm.models._registry._model_pretrained_cfgs
            self._patch.setitem(registry, inner, dataclasses.replace(found, url=url, hf_hub_id=None))
        else:
            entry = torchvision.models.get_model_weights(inner).IMAGENET1K_V1
            self._patch.setattr(entry, "_value_", dataclasses.replace(entry.value, url=url))
        return file


@contextmanager
def imagenet_files(root: Path, patch: pytest.MonkeyPatch) -> Iterator[ImageNetFiles]:
    """A server of this machine for weight files, and an empty cache of torch's."""
    folder, hub = root / "offered", root / "hub"
    folder.mkdir()
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            asked.append(self.path.rpartition("/")[2])

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    patch.setattr("torch.hub.get_dir", lambda: str(hub))
    patch.setenv("no_proxy", "127.0.0.1")
    try:
        yield ImageNetFiles(folder, hub / "checkpoints", asked, f"http://127.0.0.1:{server.server_port}", patch)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
