"""Kind B: numbers that are not finite, in files, weights, options and losses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from hashlib import blake2b
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file

from campaign.bench import CLASSIFIER, SHORT, TUNED, Bench, short
from campaign.layouts import first_image, first_label, picture, write_mat
from campaign.trial import Trial, Words

VOLUMES = {"brats": "Brats18_X_0_1", "brats2023": "BraTS-MET-00001-000", "nnunet": "P0", "decathlon": "BRATS_000"}


def voxel(value: float) -> Callable[[Path], None]:
    """A damage: one voxel of a float64 file is ``value``."""

    def spoil(path: Path) -> None:
        image = nib.load(path)
        array = np.asarray(image.dataobj).astype(np.float64)
        array[(8, 9, 4, 2)[: array.ndim]] = value
        nib.save(nib.Nifti1Image(array, image.affine), path)

    return spoil


def scaled(slope: float, intercept: float) -> Callable[[Path], None]:
    """A damage: the header's scaling."""

    def spoil(path: Path) -> None:
        image = nib.load(path)
        array = np.asarray(image.dataobj).astype(np.int16)
        plain = path.with_name("plain.nii")
        nib.save(nib.Nifti1Image(array, image.affine), plain)
        content = bytearray(plain.read_bytes())
        content[112:120] = np.array([slope, intercept], "<f4").tobytes()
        plain.unlink()
        path.unlink()
        path.write_bytes(bytes(content))

    return spoil


DAMAGES: dict[str, Callable[[Path], None]] = {
    "1e300": voxel(1e300),
    "largest float32": voxel(3.4e38),
    "nan": voxel(np.nan),
    "inf": voxel(np.inf),
    "minus inf": voxel(-np.inf),
    "-1e200": voxel(-1e200),
    "slope 1e38": scaled(1e38, 0),
    "slope inf": scaled(np.inf, 0),
    "intercept inf": scaled(1, np.inf),
    "intercept nan": scaled(1, np.nan),
}


def images() -> Iterator[Trial]:
    for layout, case in VOLUMES.items():
        for name, damage in DAMAGES.items():

            def check(bench: Bench, layout: str = layout, damage: Callable[[Path], None] = damage) -> Words:
                data = bench.data(layout)
                damage(first_image(layout, data))
                return "data", "check", data, "--json"

            yield Trial("B", f"image {name}, {layout}, check", check, "refused", (case,))
    verbs: dict[str, tuple[object, ...]] = {
        "evaluate": ("--data", "DATA", "--out", "out"),
        "predict": ("DATA", "--out", "pred", "--no-pictures"),
        "pretrain": ("--data", "DATA", "--out", "run", *SHORT),
        "naivetune": ("--data", "DATA", "--out", "run", *TUNED, "--shots", 2),
        "tune": ("--data", "DATA", "--out", "run", *TUNED, "--shots", 2),
        "metatune": ("--data", "DATA", "--out", "run", *TUNED, "--shots", 2),
        "data prepare": ("DATA", "store"),
        "data summary": ("DATA", "--csv", "cases.csv"),
    }
    for verb, options in verbs.items():
        for name in ("1e300", "slope 1e38", "nan", "intercept inf"):
            if name != "1e300" and verb in ("naivetune", "tune"):
                continue

            def use(bench: Bench, verb: str = verb, options: tuple[object, ...] = options, name: str = name) -> Words:
                data = bench.data("brats2023")
                DAMAGES[name](first_image("brats2023", data))
                head = {"evaluate": (bench.assets.pretrained,), "predict": (bench.assets.pretrained,)}.get(verb, ())
                if verb in ("naivetune", "tune", "metatune"):
                    options = ("--from", bench.assets.pretrained, *options)
                return *verb.split(), *head, *(data if word == "DATA" else word for word in options)

            outcome = {"predict": "goes on", "data summary": "told"}.get(verb, "refused")
            leaves = verb in ("evaluate", "data prepare", "data summary")
            yield Trial("B", f"image {name}, {verb}", use, outcome, ("00001-000",), may_leave=leaves)


def one_case() -> Iterator[Trial]:
    for name in ("1e300", "slope 1e38", "inf"):

        def predict(bench: Bench, name: str = name) -> Words:
            data = bench.data("brats", 1)
            DAMAGES[name](first_image("brats", data))
            return "predict", bench.assets.pretrained, data / "HGG" / VOLUMES["brats"], "--out", "pred"

        yield Trial("B", f"the only case {name}, predict", predict, "refused", ("t1ce",))


def labels() -> Iterator[Trial]:
    for value in (np.nan, np.inf, 1e300):
        for verb in ("check", "evaluate", "pretrain"):

            def use(bench: Bench, value: float = value, verb: str = verb) -> Words:
                data = bench.data("brats")
                voxel(value)(first_label("brats", data))
                return {
                    "check": ("data", "check", data, "--json"),
                    "evaluate": ("evaluate", bench.assets.pretrained, "--data", data, "--include-training"),
                    "pretrain": ("pretrain", "--data", data, "--out", "run", *SHORT),
                }[verb] + (("--out", "out") if verb == "evaluate" else ())

            yield Trial("B", f"label {value}, {verb}", use, "refused", ("seg",), may_leave=verb == "evaluate")


def slices() -> Iterator[Trial]:
    for value in (np.nan, np.inf, 1e39, -np.inf):

        def check(bench: Bench, value: float = value) -> Words:
            data = bench.data("cheng-mat")
            grey, mask = picture("glioma", 0)
            array = grey.astype(np.float64)
            array[5, 5] = value
            write_mat(data / "1.mat", array, mask > 0, "G0", 2)
            return "data", "check", data, "--json"

        yield Trial("B", f"mat {value}, check", check, "refused", ("1.mat",))

        def tiff(bench: Bench, value: float = value) -> Words:
            data = bench.data("slices")
            array = picture("glioma", 0)[0].astype(np.float32)
            with np.errstate(over="ignore"):
                array[5, 5] = np.float32(value)
            Image.fromarray(array).save(data / "images" / "glioma0-0.tif")
            (data / "index.csv").write_text(
                (data / "index.csv").read_text().replace("images/glioma0-0.png", "images/glioma0-0.tif")
            )
            return "data", "check", data, "--json"

        yield Trial("B", f"tiff {value}, check", tiff, "refused", ("glioma0-0.tif",))
    for text in ("nan", "inf", "1e400", "-1", "0"):

        def pixel(bench: Bench, text: str = text) -> Words:
            data = bench.data("slices")
            lines = (data / "index.csv").read_text().splitlines()
            (data / "index.csv").write_text(
                "\n".join([lines[0] + ",pixel_mm", *(f"{line},{text}" for line in lines[1:])])
            )
            return "data", "summary", data

        yield Trial("B", f"pixel_mm {text}", pixel, "refused", ("pixel_mm", "index.csv"))
    for name, code in (("nan", np.nan), ("inf", np.inf), ("2.5", 2.5), ("1e300", 1e300)):

        def kind(bench: Bench, code: float = code) -> Words:
            data = bench.data("cheng-mat")
            grey, mask = picture("glioma", 0)
            write_mat(data / "1.mat", grey.astype(np.int16), mask > 0, "G0", code)
            return "data", "check", data, "--json"

        yield Trial("B", f"mat class {name}", kind, "refused", ("1.mat",))


def affines() -> Iterator[Trial]:
    for name, where, value in (
        ("sform nan", (0, 3), np.nan), ("sform inf", (1, 1), np.inf), ("sform 1e38", (2, 2), 1e38), ("offset 1e38", (2, 3), 1e38),
    ):  # fmt: skip
        for verb in ("check", "predict"):

            def use(bench: Bench, where: tuple[int, int] = where, value: float = value, verb: str = verb) -> Words:
                data = bench.data("brats")
                path = first_image("brats", data)
                image = nib.load(path)
                header = image.header.copy()
                array = np.asarray(image.dataobj)
                affine = image.affine.copy()
                affine[where] = value
                header["srow_x"], header["srow_y"], header["srow_z"] = affine[:3]
                header["sform_code"], header["qform_code"] = 1, 0
                nib.save(nib.Nifti1Image(array, None, header), path)
                if verb == "check":
                    return "data", "check", data, "--json"
                return "predict", bench.assets.pretrained, path.parent, "--out", "pred"

            yield Trial("B", f"{name}, {verb}", use, "refused", ("t1ce",))


def spoil_weights(path: Path, value: float, which: int = 0) -> str:
    """Set one weight of a checkpoint; gives the tensor's name."""
    with safe_open(path, "numpy") as file:
        notes = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    names = [name for name in sorted(tensors) if tensors[name].dtype.kind == "f" and tensors[name].size > 1]
    tensors[names[which]].flat[0] = value
    save_file(tensors, path, notes)
    card = json.loads(path.with_suffix(".json").read_text())
    card["weights_blake2b"] = blake2b(path.read_bytes(), digest_size=20).hexdigest()
    path.with_suffix(".json").write_text(json.dumps(card))
    return names[which]


def weights() -> Iterator[Trial]:
    for value in (np.nan, np.inf, -np.inf):
        for verb in ("predict", "evaluate", "naivetune", "metatune", "pretrain", "oracle"):

            def use(bench: Bench, value: float = value, verb: str = verb) -> Words:
                run = bench.copy(bench.assets.pretrained, "net")
                spoil_weights(run / "checkpoints" / "best.safetensors", value)
                data = bench.assets.good("brats2023", 3)
                return {
                    "predict": ("predict", run, data, "--out", "pred"),
                    "evaluate": ("evaluate", run, "--data", data, "--out", "out"),
                    "naivetune": ("naivetune", "--from", run, "--data", data, "--out", "run", *TUNED),
                    "metatune": ("metatune", "--from", run, "--data", data, "--out", "run", *TUNED),
                    "pretrain": ("pretrain", "--weights", run / "checkpoints" / "best.safetensors", "--data", data, "--out", "run", *SHORT),
                    "oracle": ("metatune", "--from", bench.assets.pretrained, "--order", "oracle", "--oracle", run, "--data", data, "--out", "run", *TUNED),
                }[verb]  # fmt: skip

            if verb in ("predict", "evaluate") or np.isnan(value):
                yield Trial("B", f"weight {value}, {verb}", use, "refused", ("best.safetensors",))
    for verb in ("predict", "evaluate", "train"):

        def classify(bench: Bench, verb: str = verb) -> Words:
            run = bench.copy(bench.assets.classifier, "net")
            spoil_weights(run / "checkpoints" / "best.safetensors", np.nan, -1)
            data = bench.assets.good("image-folder", 8)
            return {
                "predict": ("classify", "predict", run, data, "--out", "pred"),
                "evaluate": ("classify", "evaluate", run, "--out", "out"),
                "train": ("classify", "train", "--weights", run, "--data", data, "--out", "run", *CLASSIFIER),
            }[verb]

        yield Trial("B", f"classifier's weight nan, {verb}", classify, "refused", ("best.safetensors",))

    def overflowing(bench: Bench) -> Words:
        run = bench.copy(bench.assets.pretrained, "net")
        for which in range(4):
            spoil_weights(run / "checkpoints" / "best.safetensors", 3e38, which)
        return "predict", run, bench.assets.good("brats2023", 1), "--out", "pred"

    yield Trial("B", "weights whose output overflows, predict", overflowing, "refused", ("not finite|NaN|infinit",))


OPTIONS: dict[str, tuple[str, ...]] = {
    "pretrain": (
        "learning-rate", "weight-decay", "clip-norm", "ema", "foreground-fraction", "recall-weight", "val-fraction", "cache-gb",
    ),
    "naivetune": (
        "learning-rate", "l2-sp-alpha", "l2-sp-beta", "ewc-lambda", "lwf-lambda", "lwf-temperature", "replay-weight",
        "replay-fraction", "transplant-fraction", "interpolation", "ema", "clip-norm",
    ),
    "tune": ("learning-rate", "recall-weight", "replay-weight"),
    "metatune": ("inner-learning-rate", "outer-learning-rate", "rescore-tolerance", "first-order-fraction", "threshold"),
    "classify train": ("learning-rate", "momentum", "head-factor", "bias-factor", "weight-decay", "gamma", "unfreeze-target"),
    "classify active": ("initial", "batch", "budget", "stop-at", "learning-rate"),
}  # fmt: skip
"""Options that take a number, by verb."""


def options() -> Iterator[Trial]:
    for verb, names in OPTIONS.items():
        for position, name in enumerate(names):
            for text in ("nan", "inf", "1e400", "-inf")[position % 2 :: 2]:

                def use(bench: Bench, verb: str = verb, name: str = name, text: str = text) -> Words:
                    return *verb.split(), *short(bench, verb), f"--{name}={text}"

                yield Trial("B", f"{verb} --{name} {text}", use, "refused", (name.replace("-", "[-_]"),))
    for verb, name, text in (
        ("pretrain", "learning_rate", ".nan"), ("pretrain", "learning_rate", "1e400"), ("pretrain", "ema", ".inf"),
        ("pretrain", "clip_norm", ".inf"), ("metatune", "inner_learning_rate", ".inf"), ("naivetune", "ewc_lambda", ".nan"),
        ("classify train", "head_factor", ".inf"), ("classify active", "budget", ".inf"),
    ):  # fmt: skip

        def file(bench: Bench, verb: str = verb, name: str = name, text: str = text) -> Words:
            (bench.place / "settings.yaml").write_text(f"{name}: {text}\n")
            return *verb.split(), *short(bench, verb), "--config", "settings.yaml"

        yield Trial("B", f"YAML {verb} {name} {text}", file, "refused", (name.replace("_", "[-_]"),))
    for text in (
        "train=nan,test=0.5",
        "train=inf,test=1",
        "train=1e400,test=0.1",
        "train=-0.5,test=1.5",
        "train=0,test=1",
    ):
        yield Trial(
            "B", f"data split --parts {text}", lambda bench, text=text: ("data", "split", bench.data(), "--parts", text),
            "refused", ("parts",),
        )  # fmt: skip
    for text in ('{"dropout": NaN}', '{"dropout": Infinity}', '{"dropout": 1e400}', '{"channels": [4, 1e400]}'):
        yield Trial(
            "B", f"--model-options {text}",
            lambda bench, text=text: ("pretrain", "--data", bench.data(), "--model-options", text, "--out", "run", "--epochs", 1),
            "refused", ("model.options",),
        )  # fmt: skip


def studies() -> Iterator[Trial]:
    yamls = {
        "compare shared": ("compare", "shared: {learning_rate: .inf}\nmethods: {naive: {}}\ntargets: {met: {data: DATA}}\nfrom: NET"),
        "compare entry": ("compare", "methods: {naive: {learning_rate: .nan}}\ntargets: {met: {data: DATA}}\nfrom: NET"),
        "compare pretrain": ("compare", "methods: {naive: {}}\ntargets: {met: {data: DATA}}\npretrain: {learning_rate: 1.0e+400}"),
        "classify compare entry": ("classify compare", "entries: {a: {learning_rate: .nan}, b: {}}\nshared: {data: DATA}"),
        "classify search low": ("classify search", "space: {learning_rate: {low: .nan, high: 1e-2, log: true}}\nshared: {data: DATA}"),
        "classify search high": ("classify search", "space: {weight_decay: {low: 0.1, high: .inf}}\nshared: {data: DATA}"),
        "classify search list": ("classify search", "space: {learning_rate: [1e-3, .inf]}\nshared: {data: DATA}"),
    }  # fmt: skip
    for name, (verb, text) in yamls.items():

        def study(bench: Bench, verb: str = verb, text: str = text) -> Words:
            layout = "brats2023" if verb == "compare" else "image-folder"
            data = bench.assets.good(layout, 3 if verb == "compare" else 8)
            text = text.replace("DATA", str(data)).replace("NET", str(bench.assets.pretrained))
            (bench.place / "study.yaml").write_text(text + "\n")
            return *verb.split(), "study.yaml", "--dry-run"

        yield Trial("B", f"{name}, not finite", study, "refused", ("finite|nan|inf",))


def losses() -> Iterator[Trial]:
    for rate in ("1e30", "1e38"):

        def pretrain(bench: Bench, rate: str = rate) -> Words:
            options = ("--learning-rate", rate, "--warmup-steps", 0, "--optimizer", "sgd", "--clip-norm", 0)
            return "pretrain", "--data", bench.data(), "--out", "run", *SHORT, *options

        yield Trial("B", f"the last step of pretrain at {rate}", pretrain, "refused", ("finite",), may_leave=True)

        def naive(bench: Bench, rate: str = rate) -> Words:
            options = ("--learning-rate", rate, "--optimizer", "sgd", "--clip-norm", 0)
            data = bench.assets.good("brats2023", 3)
            return "naivetune", "--from", bench.assets.pretrained, "--data", data, "--out", "run", *TUNED, *options

        yield Trial("B", f"the last step of naivetune at {rate}", naive, "refused", ("finite",), may_leave=True)

        def meta(bench: Bench, rate: str = rate) -> Words:
            options = (
                "--outer-learning-rate",
                rate,
                "--outer-optimizer",
                "sgd",
                "--clip-norm",
                0,
                "--order",
                "passive",
            )
            data = bench.assets.good("brats2023", 3)
            return "metatune", "--from", bench.assets.pretrained, "--data", data, "--out", "run", *TUNED, *options

        yield Trial("B", f"the last step of metatune at {rate}", meta, "refused", ("finite",), may_leave=True)

        def classify(bench: Bench, rate: str = rate) -> Words:
            options = ("--learning-rate", rate, "--optimizer", "sgd", "--clip-norm", 0, "--momentum", 0)
            return (
                "classify",
                "train",
                "--data",
                bench.assets.good("image-folder", 8),
                "--out",
                "run",
                *CLASSIFIER,
                *options,
            )

        yield Trial("B", f"the last step of classify train at {rate}", classify, "refused", ("finite",), may_leave=True)


TRIALS = [
    *images(), *one_case(), *labels(), *slices(), *affines(), *weights(), *options(), *studies(), *losses(),
]  # fmt: skip
