"""Kind E: splits, which every verb that takes one checks alike."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

from campaign.bench import Bench
from campaign.dropped import words
from campaign.layouts import write_json
from campaign.trial import Trial, Words


def splits() -> Iterator[Trial]:
    Change = Callable[[dict[str, object]], None]

    def absent(content: dict[str, object]) -> None:
        content["parts"]["train"].append("nobody")  # type: ignore[index]
        content["patients"]["nobody"] = "nobody"  # type: ignore[index]

    def two_parts(content: dict[str, object]) -> None:
        parts = content["parts"]
        parts["val"].append(parts["train"][0])  # type: ignore[index]

    def twice(content: dict[str, object]) -> None:
        parts = content["parts"]
        parts["train"].append(parts["train"][0])  # type: ignore[index]

    def one_patient(content: dict[str, object]) -> None:
        content["patients"] = dict.fromkeys(content["patients"], "one")  # type: ignore[call-overload]

    def no_patients(content: dict[str, object]) -> None:
        content["patients"] = {}

    def empty_part(content: dict[str, object]) -> None:
        content["parts"]["train"] = []  # type: ignore[index]

    def no_part(content: dict[str, object]) -> None:
        del content["parts"]["train"]  # type: ignore[attr-defined]

    def numbers(content: dict[str, object]) -> None:
        content["parts"]["train"] = [1, 2]  # type: ignore[index]

    def text(content: dict[str, object]) -> None:
        content["parts"]["train"] = "Brats18_X_0_1"  # type: ignore[index]

    def version(content: dict[str, object]) -> None:
        content["version"] = 99

    def other_patients(content: dict[str, object]) -> None:
        content["patients"] = {case: f"Q{number}" for number, case in enumerate(content["patients"])}  # type: ignore[arg-type, var-annotated]

    changes: dict[str, Change] = {
        "an absent case": absent, "a case in two parts": two_parts, "a case twice in a part": twice,
        "one patient in all parts": one_patient, "no patients": no_patients, "an empty part": empty_part,
        "no train part": no_part, "numbers for cases": numbers, "a text for a part": text, "another version": version,
        "other patients than the data": other_patients,
    }  # fmt: skip
    for name, change in changes.items():
        for verb in ("check", "pretrain", "naivetune", "evaluate", "classify train", "compare"):
            if verb == "check" and name in ("no train part", "an empty part"):
                continue

            def use(bench: Bench, change: Change = change, verb: str = verb) -> Words:
                layout = "image-folder" if verb == "classify train" else "brats"
                data = bench.data(layout, 6 if layout == "image-folder" else 4)
                split = bench.split(data, counts=(8, 2, 2) if layout == "image-folder" else (2, 1, 1))
                content = json.loads(split.read_text())
                change(content)
                write_json(split, content)
                if verb == "check":
                    return "data", "check", data, "--split", split, "--json"
                if verb == "compare":
                    (bench.place / "study.yaml").write_text(
                        f"from: {bench.assets.pretrained}\ntargets: {{met: {{data: {data}}}}}\nmethods: {{naive: {{}}}}\n"
                        f"shared: {{split: {split}, source: {data}}}\nshots: [1]\nseeds: 1\nbudget: 4\n"
                    )
                    return "compare", "study.yaml", "--dry-run"
                part = ("--part", "train") if verb == "evaluate" else ()
                return *words(bench, verb, data, layout), "--split", split, *part

            # A split may name cases of other folders than those that are evaluated.
            other_folder = (name, verb) == ("an absent case", "evaluate")
            outcome = "warned" if other_folder else "refused"
            names = ("split|part|nobody|patient",)
            yield Trial("E", f"split with {name}, {verb}", use, outcome, names, may_leave=other_folder)

    def leaving(bench: Bench) -> Words:
        data = bench.data("brats", 4)
        split = bench.split(data)
        content = json.loads(split.read_text())
        content["parts"]["test"] = []
        write_json(split, content)
        return "data", "check", data, "--split", split, "--json"

    yield Trial("E", "split that leaves a case out, check", leaving, "told", ("Brats18_X|split",))
    for name, content in (
        ("empty", ""),
        ("no JSON", "{"),
        ("a list", "[]"),
        ("deep", "[" * 100_000),
        ("of another program", '{"train": ["a"]}'),
    ):
        for verb in ("check", "pretrain", "classify train"):

            def file(bench: Bench, content: str = content, verb: str = verb) -> Words:
                (bench.place / "split.json").write_text(content)
                layout = "image-folder" if verb == "classify train" else "brats"
                data = bench.assets.good(layout, 6 if layout == "image-folder" else 2)
                command = words(bench, verb, data, layout)
                return *command, "--split", bench.place / "split.json"

            yield Trial("E", f"split file {name}, {verb}", file, "refused", ("split.json",))


TRIALS = [*splits()]
