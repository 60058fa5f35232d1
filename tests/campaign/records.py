"""Kind I: files of metaseg's own that are damaged or of the wrong shape, and arguments that no library takes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from campaign.bench import Bench, short
from campaign.trial import Trial, Words

Damage = Callable[[Path], None]


def text(content: str) -> Damage:
    return lambda path: path.write_text(content) and None


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def set_key(key: str, value: object) -> Damage:
    """A damage: one entry of a JSON object."""

    def spoil(path: Path) -> None:
        content = json.loads(path.read_text())
        *outer, last = key.split("/")
        inner = content
        for name in outer:
            inner = inner[name]
        inner[last] = value
        path.write_text(json.dumps(content))

    return spoil


SHAPES: dict[str, Damage] = {
    "empty": text(""),
    "cut off": cut,
    "a list": text("[1, 2]"),
    "a number": text("7"),
    "null": text("null"),
    "invalid UTF-8": lambda path: path.write_bytes(b'{"a": "\xff\xfe"}') and None,
    "zeros": lambda path: path.write_bytes(bytes(300)) and None,
    "deep": text("[" * 100_000),
    "deep object": text('{"a":' * 50_000),
    "an empty object": text("{}"),
}


def using(verb: str, run: Path, bench: Bench) -> Words:
    """A command that reads a run of segmentation, or of classification."""
    data = bench.assets.good("brats2023", 1)
    return {
        "runs": ("runs", bench.place),
        "predict": ("predict", run, data, "--out", "pred", "--no-pictures"),
        "evaluate": ("evaluate", run, "--data", data, "--out", "out", "--no-surface", "--pictures", 0),
        "report": ("report", run, "--out", "report.html", "--no-figures"),
        "resume pretrain": ("pretrain", "--out", run, "--resume"),
        "resume naivetune": ("naivetune", "--out", run, "--resume"),
        "resume metatune": ("metatune", "--out", run, "--resume"),
        "resume classify train": ("classify", "train", "--out", run, "--resume"),
        "resume classify active": ("classify", "active", "--out", run, "--resume"),
        "naivetune": ("naivetune", "--from", run, *short(bench, "naivetune")[2:]),
        "classify predict": ("classify", "predict", run, bench.assets.good("image-folder", 6), "--out", "pred", "--pictures", 0),
        "classify evaluate": ("classify", "evaluate", run, "--out", "out", "--pictures", 0),
    }[verb]  # fmt: skip


READ_BY: tuple[tuple[str, str, str], ...] = (
    ("pretrained", "state.json", "runs"),
    ("pretrained", "state.json", "predict"),
    ("pretrained", "state.json", "report"),
    ("pretrained", "state.json", "resume pretrain"),
    ("pretrained", "config.yaml", "resume pretrain"),
    ("pretrained", "config.yaml", "report"),
    ("pretrained", "patients.json", "evaluate"),
    ("pretrained", "patients.json", "naivetune"),
    ("pretrained", "checkpoints/best.json", "predict"),
    ("pretrained", "checkpoints/best.json", "evaluate"),
    ("tuned", "state.json", "report"),
    ("tuned", "config.yaml", "resume naivetune"),
    ("tuned", "patients.json", "evaluate"),
    ("tuned", "checkpoints/last.json", "predict"),
    ("classifier", "split.json", "classify evaluate"),
    ("classifier", "config.yaml", "classify evaluate"),
    ("classifier", "checkpoints/best.json", "classify predict"),
    ("asking", "state.json", "resume classify active"),
    ("asking", "config.yaml", "resume classify active"),
    ("asking", "split.json", "resume classify active"),
)
"""Which run's file spoils which command."""

TOLERATED = {("config.yaml", "an empty object"), ("config.yaml", "deep")}


def run_files() -> Iterator[Trial]:
    for number, (asset, file, verb) in enumerate(READ_BY):
        names = list(SHAPES)
        chosen = names if number % 5 == 0 else names[number % 3 :: 2]
        for shape in chosen:

            def use(bench: Bench, asset: str = asset, file: str = file, verb: str = verb, shape: str = shape) -> Words:
                run = bench.copy(getattr(bench.assets, asset), "net")
                assert (run / file).exists(), file
                SHAPES[shape](run / file)
                return using(verb, run, bench)

            # A list of runs goes on past a bad one, and says so; what training saw may be unknown, and that is said.
            outcome = "told" if verb in ("runs", "report") or file == "patients.json" else "refused"
            names = ("damaged",) if verb == "runs" else (Path(file).name,)
            yield Trial(
                "I", f"{asset}'s {file} {shape}, {verb}", use, outcome, names, may_leave=outcome == "told", listed=verb == "runs"
            )  # fmt: skip


ENTRIES: tuple[tuple[str, str, str, str, object], ...] = (
    ("pretrained", "state.json", "runs", "status", "dreaming"),
    ("pretrained", "state.json", "runs", "status", 7),
    ("pretrained", "state.json", "runs", "metrics", "[red]none"),
    ("pretrained", "state.json", "runs", "metrics", [1, 2]),
    ("pretrained", "state.json", "runs", "stages", "many"),
    ("pretrained", "state.json", "runs", "stages", {"a": 5}),
    ("pretrained", "state.json", "runs", "verb", 12),
    ("pretrained", "state.json", "report", "metrics", "high"),
    ("pretrained", "checkpoints/best.json", "predict", "in_channels", 10**9),
    ("pretrained", "checkpoints/best.json", "predict", "in_channels", -4),
    ("pretrained", "checkpoints/best.json", "predict", "in_channels", "four"),
    ("pretrained", "checkpoints/best.json", "predict", "num_classes", 0),
    ("pretrained", "checkpoints/best.json", "predict", "num_classes", 10**8),
    ("pretrained", "checkpoints/best.json", "predict", "num_classes", 2),
    ("pretrained", "checkpoints/best.json", "predict", "label_space", "whole"),
    ("pretrained", "checkpoints/best.json", "predict", "label_space", None),
    ("pretrained", "checkpoints/best.json", "predict", "modalities", ["flair", "t1", "t1ce"]),
    ("pretrained", "checkpoints/best.json", "predict", "modalities", "flair"),
    ("pretrained", "checkpoints/best.json", "predict", "modalities", ["t1", "t1", "t1", "t1"]),
    ("pretrained", "checkpoints/best.json", "predict", "modalities", [1, 2, 3, 4]),
    ("pretrained", "checkpoints/best.json", "predict", "options", {"channels": [10**7, 10**7], "strides": [2]}),
    ("pretrained", "checkpoints/best.json", "predict", "options", {"channels": [4, 8], "strides": [0]}),
    ("pretrained", "checkpoints/best.json", "predict", "options", {"colour": "red"}),
    ("pretrained", "checkpoints/best.json", "predict", "options", ["channels"]),
    ("pretrained", "checkpoints/best.json", "predict", "name", "../../etc/passwd"),
    ("pretrained", "checkpoints/best.json", "predict", "normalisation", {"image_size": -3}),
    ("pretrained", "checkpoints/best.json", "predict", "normalisation", {"image_size": "big"}),
    ("pretrained", "checkpoints/best.json", "predict", "normalisation", "z-score"),
    ("pretrained", "checkpoints/best.json", "evaluate", "trained_on", "HGG"),
    ("pretrained", "checkpoints/best.json", "evaluate", "parent", 5),
    ("pretrained", "patients.json", "evaluate", "train", {"a": 1}),
    ("pretrained", "patients.json", "evaluate", "train", "everyone"),
    ("pretrained", "patients.json", "evaluate", "train", ["P1", "P2"]),
    ("pretrained", "patients.json", "evaluate", "train", [{"case": "a"}]),
    ("pretrained", "patients.json", "evaluate", "train", [{"patient": 5, "case": 5}]),
    ("tuned", "patients.json", "evaluate", "inherited", [[]]),
    ("classifier", "checkpoints/best.json", "classify predict", "classes", []),
    ("classifier", "checkpoints/best.json", "classify predict", "classes", ["glioma", "glioma"]),
    ("classifier", "checkpoints/best.json", "classify predict", "classes", ["a", "b", "c"]),
    ("classifier", "checkpoints/best.json", "classify predict", "input_size", -16),
    ("classifier", "checkpoints/best.json", "classify predict", "input_size", 10**7),
    ("classifier", "checkpoints/best.json", "classify predict", "input_size", "16"),
)  # fmt: skip


def run_entries() -> Iterator[Trial]:
    for asset, file, verb, key, value in ENTRIES:

        def use(
            bench: Bench, asset: str = asset, file: str = file, verb: str = verb, key: str = key, value: object = value
        ) -> Words:
            run = bench.copy(getattr(bench.assets, asset), "net")
            set_key(key, value)(run / file)
            return using(verb, run, bench)

        outcome = "told" if verb in ("runs", "report") else "refused"
        names = ("damaged",) if verb == "runs" else (Path(file).name,)
        yield Trial(
            "I", f"{file}: {key} is {str(value)[:30]}, {verb}", use, outcome, names, may_leave=verb == "report", listed=verb == "runs"
        )  # fmt: skip


def tables() -> Iterator[Trial]:
    for file in ("metrics.csv", "marks.csv"):
        for name, content in (
            ("zeros", bytes(200)),
            ("words", b"step,loss\none,high\n"),
            ("binary", b"\xff\xfe\x00\x01"),
        ):

            def use(bench: Bench, file: str = file, content: bytes = content) -> Words:
                run = bench.copy(bench.assets.tuned, "run")
                (run / file).write_bytes(content)
                return "report", run, "--out", "report.html", "--no-figures"

            yield Trial("I", f"{file} of {name}, report", use, "told", (file,), may_leave=True)


def stores() -> Iterator[Trial]:
    def spoiled(bench: Bench, damage: Damage, file: str) -> Path:
        store = bench.copy(bench.assets.store, "store")
        damage(sorted(store.rglob(file))[0])
        return store

    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0x40
        path.write_bytes(bytes(content))

    def nine(path: Path) -> None:
        array = np.load(path)
        array.flat[array.size // 2] = 9
        np.save(path, array)

    def other_shape(path: Path) -> None:
        np.save(path, np.load(path)[..., :-1])

    def other_type(path: Path) -> None:
        np.save(path, np.load(path).astype(np.float64))

    def pickled(path: Path) -> None:
        np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)

    damages: list[tuple[str, str, Damage]] = [
        *(("case.json", name, SHAPES[name]) for name in ("empty", "cut off", "a list", "deep", "invalid UTF-8", "an empty object")),
        ("case.json", "without modalities", set_key("modalities", [])),
        ("case.json", "with a mean of text", set_key("mean", "high")),
        ("case.json", "with a mean of NaN", set_key("mean", [float("nan")] * 4)),
        ("case.json", "with another patient", set_key("patient", 7)),
        *(("images.npy", name, damage) for name, damage in (
            ("cut off", cut), ("bit rot", flip), ("of another shape", other_shape), ("of another type", other_type),
            ("pickled", pickled), ("zeros", lambda path: path.write_bytes(bytes(path.stat().st_size)) and None),
        )),
        *(("label.npy", name, damage) for name, damage in (("cut off", cut), ("bit rot", flip), ("with a 9", nine), ("of another shape", other_shape))),
    ]  # fmt: skip
    for file, name, damage in damages:
        for verb in ("evaluate", "pretrain", "check"):

            def use(bench: Bench, file: str = file, damage: Damage = damage, verb: str = verb) -> Words:
                store = spoiled(bench, damage, file)
                return {
                    "evaluate": (
                        "evaluate",
                        bench.assets.pretrained,
                        "--data",
                        store,
                        "--out",
                        "out",
                        "--include-training",
                    ),
                    "pretrain": ("pretrain", "--data", store, *short(bench, "pretrain")[2:]),
                    "check": ("data", "check", store, "--json"),
                }[verb]

            yield Trial(
                "I",
                f"stored {file} {name}, {verb}",
                use,
                "refused",
                (f"Brats18_X_0_1|{file}",),
                may_leave=verb != "check",
            )

    def gone(bench: Bench) -> Words:
        store = bench.copy(bench.assets.store, "store")
        sorted(store.rglob("images.npy"))[0].unlink()
        return "pretrain", "--data", store, *short(bench, "pretrain")[2:]

    yield Trial("I", "stored images gone, pretrain", gone, "refused", ("Brats18_X_0_1|images.npy",))


TRIALS = [*run_files(), *run_entries(), *tables(), *stores()]
