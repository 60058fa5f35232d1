"""Slices out of the store against a plain memory copy, and against the libraries that read cases otherwise.

One slice of all modalities as float32 is the unit. ``store, first time`` reads the memory map and normalises, ``store,
kept`` has the slice in the cache of ``--cache-gb``; ``memory copy`` copies the same bytes. The peers give slices of the
uncropped grid, and so move more bytes: their own memory copy stands beside them. Without ``--data``, phantoms are made.
A second table holds preparing a case against decompressing its files; a third lists bytes held per case.
"""

from __future__ import annotations

import gzip
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from ratios import cases_or_phantoms, compare, parser, show, write_json

from metaseg.cases.case import Case
from metaseg.store.prepare import build_store, common_modalities
from metaseg.store.prepare_case import PrepareOptions
from metaseg.store.stored_case import StoredCase, share_cache

DRAWS = 50
"""Slices of one timed call of the fast sides."""

LIMIT = 2.0
"""What a slice of the store may cost, in memory copies of the same bytes."""


def draws(count: int, number: int = DRAWS) -> list[int]:
    """Slices in an order that no read-ahead can guess; those in the middle, which are drawn, not the empty ends."""
    return np.random.default_rng(0).integers(count // 4, 3 * count // 4, number).tolist()


def repeated(read: Callable[[int], object], order: list[int]) -> Callable[[], None]:
    """A call that reads all slices of an order."""

    def call() -> None:
        for index in order:
            read(index)

    return call


def store_sides(case: StoredCase, folder: Path) -> dict[str, Callable[[], None]]:
    """The store with and without cache, and the memory copy and a half-precision map beside it."""
    ready = case.images(slice(None))
    half_file = folder / "half.npy"
    np.save(half_file, ready.astype(np.float16))
    half = np.load(half_file, mmap_mode="r")
    order, kept = draws(case.num_slices), StoredCase(case.folder)
    share_cache([kept], 10.0)
    return {
        "memory copy": repeated(lambda index: ready[index].copy(), order),
        "store, first time": repeated(lambda index: case.images([index]), order),
        "store, kept": repeated(lambda index: kept.images([index]), order),
        "float16 memory map": repeated(lambda index: half[index].astype(np.float32), order),
    }


def monai_sides(case: Case, folder: Path) -> tuple[dict[str, Callable[[], object]], dict[str, float], int]:
    """MONAI's three ways to the same slices: sides, slices of a call of each, and bytes that CacheDataset holds."""
    from monai.data import CacheDataset, PersistentDataset
    from monai.transforms import (
        Compose,
        ConcatItemsd,
        DeleteItemsd,
        EnsureChannelFirstd,
        LoadImaged,
        NormalizeIntensityd,
    )

    names = list(case.images)
    load = Compose(
        [
            LoadImaged([*names, "label"]),
            EnsureChannelFirstd([*names, "label"]),
            ConcatItemsd(names, "image"),
            DeleteItemsd(names),
            NormalizeIntensityd("image", nonzero=True, channel_wise=True),
        ]
    )
    record = {name: str(volume.files[0]) for name, volume in case.images.items()}
    record["label"] = str(case.label.files[0]) if case.label else ""
    cached = CacheDataset([record], load, progress=False, copy_cache=False)
    persistent = PersistentDataset([record], load, cache_dir=folder / "persistent")
    image = cached[0]["image"]
    order = draws(image.shape[-1])

    def one_slice(item: dict) -> object:
        return item["image"][..., order[0]].contiguous()

    sides: dict[str, Callable[[], object]] = {
        "CacheDataset": repeated(lambda index: cached[0]["image"][..., index].contiguous(), order),
        "PersistentDataset": lambda: one_slice(persistent[0]),
        "LoadImaged": lambda: one_slice(load(record)),
        "nibabel, slice of .nii.gz": lambda: nibabel_slice(case, order[0]),
    }
    held = sum(value.nbytes for key, value in cached[0].items() if hasattr(value, "nbytes"))
    return sides, {"CacheDataset": len(order)}, int(held)


def nibabel_slice(case: Case, index: int) -> None:
    """The same slice of every modality through nibabel's proxies."""
    for volume in case.images.values():
        np.asarray(nib.load(volume.files[0]).dataobj[..., index], dtype=np.float32)


def build_sides(cases: list[Case], options: PrepareOptions, folder: Path) -> dict[str, Callable[[], None]]:
    """Preparing a case with one thread, and decompressing its files."""
    files = [path for path in cases[0].files if path.suffix == ".gz"]

    def build() -> None:
        shutil.rmtree(folder / "built", ignore_errors=True)
        build_store(cases[:1], folder / "built", options, jobs=1)

    def decompress() -> None:
        for path in files:
            gzip.decompress(path.read_bytes())

    return {"decompression": decompress, "preparing": build}


def main() -> None:
    """Print the tables."""
    options = parser(__doc__, rounds=5)
    options.add_argument("--data", type=Path, help="folder of cases with labels, as .nii.gz")
    options.add_argument("--no-peers", action="store_true", help="omit the slow sides")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        cases = cases_or_phantoms(chosen.data, folder, 1)
        prepare = PrepareOptions(common_modalities(cases))
        stored = build_store(cases, folder / "store", prepare, jobs=1).cases[0]
        fast = store_sides(stored, folder)
        limits = {"store, first time": LIMIT, "store, kept": LIMIT}
        tables = {
            "slice": compare(fast, chosen.rounds, clock="cpu", limits=limits, scale=dict.fromkeys(fast, DRAWS)),
            "build": compare(
                build_sides(cases, prepare, folder), chosen.rounds, clock="cpu", limits={"preparing": 2.0}
            ),
        }
        held = {"store, file pages (shared, given back under pressure)": stored.raw_images.nbytes}
        if stored.info.labelled:
            held["store, file pages"] = held.pop(next(iter(held))) + stored.raw_label.nbytes
        held["store, 25 kept slices"] = 25 * stored.images([0]).nbytes
        if not chosen.no_peers:
            peers, scale, held["CacheDataset"] = monai_sides(cases[0], folder)
            sides = {name: fast[name] for name in ("store, first time", "store, kept")} | peers
            scale |= {"store, first time": DRAWS, "store, kept": DRAWS}
            rows = compare(sides, max(3, chosen.rounds // 2), clock="cpu", scale=scale, limits={"LoadImaged": 500.0})
            tables["peers"] = rows
        show(f"one slice {stored.images([0]).shape[1:]} to float32, CPU time", tables["slice"])
        if "peers" in tables:
            show("peers, in slices of the store read for the first time", tables["peers"])
        show("preparing one case, CPU time", tables["build"])
        print("\nheld per case")
        for name, size in held.items():
            print(f"{name:<24} {size / 1e6:8.1f} MB")
        settings = {"data": chosen.data, "rounds": chosen.rounds, "shape": stored.info.shape, "held": held}
        write_json(chosen.json, settings, tables)


if __name__ == "__main__":
    main()
