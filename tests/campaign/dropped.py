"""Kind E: whatever is dropped is said, and splits are checked by every verb."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from campaign.bench import Bench, short
from campaign.layouts import first_image, first_label, write_json
from campaign.trial import Trial, Words

Spoil = Callable[[Path], None]


def words(bench: Bench, verb: str, data: Path, layout: str = "brats") -> Words:
    """A command that reads a data set."""
    classes = layout in ("image-folder", "slices", "cheng-mat")
    network = bench.assets.on_slices if layout in ("slices", "cheng-mat") else bench.assets.pretrained
    if verb in ("pretrain", "naivetune", "tune", "metatune", "classify train"):
        options = short(bench, verb)
        at = options.index("--data")
        return *verb.split(), *options[:at], "--data", data, *options[at + 2 :]
    return {
        "check": ("data", "check", data, "--json"),
        "summary": ("data", "summary", data),
        "split": ("data", "split", data, "--parts", "train=0.5,test=0.5"),
        "prepare": ("data", "prepare", data, "store"),
        "evaluate": ("evaluate", network, "--data", data, "--out", "out", "--pictures", 0, "--no-surface", "--include-training"),
        "predict": ("classify" if classes and layout == "image-folder" else "predict", *(("predict",) if layout == "image-folder" else ()),
                    bench.assets.classifier if layout == "image-folder" else network, data, "--out", "pred"),
    }[verb]  # fmt: skip


def renamed(old: str, new: str) -> Spoil:
    """A damage: one file misnamed."""

    def spoil(data: Path) -> None:
        (path,) = sorted(data.rglob(f"*{old}"))[:1]
        path.rename(path.with_name(path.name.replace(old, new)))

    return spoil


def removed(pattern: str, count: int = 1) -> Spoil:
    def spoil(data: Path) -> None:
        for path in sorted(data.rglob(pattern))[:count]:
            path.unlink()

    return spoil


MISNAMED: dict[str, tuple[str, Spoil]] = {
    "t1gd": ("brats", renamed("_t1ce.nii.gz", "_t1gd.nii.gz")),
    "T1c": ("brats", renamed("_t1ce.nii.gz", "_T1c.nii.gz")),
    "flar": ("brats", renamed("_flair.nii.gz", "_flar.nii.gz")),
    "a second dot": ("brats", renamed("_t2.nii.gz", "_t2..nii.gz")),
    "a copy's name": ("brats", renamed("_t2.nii.gz", "_t2 (1).nii.gz")),
    "an unfinished download": ("brats", renamed("_t1.nii.gz", "_t1.nii.gz.part")),
    "a hyphen": ("brats", renamed("_t1.nii.gz", "-t1.nii.gz")),
    "gone": ("brats", removed("*_t1ce.nii.gz")),
    "t1gd of 2023": ("brats2023", renamed("-t1c.nii.gz", "-t1gd.nii.gz")),
    "an underscore of 2023": ("brats2023", renamed("-t2f.nii.gz", "_t2f.nii.gz")),
    "channel 0004": ("nnunet", renamed("_0002.nii.gz", "_0004.nii.gz")),
    "channel of three digits": ("nnunet", renamed("_0002.nii.gz", "_002.nii.gz")),
    "channel gone": ("nnunet", removed("*_0003.nii.gz")),
}
FIRST = {
    "brats": "Brats18_X_0_1",
    "brats2023": "00001-000",
    "nnunet": "P0",
    "slices": "glioma0",
    "image-folder": "glioma",
}


def modalities() -> Iterator[Trial]:
    for number, (name, (layout, spoil)) in enumerate(MISNAMED.items()):
        verbs = ("check", "pretrain", "naivetune", "tune", "metatune", "summary", "prepare", "split", "evaluate")
        for verb in verbs if name in ("t1gd", "channel gone") else ("check", verbs[1 + number % 4]):

            def use(bench: Bench, layout: str = layout, spoil: Spoil = spoil, verb: str = verb) -> Words:
                data = bench.data(layout, 3)
                spoil(data)
                return words(bench, verb, data)

            strict = verb in ("check", "pretrain", "naivetune", "tune", "metatune")
            outcome = "refused" if strict else "told"
            yield Trial(
                "E",
                f"{name}, {layout}, {verb}",
                use,
                outcome,
                (f"{FIRST[layout]}|conventions",),
                may_leave=outcome == "told",
            )

    def asked(bench: Bench) -> Words:
        data = bench.data("brats", 3)
        removed("*_t1ce.nii.gz")(data)
        return *words(bench, "pretrain", data), "--modalities", "flair,t1,t2"

    yield Trial("E", "a modality left out by --modalities", asked, "same")

    def allowed(bench: Bench) -> Words:
        data = bench.data("brats", 3)
        removed("*_t1ce.nii.gz")(data)
        return *words(bench, "pretrain", data), "--allow-missing"

    yield Trial(
        "E", "a modality left out by --allow-missing", allowed, "warned", ("t1ce", FIRST["brats"]), may_leave=True
    )
    for text in ("flair,t1,t1ce,t3", "flair,flair"):
        yield Trial(
            "E", f"--modalities '{text}'",
            lambda bench, text=text: (*words(bench, "pretrain", bench.assets.good("brats", 2)), f"--modalities={text}"),
            "told", ("modalit|t3",), may_leave=True,
        )  # fmt: skip


def labels() -> Iterator[Trial]:
    for layout in ("brats", "brats2023", "nnunet", "decathlon"):
        for verb in ("check", "pretrain", "naivetune", "evaluate", "split", "summary", "prepare"):
            if layout in ("brats2023", "decathlon") and verb in ("split", "summary", "prepare"):
                continue

            def one(bench: Bench, layout: str = layout, verb: str = verb) -> Words:
                data = bench.data(layout, 3)
                first_label(layout, data).unlink()
                return words(bench, verb, data)

            outcome = "refused" if verb in ("check", "pretrain", "naivetune") else "told"
            name = FIRST.get(layout, "BRATS_000")
            yield Trial("E", f"one label missing, {layout}, {verb}", one, outcome, (name,), may_leave=outcome == "told")

    def none(bench: Bench, layout: str, verb: str) -> Words:
        data = bench.data(layout, 3)
        for path in data.rglob("*seg.nii.gz" if layout.startswith("brats") else "labelsTr/*"):
            path.unlink()
        return words(bench, verb, data)

    for layout in ("brats", "nnunet"):
        for verb in ("check", "pretrain", "naivetune", "evaluate"):
            yield Trial(
                "E", f"all labels missing, {layout}, {verb}",
                lambda bench, layout=layout, verb=verb: none(bench, layout, verb), "refused", ("label",),
            )  # fmt: skip


def files() -> Iterator[Trial]:
    def stray(name: str) -> Spoil:
        def spoil(data: Path) -> None:
            first = first_image("brats", data)
            (first.parent / name).write_bytes(first.read_bytes())

        return spoil

    for name in ("Brats18_X_0_1_adc.nii.gz", "notes.nii.gz", "Brats18_X_0_1_t1_old.nii.gz", "mask.nii", "T1CE.nii.gz"):
        for verb in ("check", "pretrain", "summary"):

            def use(bench: Bench, name: str = name, verb: str = verb) -> Words:
                data = bench.data("brats", 3)
                stray(name)(data)
                return words(bench, verb, data)

            outcome = "refused" if verb == "check" else "told"
            yield Trial(
                "E", f"{name} that no pattern takes, {verb}", use, outcome, (name.replace(".", r"\."),), may_leave=True
            )

    def empty_folder(bench: Bench) -> Words:
        data = bench.data("brats", 3)
        (data / "HGG" / "Brats18_X_9_1").mkdir()
        return "data", "check", data, "--json"

    yield Trial("E", "a case folder without files", empty_folder, "refused", ("Brats18_X_9_1",))

    def too_deep(bench: Bench) -> Words:
        data = bench.data("brats", 3)
        deep = data.joinpath(*"abcdefgh")
        deep.mkdir(parents=True)
        (data / "HGG" / "Brats18_X_2_1").rename(deep / "Brats18_X_2_1")
        return "data", "check", data, "--json"

    yield Trial("E", "a case in folders too deep", too_deep, "told", ("Brats18_X_2_1|deep|a/b",))


def listed() -> Iterator[Trial]:
    """Tables and descriptions that list what is not there."""

    def index(change: Callable[[list[str]], list[str]]) -> Spoil:
        def spoil(data: Path) -> None:
            lines = (data / "index.csv").read_text().splitlines()
            (data / "index.csv").write_text("\n".join(change(lines)) + "\n")

        return spoil

    spoilt: dict[str, tuple[str, Spoil, str]] = {
        "a listed image gone": ("slices", lambda data: (data / "images/glioma0-0.png").unlink(), "glioma0-0.png"),
        "a listed mask gone": ("slices", lambda data: (data / "masks/glioma0-0.png").unlink(), "glioma0-0.png"),
        "all masks gone": ("slices", lambda data: [p.unlink() for p in (data / "masks").iterdir()] and None, "masks?|could not be read"),
        "a patient's only slice without a mask": (
            "slices", index(lambda rows: [rows[0], rows[1].replace("masks/glioma0-0.png", ""), *rows[3:]]), "glioma0",
        ),
        "a patient without a name": ("slices", index(lambda rows: [rows[0], "," + rows[1].split(",", 1)[1], *rows[2:]]), "row 2"),
        "a row of too many cells": ("slices", index(lambda rows: [rows[0], rows[1] + ",more,cells", *rows[2:]]), "row 2|index.csv"),
        "a row of too few cells": ("slices", index(lambda rows: [rows[0], "glioma0", *rows[2:]]), "row 2|index.csv"),
        "a picture that no row lists": (
            "slices", lambda data: (data / "images/extra.png").write_bytes((data / "images/glioma0-0.png").read_bytes()) and None, "extra.png",
        ),
        "semicolons": ("slices", index(lambda rows: [row.replace(",", ";") for row in rows]), "index.csv"),
    }  # fmt: skip
    for name, (layout, spoil, named) in spoilt.items():
        for verb in ("check", "pretrain", "summary", "split"):

            def use(bench: Bench, layout: str = layout, spoil: Spoil = spoil, verb: str = verb) -> Words:
                data = bench.data(layout, 3)
                spoil(data)
                return words(bench, verb, data, layout)

            lenient = name in ("a picture that no row lists", "semicolons", "a row of too many cells")
            outcome = (
                "same" if name == "semicolons" else "told" if lenient or verb in ("split", "summary") else "refused"
            )
            yield Trial("E", f"index.csv: {name}, {verb}", use, outcome, (named,), may_leave=outcome == "told")

    def describe(change: Callable[[dict[str, object]], None]) -> Spoil:
        def spoil(data: Path) -> None:
            content = json.loads((data / "dataset.json").read_text())
            change(content)
            write_json(data / "dataset.json", content)

        return spoil

    def point_elsewhere(content: dict[str, object]) -> None:
        content["training"] = [{"image": f"./elsewhere/B{n}.nii.gz", "label": f"./labels/B{n}.nii.gz"} for n in (0, 1)]

    def one_elsewhere(content: dict[str, object]) -> None:
        content["training"][1]["image"] = "./elsewhere/B.nii.gz"  # type: ignore[index]

    def one_label_elsewhere(content: dict[str, object]) -> None:
        content["training"][1]["label"] = "./elsewhere/B.nii.gz"  # type: ignore[index]

    def one_twice(content: dict[str, object]) -> None:
        content["training"].append(content["training"][0])  # type: ignore[attr-defined, index]

    def fewer(content: dict[str, object]) -> None:
        content["training"] = content["training"][:1]  # type: ignore[index]

    def more(content: dict[str, object]) -> None:
        content["numTraining"] = 9

    def other_ending(content: dict[str, object]) -> None:
        content["file_ending"] = ".nrrd"

    def fewer_channels(content: dict[str, object]) -> None:
        content["channel_names"] = {"0": "FLAIR", "1": "T1"}

    descriptions = {
        "all elsewhere": ("decathlon", point_elsewhere, "B0|elsewhere"),
        "one image elsewhere": ("decathlon", one_elsewhere, "elsewhere|B"),
        "one label elsewhere": ("decathlon", one_label_elsewhere, "BRATS_001|elsewhere"),
        "one case twice": ("decathlon", one_twice, "BRATS_000"),
        "a case that is not listed": ("decathlon", fewer, "BRATS_00[12]"),
        "more cases than there are": ("nnunet", more, "9"),
        "another ending": ("nnunet", other_ending, "nrrd|no case"),
        "fewer channels than files": ("nnunet", fewer_channels, "0002|channel|t1ce"),
    }
    for name, (layout, change, named) in descriptions.items():
        for verb in ("check", "pretrain", "evaluate"):

            def use(
                bench: Bench,
                layout: str = layout,
                change: Callable[[dict[str, object]], None] = change,
                verb: str = verb,
            ) -> Words:
                data = bench.data(layout, 3)
                describe(change)(data)
                return words(bench, verb, data, layout)

            certain = name in (
                "all elsewhere",
                "one image elsewhere",
                "one label elsewhere",
                "one case twice",
                "another ending",
            )
            outcome = "refused" if certain and verb != "evaluate" else "told"
            yield Trial("E", f"dataset.json: {name}, {verb}", use, outcome, (named,), may_leave=outcome == "told")


def pictures() -> Iterator[Trial]:
    def dangling(data: Path) -> None:
        (data / "glioma" / "gone.png").symlink_to("nowhere.png")

    def all_dangling(data: Path) -> None:
        for path in sorted((data / "glioma").iterdir()):
            path.unlink()
            path.symlink_to("nowhere.png")

    def loop(data: Path) -> None:
        (data / "glioma" / "again").symlink_to(data, target_is_directory=True)

    def loose(data: Path) -> None:
        (data / "loose.png").write_bytes((data / "glioma/glioma00.png").read_bytes())

    def other_suffix(data: Path) -> None:
        (data / "glioma" / "glioma00.png").rename(data / "glioma" / "glioma00.dcm")

    def empty_class(data: Path) -> None:
        (data / "pituitary").mkdir()

    def one_class(data: Path) -> None:
        for path in (data / "meningioma").iterdir():
            path.unlink()
        (data / "meningioma").rmdir()

    spoilt: dict[str, tuple[Spoil, str]] = {
        "a dangling link": (dangling, "gone.png"),
        "a class of dangling links": (all_dangling, "glioma"),
        "a picture outside of the classes": (loose, "loose.png"),
        "a file of another suffix": (other_suffix, "glioma00.dcm"),
        "a class without pictures": (empty_class, "pituitary"),
        "one class alone": (one_class, "class|glioma"),
    }
    for name, (spoil, named) in spoilt.items():
        for verb in ("check", "classify train", "split", "predict"):
            if name == "one class alone" and verb != "classify train":
                continue

            def use(bench: Bench, spoil: Spoil = spoil, verb: str = verb) -> Words:
                data = bench.data("image-folder", 6)
                spoil(data)
                return words(bench, verb, data, "image-folder")

            # Prediction needs no class: a picture beside the folders of classes is one more.
            outcome = "same" if (verb, spoil) == ("predict", loose) else "told"
            yield Trial("E", f"image folder: {name}, {verb}", use, outcome, (named,), may_leave=True)


TRIALS = [*modalities(), *labels(), *files(), *listed(), *pictures()]
