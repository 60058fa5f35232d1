"""Kind I: arguments, names and MATLAB files that no library takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np

from campaign.bench import Bench, short
from campaign.layouts import first_image
from campaign.trial import Trial, Words


def arguments() -> Iterator[Trial]:
    for verb in ("pretrain", "naivetune", "metatune", "classify train", "classify active"):
        for seed in (2**64, 10**30):
            yield Trial(
                "I", f"{verb} --seed {seed:.0e}",
                lambda bench, verb=verb, seed=seed: (*verb.split(), *short(bench, verb), "--seed", seed), "refused", ("seed",),
            )  # fmt: skip
    for verb, words in (
        ("data split", ("--seed", -1)), ("data split", ("--folds", 10**9)),
        ("data split", ("--folds", 0)), ("data phantoms", ("--cases", 0)),
        ("evaluate", ("--seed", 2**70)), ("classify evaluate", ("--seed", 2**70)), ("classify evaluate", ("--resamples", 1)),
    ):  # fmt: skip

        def use(bench: Bench, verb: str = verb, words: Words = words) -> Words:
            head: Words = {
                "data split": (bench.assets.good("brats", 4), "--out", "split.json"),
                "data phantoms": ("made",),
                "evaluate": (bench.assets.pretrained, "--data", bench.assets.good("brats2023", 1), "--out", "out"),
                "classify evaluate": (bench.assets.classifier, "--out", "out"),
            }[verb]
            return *verb.split(), *head, *words

        yield Trial("I", f"{verb} {words[0]} {words[1]:.0e}", use, "refused", (str(words[0]).strip("-"),))
    for window in ("0,0", "0,16", "-4,8", "16", "16,16,16", "1e9,16", "16.5,16", "100000,100000", "a,b"):
        yield Trial(
            "I", f"--window {window}",
            lambda bench, window=window: ("pretrain", *short(bench, "pretrain"), f"--window={window}"), "refused", ("window",),
            may_leave=window == "100000,100000",
        )  # fmt: skip
    for name, verb, words in (
        ("batch size beyond memory", "pretrain", ("--batch-size", 10**18)),
        ("slices beyond 64 bits", "pretrain", ("--slices-per-epoch", 2**65)),
        ("epochs beyond 64 bits", "pretrain", ("--epochs", 2**65)),
        ("image size 0", "pretrain", ("--image-size", 0)),
        ("image size of 2**40", "pretrain", ("--image-size", 2**40)),
        ("jobs -1", "pretrain", ("--jobs", -1)),
        ("jobs beyond 64 bits", "pretrain", ("--jobs", 2**70)),
        ("budget beyond 64 bits", "naivetune", ("--budget", 2**70)),
        ("shots 0", "naivetune", ("--shots", 0)),
        ("marks beyond 64 bits", "naivetune", ("--marks", 2**70)),
        ("lora rank beyond memory", "naivetune", ("--method", "lora", "--lora-rank", 10**15)),
        ("tasks beyond 64 bits", "metatune", ("--tasks-per-step", 2**70)),
        ("inner steps of 0", "metatune", ("--inner-steps", 0)),
        ("support beyond the slices", "metatune", ("--support-size", 10**12)),
        ("input size of 2**30", "classify train", ("--input-size", 2**30)),
        ("batch size 0", "classify train", ("--batch-size", 0)),
        ("threshold of words", "metatune", ("--threshold", "much")),
    ):  # fmt: skip

        def odd(bench: Bench, verb: str = verb, words: Words = words) -> Words:
            return *verb.split(), *short(bench, verb), *words

        named = str(words[-2]).strip("-").replace("-", "[-_ ]")
        yield Trial("I", name, odd, "refused", (named,), may_leave="memory" in name)
    for verb in ("data check", "data summary", "predict", "evaluate", "pretrain", "runs", "report"):

        def invalid(bench: Bench, verb: str = verb) -> Words:
            name = "caf\udce9"
            head = {
                "predict": (bench.assets.pretrained,),
                "evaluate": (bench.assets.pretrained, "--data"),
                "pretrain": ("--data",),
            }
            return (
                *verb.split(),
                *head.get(verb, ()),
                name,
                *(("--out", "out") if verb in ("predict", "evaluate", "pretrain") else ()),
            )

        yield Trial("I", f"{verb} of a name in invalid UTF-8", invalid, "refused", ("caf",))
    for layout in ("brats", "image-folder"):
        for verb in ("check", "summary", "split", "prepare"):

            def folder(bench: Bench, layout: str = layout, verb: str = verb) -> Words:
                data = bench.data(layout, 6 if layout == "image-folder" else 4)
                one = first_image(layout, data)
                old, new = (
                    (one, one.with_name("glioma\udce9.png"))
                    if layout == "image-folder"
                    else (one.parent, one.parent.with_name("Bra\udce9ts"))
                )
                old.rename(new)
                tail: Words = {
                    "check": (),
                    "summary": ("--csv", "cases.csv"),
                    "split": ("--parts", "train=0.5,test=0.5"),
                    "prepare": ("store",),
                }[verb]
                return "data", verb, data, *tail

            yield Trial("I", f"a file's name in invalid UTF-8, {layout}, data {verb}", folder, "same")


def mats() -> Iterator[Trial]:
    def write(path: Path, fill: Callable[[h5py.Group], None]) -> None:
        with h5py.File(path, "w") as file:
            group = file.create_group("cjdata")
            group["label"] = np.array([[2.0]])
            group["PID"] = np.array([[71], [48]], np.uint16)
            group["image"] = np.ones((24, 24), np.int16)
            group["tumorMask"] = np.ones((24, 24), np.uint8)
            fill(group)

    def replaced(name: str, value: object) -> Callable[[h5py.Group], None]:
        def fill(group: h5py.Group) -> None:
            del group[name]
            if isinstance(value, str) and value == "group":
                group.create_group(name)
            elif value is not None:
                group[name] = value

        return fill

    spoilt = {
        "image a group": replaced("image", "group"),
        "mask a group": replaced("tumorMask", "group"),
        "label a group": replaced("label", "group"),
        "PID a group": replaced("PID", "group"),
        "no image": replaced("image", None),
        "no mask": replaced("tumorMask", None),
        "image of 3 axes": replaced("image", np.ones((4, 4, 4))),
        "image of text": replaced("image", "picture"),
        "image empty": replaced("image", np.ones((0, 0))),
        "mask of another shape": replaced("tumorMask", np.ones((3, 3), np.uint8)),
        "label empty": replaced("label", np.ones((0, 0))),
        "PID of numbers beyond letters": replaced("PID", np.array([[2**31]], np.int64)),
        "PID of NaN": replaced("PID", np.array([[np.nan]])),
        "image complex": replaced("image", np.ones((24, 24), complex)),
    }
    for name, fill in spoilt.items():
        for verb in ("check", "summary"):

            def use(bench: Bench, fill: Callable[[h5py.Group], None] = fill, verb: str = verb) -> Words:
                data = bench.data("cheng-mat")
                write(data / "1.mat", fill)
                return "data", verb, data, "--json"

            outcome = "told" if verb == "summary" else "refused"
            yield Trial("I", f"mat with {name}, {verb}", use, outcome, ("1.mat",))

    def link(bench: Bench) -> Words:
        data = bench.data("cheng-mat")
        with h5py.File(data / "1.mat", "w") as file:
            file["cjdata"] = h5py.ExternalLink("/etc/passwd", "/")
        return "data", "check", data, "--json"

    yield Trial("I", "mat whose data is a link to another file", link, "refused", ("1.mat",))


TRIALS = [*arguments(), *mats()]
