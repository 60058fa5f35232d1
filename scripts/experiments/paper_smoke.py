"""Run a paper's comparison of classifiers from end to end in minutes: small pictures, few epochs, one seed.

Usage: paper_smoke.py CONFIG OUT [--base DATA]

What it shows is that every entry runs and that the table stands beside the paper's, never how good a method is. Where
an entry needs ImageNet weights, which cannot be had everywhere, a base is trained for a moment on other pictures
(--base, a folder of classified images) or the network starts from random weights.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import yaml

import metaseg

SMALL = {"input_size": 64, "epochs": 2, "unfreeze_epochs": 1, "slices_per_case": [4], "batch_size": 16}
FEW = {"batch": 20, "budget": 60, "later_epochs": 1, "patches": 6}


def base_of(model: str, head: str, data: str, out: Path) -> str:
    """A network that has seen a few pictures of another set."""
    run = out / f"base-{model}-{head}"
    if not (run / "result.json").exists():
        few = {"input_size": 64, "epochs": 1, "slices_per_case": [2], "transfer": "scratch", "test": False}
        metaseg.classify_train(data=data, model=model, head=head, out=run, overwrite=run.exists(), **few)
    return str(run)


def small(entry: dict[str, Any], shared: dict[str, Any], base: str | None, out: Path) -> dict[str, Any]:
    """An entry with everything small, and weights that are at hand."""
    merged = {**shared, **entry}
    entry = {
        **entry,
        **{key: value for key, value in SMALL.items() if key in merged or key in ("input_size", "epochs")},
    }
    if merged.get("verb") == "active":
        shares = {key for key in ("initial", "batch", "budget") if 0 < float(merged.get(key, 0)) <= 1}
        entry |= {key: value for key, value in FEW.items() if key not in shares}
    if merged.get("weights") == "imagenet":
        if base is not None:
            entry["weights"] = base_of(str(merged["model"]), str(merged.get("head", "linear")), base, out)
        else:
            entry["weights"] = "none"
            if merged.get("transfer") in ("freeze", "gradual-unfreeze", "finetune") and merged.get("verb") != "active":
                entry["transfer"] = "finetune"
    return entry


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--base")
    given = parser.parse_args()
    study = yaml.safe_load(given.config.read_text(encoding="utf-8"))
    given.out.mkdir(parents=True, exist_ok=True)
    study["entries"] = {
        label: small(entry, study["shared"], given.base, given.out) for label, entry in study["entries"].items()
    }
    file = given.out / f"{given.config.stem}.yaml"
    file.write_text(yaml.safe_dump(study | {"seeds": 1, "out": str(given.out / "study")}, sort_keys=False))
    metaseg.classify_compare(config=file)


if __name__ == "__main__":
    main()
