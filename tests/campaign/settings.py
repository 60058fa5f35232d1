"""Kind A: a study that mixes numbers, because a setting changed on the way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from campaign.bench import Bench
from campaign.trial import Result, Trial, Words

CHANGED: dict[str, tuple[str, tuple[tuple[str, object], ...]]] = {
    "pretrain": ("stopped", (
        ("epochs", 5), ("slices-per-epoch", 8), ("batch-size", 2), ("foreground-share", 0.5), ("optimizer", "sgd"), ("learning-rate", 0.002),
        ("weight-decay", 0.1), ("schedule", "cosine"), ("warmup-steps", 1), ("clip-norm", 1), ("ema", 0.5), ("recall-weight", 0.5),
        ("augment", "none"), ("window", "16,16"), ("validate-every", 2), ("patience", 3), ("seed", 1), ("val-share", 0.5), ("model", "dynunet"),
        ("model-options", '{"channels": [4, 16], "strides": [2]}'), ("labels", "whole-lesion"), ("modalities", "flair,t1ce"), ("classes", "HGG"),
        ("image-size", 16), ("label-scheme", "brats"), ("format", "brats"), ("train-part", "test"), ("precision", "bf16-mixed"), ("weights", "imagenet"),
    )),
    "naivetune": ("stopped_tuning", (
        ("method", "l2-sp"), ("shots", 1), ("slices", 2), ("budget", 20), ("marks", 2), ("seed", 1), ("learning-rate", 0.1), ("batch-size", 2),
        ("optimizer", "sgd"), ("schedule", "cosine"), ("interpolation", 0.5), ("ema", 0.5), ("recall-weight", 0.5), ("augment", "light"),
        ("watch-cases", 1), ("clip-norm", 1), ("ewc-lambda", 5), ("replay-fraction", 0.5), ("lora-rank", 2), ("labels", "whole-lesion"),
    )),
    "metatune": ("stopped_meta", (
        ("method", "reptile"), ("order", "active"), ("threshold", "otsu"), ("inner-steps", 2), ("inner-learning-rate", 0.1), ("outer-learning-rate", 0.1),
        ("outer-optimizer", "sgd"), ("outer-schedule", "cosine"), ("first-order", None), ("tasks-per-step", 2), ("rescore-every", 1),
        ("rescore-tolerance", 0.5), ("support-size", 2), ("query-size", 2), ("replay", "added"), ("multi-step-loss", None), ("first-order-share", 0.5),
        ("learned-inner-rates", None), ("seed", 3),
    )),
    "classify train": ("stopped_classifier", (
        ("transfer", "freeze"), ("transfer", "gradual-unfreeze"), ("model", "2d-cnn"), ("head", "dense"), ("optimizer", "sgd"), ("momentum", 0.5),
        ("learning-rate", 0.1), ("head-factor", 2), ("bias-factor", 2), ("weight-decay", 0.5), ("schedule", "cosine"), ("gamma", 0.5),
        ("batch-size", 4), ("epochs", 5), ("balance", None), ("augment", "full"), ("monitor", "f1"), ("seed", 1), ("copies", "near"),
        ("classes", "meningioma,glioma"), ("slice-choice", "random"), ("input-size", 32), ("unfreeze-target", 0.5), ("validate-every", 2), ("patience", 1),
    )),
    "classify active": ("asking", (
        ("acquisition", "random"), ("acquisition", "entropy"), ("acquisition", "aift"), ("transfer", "freeze"), ("initial", 4), ("batch", 4), ("budget", 8),
        ("rounds", 2), ("stop-at", 0.9), ("seed", 1), ("learning-rate", 0.1), ("epochs", 3), ("model", "2d-cnn"), ("classes", "meningioma,glioma"),
        ("monitor", "f1"), ("copies", "near"),
    )),
}  # fmt: skip
"""Options with values other than those of the run, by verb."""
FREE: dict[str, tuple[tuple[object, ...], ...]] = {
    "pretrain": (("--jobs", 2), ("--cache-gb", 0.25)),
    "naivetune": (("--jobs", 2), ("--pictures",)),
    "classify train": (("--jobs", 2),),
}


def resumed() -> Iterator[Trial]:
    for verb, (asset, changes) in CHANGED.items():
        for name, value in changes:

            def use(
                bench: Bench, verb: str = verb, asset: str = asset, name: str = name, value: object = value
            ) -> Words:
                run = bench.copy(getattr(bench.assets, asset), "run")
                if verb == "classify active":
                    fill(bench.assets.root / "asking.csv", bench.place / "asking.csv")
                return *verb.split(), "--out", run, "--resume", f"--{name}", *(() if value is None else (value,))

            shown = "" if value is None else f" {value}"
            yield Trial("A", f"{verb} --resume --{name}{shown}", use, "refused", (name.replace("-", "[-_]"),))
        for options in FREE.get(verb, ()):

            def free(bench: Bench, verb: str = verb, asset: str = asset, options: Words = options) -> Words:
                return *verb.split(), "--out", bench.copy(getattr(bench.assets, asset), "run"), "--resume", *options

            def untouched(bench: Bench, verb: str = verb, asset: str = asset) -> Words:
                return *verb.split(), "--out", bench.copy(getattr(bench.assets, asset), "run"), "--resume"

            yield Trial(
                "A", f"{verb} --resume {options[0]}, which is free", free, "same", like=untouched, metrics=best, tolerance=1e-6,
            )  # fmt: skip


def fill(wanted: Path, target: Path) -> None:
    """Answer all that an annotator was asked."""
    target.write_text(wanted.read_text())


def best(result: Result) -> dict[str, float]:
    return json.loads((result.place / "run" / "state.json").read_text())["metrics"]


STUDY = """shared: {{data: {data}, model: lau-cnn, input_size: 16, epochs: 1, copies: identical, batch: 2, budget: 4, initial: 2}}
entries:
  one: {{verb: active, acquisition: margin}}
  two: {{verb: active, acquisition: entropy}}
seeds: 1
threads: 1
resamples: 100
"""
EDITS: dict[str, tuple[str, str]] = {
    "the strategy": ("acquisition: margin", "acquisition: random"),
    "the epochs": ("epochs: 1", "epochs: 2"),
    "the budget": ("budget: 4", "budget: 6"),
    "the transfer": ("acquisition: margin", "acquisition: margin, transfer: freeze"),
    "the labels of entries": ("one: {{verb: active, acquisition: margin}}\n  two: {{verb: active, acquisition: entropy}}", "two: {{verb: active, acquisition: margin}}\n  one: {{verb: active, acquisition: entropy}}"),
}  # fmt: skip


def studies() -> Iterator[Trial]:
    """An entry that was edited: refused, or computed anew; never the old metrics under the new label."""

    def first(bench: Bench, name: str = "study.yaml") -> None:
        from campaign.runner import run

        (bench.place / name).write_text(STUDY.format(data=bench.assets.good("image-folder", 8)))
        run(("classify", "compare", name, "--out", "study"), bench.assets, bench.place)

    def entries(result: Result) -> dict[str, float]:
        """Metrics by entry of a study's table."""
        import pandas as pd

        (table,) = list((result.place / "study").glob("summary.csv"))[:1]
        frame = pd.read_csv(table)
        numbers = frame.select_dtypes("number").columns
        label = next(name for name in ("entry", "label", "method") if name in frame)
        return {
            f"{one}/{column}": float(value)
            for one, rows in frame.groupby(label)
            for column, value in rows[numbers].sum().items()
            if "second" not in column
        }

    for name, (old, new) in EDITS.items():

        def edited(bench: Bench, old: str = old, new: str = new) -> Words:
            first(bench)
            text = STUDY.replace(old, new).format(data=bench.assets.good("image-folder", 8))
            (bench.place / "study.yaml").write_text(text)
            return "classify", "compare", "study.yaml", "--out", "study"

        def fresh(bench: Bench, old: str = old, new: str = new) -> Words:
            text = STUDY.replace(old, new).format(data=bench.assets.good("image-folder", 8))
            (bench.place / "study.yaml").write_text(text)
            return "classify", "compare", "study.yaml", "--out", "study"

        # A new cell, with the metrics of a study that never knew the old entry.
        name = f"classify compare with an edit of {name}"
        yield Trial("A", name, edited, "same", like=fresh, metrics=entries, tolerance=1e-9, slow=True)

    def searched(bench: Bench) -> Words:
        from campaign.runner import run

        text = "shared: {{data: {data}, model: lau-cnn, input_size: 16, epochs: 1, copies: identical, transfer: {strategy}}}\ntrials: 1\nthreads: 1\nspace: {{learning_rate: [0.01, 0.001]}}\n"
        data = bench.assets.good("image-folder", 8)
        (bench.place / "search.yaml").write_text(text.format(data=data, strategy="scratch"))
        run(("classify", "search", "search.yaml", "--out", "study"), bench.assets, bench.place)
        (bench.place / "search.yaml").write_text(text.format(data=data, strategy="finetune"))
        return "classify", "search", "search.yaml", "--out", "study"

    yield Trial(
        "A",
        "classify search with another strategy",
        searched,
        "refused",
        ("transfer|settings|study",),
        may_leave=True,
        slow=True,
    )


TRIALS = [*resumed(), *studies()]
