from __future__ import annotations

import pytest

import metaseg


@pytest.fixture(scope="session")
def pretrained(write_cases, tmp_path_factory):
    """A small network that has learned a little of the source: run folder, source folder, target folder, cache."""
    root = tmp_path_factory.mktemp("adapt")
    source, target = write_cases("HGG", 5), write_cases("MET", 5, centre=0.35)
    run = metaseg.pretrain(
        data=source,
        cache=root / "cache",
        out=root / "pre",
        epochs=6,
        slices_per_epoch=64,
        validate_every=6,
        learning_rate=0.01,
        augment="none",
        ema=0,
        val_fraction=0.4,
        model_options={"channels": [8, 16], "strides": [2]},
        jobs=1,
    )
    return {"from_run": run.run, "data": target, "cache": root / "cache", "jobs": 1}
