"""Kind F: what the values of labels mean."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np

from campaign.bench import Bench
from campaign.dropped import words
from campaign.layouts import first_label, write_json
from campaign.trial import Trial, Words

Change = Callable[[np.ndarray], np.ndarray]


def relabel(layout: str, data: Path, change: Change, only_first: bool = False) -> None:
    """Change the values of all outlines, whose classes are 1 necrosis, 2 edema and 3 or 4 enhancing tumour."""
    first = first_label(layout, data)
    files = [first] if only_first else sorted(data.rglob(first.name if layout == "nnunet" else "*seg.nii.gz"))
    files = sorted((data / "labelsTr").iterdir()) if layout in ("nnunet", "decathlon") and not only_first else files
    for file in files:
        image = nib.load(file)
        nib.save(nib.Nifti1Image(change(np.asarray(image.dataobj)), image.affine), file)


def mapped(values: dict[int, float], dtype: type = np.uint8) -> Change:
    def change(array: np.ndarray) -> np.ndarray:
        result = array.astype(dtype)
        for old, new in values.items():
            result[array == old] = new
        return result

    return change


def numbered(array: np.ndarray) -> np.ndarray:
    """One value per lesion, seven of them."""
    return np.where(array > 0, 1 + np.indices(array.shape)[0] % 7, 0).astype(np.uint8)


def float_noise(array: np.ndarray) -> np.ndarray:
    return np.where(array == 1, 0.9999999, array.astype(np.float64))


def interpolated(array: np.ndarray) -> np.ndarray:
    return np.where(array == 2, 1.5, array).astype(np.float32)


LABELS: dict[str, tuple[str, Change, str]] = {
    "PED in 2023's names": ("brats2023", mapped({1: 3, 2: 4, 3: 1}), "label"),
    "0 to 4 of post-treatment": ("brats2023", mapped({1: 4}), "4"),
    "whole lesion as 1 in BraTS names": ("brats", mapped({1: 1, 2: 1, 4: 1}), "1"),
    "whole lesion as 1 in 2023's names": ("brats2023", mapped({2: 1, 3: 1}), "1"),
    "whole lesion as 255": ("brats2023", mapped({1: 255, 2: 255, 3: 255}), "255"),
    "one value per lesion": ("brats2023", numbered, "4|5|6|7"),
    "one value per lesion in BraTS names": ("brats", numbered, "3|5|6|7"),
    "ET as 3 in BraTS names": ("brats", mapped({4: 3}), "3"),
    "ET as 4 in 2023's names": ("brats2023", mapped({3: 4}), "4"),
    "0.9999999": ("brats2023", float_noise, r"0\.9999999"),
    "interpolated": ("brats2023", interpolated, r"1\.5"),
    "negative": ("brats2023", mapped({1: -1}, np.int16), "-1"),
    "beyond bytes": ("brats2023", mapped({1: 70000}, np.int32), "70000"),
    "a hole of 9": ("nnunet", mapped({1: 9}), "9"),
}
UNKNOWN = {
    name for name in LABELS if name not in ("whole lesion as 1 in BraTS names", "whole lesion as 1 in 2023's names")
}


def values() -> Iterator[Trial]:
    for name, (layout, change, named) in LABELS.items():
        for verb in ("check", "pretrain", "evaluate", "naivetune", "prepare", "summary"):

            def use(bench: Bench, layout: str = layout, change: Change = change, verb: str = verb) -> Words:
                data = bench.data(layout, 3)
                relabel(layout, data, change)
                return words(bench, verb, data)

            outcome = "told" if verb == "summary" else "refused"
            yield Trial(
                "F", f"{name}, {verb}", use, outcome, (named,), may_leave=verb in ("summary", "evaluate", "prepare"),
            )  # fmt: skip
    for name in ("0 to 4 of post-treatment", "interpolated", "ET as 4 in 2023's names", "a hole of 9"):
        layout, change, named = LABELS[name]
        for verb in ("check", "pretrain"):

            def one(bench: Bench, layout: str = layout, change: Change = change, verb: str = verb) -> Words:
                data = bench.data(layout, 3)
                relabel(layout, data, change, only_first=True)
                return words(bench, verb, data)

            yield Trial("F", f"{name} in one case, {verb}", one, "refused", (named, "00001-000|P0"))

    def cavity(bench: Bench) -> Words:
        data = bench.data("brats2023", 3)
        relabel("brats2023", data, mapped({1: 4}))
        return words(bench, "check", data)

    # The scheme that makes enhancing tumour of a cavity must not be offered.
    yield Trial("F", "the remedy for a cavity", cavity, "refused", (r"^(?![\s\S]*--label-scheme brats\b(?!-))",))


def schemes() -> Iterator[Trial]:
    """Conventions named with ``--label-scheme``."""
    good: tuple[tuple[str, str, str, Change], ...] = (
        ("brats-ped", "brats2023", "brats-ped", mapped({1: 3, 2: 4, 3: 1})),
        ("brats-post", "brats2023", "brats-post", lambda array: np.where(array == 0, np.where(np.indices(array.shape)[0] == 12, 4, 0), array).astype(np.uint8)),
        ("spelled out", "brats2023", "1=ED,2=NCR,3=ET", mapped({1: 2, 2: 1})),
        ("spelled with 4", "brats2023", "1=NCR,2=ED,4=ET", mapped({3: 4})),
        ("spelled in small letters", "brats2023", "5=et,6=ed,7=ncr", mapped({3: 5, 2: 6, 1: 7})),
    )  # fmt: skip
    for name, layout, scheme, change in good:

        def use(bench: Bench, layout: str = layout, scheme: str = scheme, change: Change = change) -> Words:
            data = bench.data(layout, 2)
            relabel(layout, data, change)
            return "data", "summary", data, "--label-scheme", scheme, "--json"

        def like(bench: Bench, layout: str = layout) -> Words:
            return "data", "summary", bench.data(layout, 2), "--json"

        yield Trial("F", f"scheme {name}", use, "same", like=like, metrics=lesion_volumes)

    def any_lesion(bench: Bench) -> Words:
        data = bench.data("brats2023", 2)
        relabel("brats2023", data, numbered)
        return "data", "summary", data, "--label-scheme", "any-lesion", "--json"

    yield Trial(
        "F", "scheme any-lesion", any_lesion, "same", metrics=lesion_volumes,
        like=lambda bench: ("data", "summary", bench.data("brats2023", 2), "--label-scheme", "1=lesion,2=lesion,3=lesion", "--json"),
    )  # fmt: skip
    for text in (
        "brats2024", "BRATS", "", "1=ET,1=ED", "1=tumour", "0=ET", "300=ET", "1=NCR;2=ED", "=", "1=", "1=lesion,2=ED", "-1=ET", "1.5=ET",
    ):  # fmt: skip
        for verb in ("check", "pretrain")[: 2 if text in ("brats2024", "1=ET,1=ED") else 1]:

            def wrong(bench: Bench, text: str = text, verb: str = verb) -> Words:
                return *words(bench, verb, bench.assets.good("brats2023", 2)), f"--label-scheme={text}"

            yield Trial("F", f"--label-scheme '{text}', {verb}", wrong, "refused", ("label.scheme",))
    yield Trial(
        "F", "a scheme of another meaning, predict",
        lambda bench: ("predict", bench.assets.pretrained, bench.assets.good("brats2023", 1), "--label-scheme", "whole-lesion", "--out", "pred"),
        "refused", ("whole-lesion",),
    )  # fmt: skip


def lesion_volumes(result: object) -> dict[str, float]:
    """Every number on tumours in the JSON of ``data summary``."""
    found: dict[str, float] = {}

    def collect(value: object, path: str) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                collect(inner, f"{path}/{key}")
        elif isinstance(value, list):
            for position, inner in enumerate(value):
                collect(inner, f"{path}/{position}")
        elif (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and re.search(r"/(WT|TC|ET)\b|tumour|ml$", path)
        ):
            found[path] = value

    collect(json.loads(result.out), "")  # type: ignore[attr-defined]
    return found


def regions() -> Iterator[Trial]:
    for name, change, named in (
        ("without enhancing tumour", mapped({3: 1}), "ET"),
        ("of edema alone", mapped({1: 2, 3: 2}), "ET"),
        ("without edema", mapped({2: 1}), "ED|edema|region"),
    ):
        for verb in ("check", "pretrain", "evaluate"):
            if name == "without edema" or (name == "of edema alone" and verb != "check"):
                continue

            def use(bench: Bench, change: Change = change, verb: str = verb) -> Words:
                data = bench.data("brats2023", 3)
                relabel("brats2023", data, change)
                return words(bench, verb, data)

            yield Trial("F", f"labels {name}, {verb}", use, "warned", (named,), may_leave=True)


DESCRIPTIONS: dict[str, tuple[dict[str, object], Change | None]] = {
    "unfamiliar names": ({"background": 0, "alpha": 1, "beta": 2, "gamma": 3}, None),
    "names in another language": ({"background": 0, "nécrose": 1, "oedème": 2, "prise de contraste": 3}, None),
    "two labels of one meaning": ({"background": 0, "edema": 1, "oedema/edema": 2, "enhancing tumor": 3}, None),
    "a label more than the files": ({"background": 0, "necrotic core": 1, "edema": 2, "enhancing tumor": 3, "vessel": 4}, None),
    "a label less than the files": ({"background": 0, "whole tumor": 1}, None),
    "values that are texts": ({"background": 0, "necrotic core": "one", "edema": "two", "enhancing tumor": "three"}, None),
    "negative values": ({"background": 0, "necrotic core": -1, "edema": 2, "enhancing tumor": 3}, None),
}  # fmt: skip


def descriptions() -> Iterator[Trial]:
    for name, (labels, change) in DESCRIPTIONS.items():
        for verb in ("check", "pretrain", "evaluate"):

            def use(
                bench: Bench, labels: dict[str, object] = labels, change: Change | None = change, verb: str = verb
            ) -> Words:
                data = bench.data("nnunet", 3)
                content = json.loads((data / "dataset.json").read_text())
                write_json(data / "dataset.json", content | {"labels": labels})
                if change:
                    relabel("nnunet", data, change)
                return words(bench, verb, data)

            yield Trial(
                "F", f"dataset.json: {name}, {verb}", use, "refused", ("label|ignore",), may_leave=verb == "evaluate"
            )
        if change is None:

            def cached(bench: Bench, labels: dict[str, object] = labels) -> Words:
                from campaign.runner import run

                data = bench.data("nnunet", 3)
                place = bench.place.with_name(bench.place.name + "-first")
                place.mkdir()
                run(words(bench, "pretrain", data), bench.assets, place)
                content = json.loads((data / "dataset.json").read_text())
                write_json(data / "dataset.json", content | {"labels": labels})
                return words(bench, "pretrain", data)

            if name == "unfamiliar names":
                name_of_it = f"dataset.json: {name}, of cases in the cache, pretrain"
                yield Trial("F", name_of_it, cached, "refused", ("label",))
            for verb in ("split", "predict"):

                def without(bench: Bench, labels: dict[str, object] = labels, verb: str = verb) -> Words:
                    data = bench.data("nnunet", 3)
                    content = json.loads((data / "dataset.json").read_text())
                    write_json(data / "dataset.json", content | {"labels": labels})
                    return words(bench, verb, data)

                yield Trial("F", f"dataset.json: {name}, {verb} needs no labels", without, "same")


TRIALS = [*values(), *schemes(), *regions(), *descriptions()]
