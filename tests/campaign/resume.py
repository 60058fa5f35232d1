"""Kind K: going on after the data, the files of the run or the disk have changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np

from campaign.bench import Bench
from campaign.layouts import first_image, first_label, picture
from campaign.records import SHAPES, set_key
from campaign.trial import Outcome, Trial, Words

Change = Callable[[Path], None]
RUNS = {
    "pretrain": ("stopped", "stopped-data", "brats"),
    "naivetune": ("stopped_tuning", "stopped-target", "brats2023"),
    "metatune": ("stopped_meta", "stopped-target", "brats2023"),
}


def edit(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    image = nib.load(path)
    nib.save(nib.Nifti1Image(change(np.asarray(image.dataobj)), image.affine), path)


def changes(layout: str) -> dict[str, Change]:
    """Changes of a data set between start and resume."""

    def added(data: Path) -> None:
        source = first_image(layout, data).parent
        case = source.name.replace("X_0_1", "X_9_1").replace("00001", "00009")
        for file in source.iterdir():
            target = source.parent / case / file.name.replace(source.name, case)
            target.parent.mkdir(exist_ok=True)
            shutil.copy(file, target)
            if "seg" not in target.name:
                edit(target, lambda array: np.where(array > 0, array + 1, 0).astype(np.int16))

    def renamed(data: Path) -> None:
        source = first_image(layout, data).parent
        case = source.name.replace("X_0_1", "X_7_1").replace("00001", "00007")
        for file in list(source.iterdir()):
            file.rename(file.with_name(file.name.replace(source.name, case)))
        source.rename(source.with_name(case))

    def swapped(data: Path) -> None:
        first = first_image(layout, data).parent
        other = next(path for path in sorted(first.parent.iterdir()) if path != first and path.is_dir())
        for file in sorted(first.iterdir()):
            twin = other / file.name.replace(first.name, other.name)
            content = file.read_bytes()
            file.write_bytes(twin.read_bytes())
            twin.write_bytes(content)

    return {
        "a case removed": lambda data: shutil.rmtree(first_image(layout, data).parent),
        "the last case removed": lambda data: shutil.rmtree(sorted(first_image(layout, data).parent.parent.glob("*0*"))[-1]),
        "a case added": added,
        "a case renamed": renamed,
        "two cases swapped": swapped,
        "an image mirrored": lambda data: edit(first_image(layout, data), lambda array: array[::-1]),
        "a voxel changed": lambda data: edit(first_image(layout, data), lambda array: np.where(array == array.max(), array + 1, array).astype(np.int16)),
        "a label emptied": lambda data: edit(first_label(layout, data), np.zeros_like),
        "a label changed": lambda data: edit(first_label(layout, data), lambda array: np.where(array == 1, 2, array).astype(np.uint8)),
        "a label removed": lambda data: first_label(layout, data).unlink(),
        "all data gone": shutil.rmtree,
    }  # fmt: skip


def data() -> Iterator[Trial]:
    for verb, (run, folder, layout) in RUNS.items():
        for name, change in changes(layout).items():

            def use(
                bench: Bench, verb: str = verb, run: str = run, folder: str = folder, change: Change = change
            ) -> Words:
                copied, own = bench.begun(run, folder)
                change(own)
                return verb, "--out", copied, "--resume"

            # What is new is left out, so that the parts stay as they were.
            outcome: Outcome = "warned" if name == "a case added" else "refused"
            yield Trial(
                "K", f"{verb} --resume after {name}", use, outcome, ("data|case|label|new since",), may_leave=True
            )

        def untouched(bench: Bench, verb: str = verb, run: str = run, folder: str = folder) -> Words:
            copied, _ = bench.begun(run, folder)
            return verb, "--out", copied, "--resume"

        yield Trial("K", f"{verb} --resume after no change but the place", untouched, "same")

        def packed(bench: Bench, verb: str = verb, run: str = run, folder: str = folder, layout: str = layout) -> Words:
            copied, own = bench.begun(run, folder)
            path = first_image(layout, own)
            nib.save(nib.load(path), path.with_suffix(""))
            path.unlink()
            return verb, "--out", copied, "--resume"

        # The same voxels in another file: files are compared by their content.
        yield Trial("K", f"{verb} --resume after a file was unpacked", packed, "refused", ("not as before",))
    for verb in ("naivetune", "metatune"):
        run = RUNS[verb][0]
        for name, change in {
            "was replaced": lambda source: edit_weights(source),
            "is gone": shutil.rmtree,
            "lost its patients": lambda source: (source / "patients.json").unlink(),
        }.items():

            def source(bench: Bench, verb: str = verb, run: str = run, change: Change = change) -> Words:
                copied, _ = bench.begun(run, "stopped-target")
                own = bench.copy(bench.assets.root / "stopped-source", "source")
                for file in ("config.yaml", "manifest.json"):
                    text = (copied / file).read_text()
                    (copied / file).write_text(text.replace(str(bench.assets.root / "stopped-source"), str(own)))
                change(own)
                return verb, "--out", copied, "--resume"

            outcome = "told" if name == "lost its patients" else "refused"
            yield Trial(
                "K",
                f"{verb} --resume where the pretrained run {name}",
                source,
                outcome,
                ("source|pretrained|patients",),
                may_leave=True,
            )

    def picture_changed(bench: Bench, change: Change) -> Words:
        copied, own = bench.begun("stopped_classifier", "stopped-pictures")
        change(own)
        return "classify", "train", "--out", copied, "--resume"

    def one_more(own: Path) -> None:
        from PIL import Image

        Image.fromarray(picture("glioma", 77)[0]).save(own / "glioma" / "more.png")

    for name, change in {
        "a picture removed": lambda own: (own / "glioma" / "glioma00.png").unlink(),
        "a picture added": one_more,
        "a picture in the other class": lambda own: (
            (own / "glioma" / "glioma00.png").rename(own / "meningioma" / "was-glioma.png") and None
        ),
        "a picture replaced": lambda own: (
            shutil.copy(own / "meningioma" / "meningioma01.png", own / "glioma" / "glioma00.png") and None
        ),
        "a class renamed": lambda own: (own / "glioma").rename(own / "gliomas") and None,
    }.items():
        outcome: Outcome = "warned" if name == "a picture added" else "refused"
        yield Trial(
            "K", f"classify train --resume after {name}", lambda bench, change=change: picture_changed(bench, change), outcome,
            ("data|case|class|picture|new since",), may_leave=True,
        )  # fmt: skip


def edit_weights(source: Path) -> None:
    from campaign.numbers import spoil_weights

    for name in ("best", "last"):
        spoil_weights(source / "checkpoints" / f"{name}.safetensors", 0.123)


def run_files() -> Iterator[Trial]:
    """Damaged or missing files of the run that goes on."""
    damages: dict[str, tuple[str, Change, str]] = {
        **{f"config.yaml {name}": ("config.yaml", SHAPES[name], "refused") for name in ("empty", "cut off", "a list", "null", "zeros", "invalid UTF-8", "deep")},
        "config.yaml gone": ("config.yaml", Path.unlink, "refused"),
        "config.yaml of another verb": ("config.yaml", lambda path: path.write_text(path.read_text().replace("verb: ", "verb: un")) and None, "refused"),
        "config.yaml without its data": ("config.yaml", lambda path: path.write_text("".join(line for line in path.read_text().splitlines(True) if not line.startswith("data:"))) and None, "refused"),
        "config.yaml without its seed": ("config.yaml", lambda path: path.write_text(path.read_text().replace("seed: 0", "seed: 5")) and None, "refused"),
        "state.json gone": ("state.json", Path.unlink, "refused"),
        "state.json of a later format": ("state.json", set_key("format", 99), "refused"),
        "manifest.json gone": ("manifest.json", Path.unlink, "told"),
        "manifest.json empty": ("manifest.json", SHAPES["empty"], "told"),
        "manifest.json a list": ("manifest.json", SHAPES["a list"], "told"),
        "inputs.json gone": ("inputs.json", Path.unlink, "told"),
        "inputs.json empty": ("inputs.json", SHAPES["empty"], "refused"),
        "inputs.json a list": ("inputs.json", SHAPES["a list"], "refused"),
        "inputs.json deep": ("inputs.json", SHAPES["deep"], "refused"),
        "patients.json gone": ("patients.json", Path.unlink, "told"),
        "metrics.csv gone": ("metrics.csv", Path.unlink, "told"),
        "metrics.csv of zeros": ("metrics.csv", lambda path: path.write_bytes(bytes(path.stat().st_size)) and None, "told"),
        "metrics.csv cut off in a row": ("metrics.csv", lambda path: path.write_bytes(path.read_bytes()[:-4]) and None, "told"),
        "metrics.csv of a header": ("metrics.csv", lambda path: path.write_text(path.read_text().splitlines()[0] + "\n") and None, "told"),
        "last.state.pt gone": ("checkpoints/last.state.pt", Path.unlink, "told"),
        "last.state.pt empty": ("checkpoints/last.state.pt", SHAPES["empty"], "refused"),
        "last.state.pt cut off": ("checkpoints/last.state.pt", SHAPES["cut off"], "refused"),
        "last.state.pt of zeros": ("checkpoints/last.state.pt", SHAPES["zeros"], "refused"),
        "best weights gone": ("checkpoints/best.safetensors", Path.unlink, "told"),
        "best card gone": ("checkpoints/best.json", Path.unlink, "told"),
        "best weights cut off": ("checkpoints/best.safetensors", SHAPES["cut off"], "told"),
    }  # fmt: skip
    for name, (file, damage, outcome) in damages.items():
        for verb in ("pretrain", "naivetune"):
            run, folder, _ = RUNS[verb]
            if verb == "naivetune" and "best" in file:
                continue

            def use(
                bench: Bench,
                verb: str = verb,
                run: str = run,
                folder: str = folder,
                file: str = file,
                damage: Change = damage,
            ) -> Words:
                copied, _ = bench.begun(run, folder)
                damage(copied / file)
                return verb, "--out", copied, "--resume"

            names = (
                {"state": "state|no run", "best": "best|weights"}.get(
                    Path(file).name.split(".")[0], Path(file).name.split(".")[0]
                ),
            )
            yield Trial("K", f"{verb} --resume with {name}", use, outcome, names, may_leave=True)


def others() -> Iterator[Trial]:
    def finished_without_weights(bench: Bench, verb: str) -> Words:
        run = bench.copy(bench.assets.pretrained, "run")
        shutil.rmtree(run / "checkpoints")
        return {
            "resume": ("pretrain", "--out", run, "--resume"),
            "predict": ("predict", run, bench.assets.good("brats2023", 1), "--out", "pred"),
            "runs": ("runs", bench.place),
        }[verb]

    for verb in ("resume", "predict"):
        yield Trial(
            "K", f"a finished run without its weights, {verb}", lambda bench, verb=verb: finished_without_weights(bench, verb),
            "refused", ("checkpoint|weights",), may_leave=True,
        )  # fmt: skip

    def another_verb(bench: Bench) -> Words:
        return "naivetune", "--out", bench.copy(bench.assets.stopped, "run"), "--resume"

    yield Trial("K", "--resume by another verb", another_verb, "refused", ("pretrain",))

    def both(bench: Bench) -> Words:
        return "pretrain", "--out", bench.copy(bench.assets.stopped, "run"), "--resume", "--overwrite"

    yield Trial("K", "--resume and --overwrite", both, "refused", ("overwrite", "resume"))
    yield Trial("K", "--resume without --out", lambda bench: ("pretrain", "--resume"), "refused", ("--out",))

    def over_inputs(bench: Bench) -> Words:
        run = bench.copy(bench.assets.pretrained, "run")
        return "naivetune", "--from", run, "--data", bench.assets.good("brats2023", 3), "--out", run, "--overwrite"

    yield Trial("K", "--overwrite of the run that is tuned", over_inputs, "refused", ("overwrite",))

    def over_data(bench: Bench) -> Words:
        run = bench.copy(bench.assets.pretrained, "run")
        bench.copy(bench.assets.good("brats", 2), "run/data")
        return "pretrain", "--data", run / "data", "--out", run, "--overwrite"

    yield Trial("K", "--overwrite of the data", over_data, "refused", ("overwrite",))

    def predicted(bench: Bench, change: Change) -> Words:
        from campaign.runner import run

        data = bench.data("brats2023", 3)
        words = ("predict", bench.assets.pretrained, data, "--out", "pred", "--no-pictures")
        run(words, bench.assets, bench.place)
        change(bench.place / "pred")
        return *words, "--resume"

    def drop_one(pred: Path) -> None:
        for path in sorted(pred.rglob("*00002*"), reverse=True):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def other_network(pred: Path) -> None:
        for path in pred.rglob("*.json"):
            content = json.loads(path.read_text())
            if isinstance(content.get("network"), dict):
                content["network"] = dict.fromkeys(content["network"], "other")
            path.write_text(json.dumps(content))

    yield Trial("K", "predict --resume with one case to go", lambda bench: predicted(bench, drop_one), "same")
    yield Trial(
        "K",
        "predict --resume of another network's predictions",
        lambda bench: predicted(bench, other_network),
        "told",
        ("network|pred",),
        may_leave=True,
    )
    yield Trial(
        "K",
        "predict --resume over a damaged summary",
        lambda bench: predicted(bench, lambda pred: SHAPES["cut off"](sorted(pred.rglob("*.json"))[0])),
        "told",
        ("json|00001",),
        may_leave=True,
    )

    def temporary(bench: Bench) -> Words:
        copied, _ = bench.begun("stopped", "stopped-data")
        (copied / ".metrics.csv.999999.tmp").write_text("half")
        (copied / "checkpoints" / ".best.safetensors.999999.tmp").write_bytes(bytes(10))
        return "pretrain", "--out", copied, "--resume"

    yield Trial("K", "temporary files of a dead process", temporary, "same")


TRIALS = [*data(), *run_files(), *others()]
