"""Kind D: whose scan and whose outline, sessions of one patient, and patients whose training saw nobody knows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from campaign.bench import SHORT, TUNED, Bench, short
from campaign.layouts import MODALITIES, first_label, subject, write_brats_case, write_json, write_table, write_volume
from campaign.trial import Result, Trial, Words

P2, P3 = "P2", "P3"


def mixtures() -> Iterator[Trial]:
    """Files of several patients, named one by one."""
    endings = {"brats": ("_flair", "_t1", "_t1ce", "_t2"), "brats2023": ("-t2f", "-t1n", "-t1c", "-t2w")}
    pairs = {
        "patients": ("P2", "P3"),
        "brats18": ("Brats18_CBICA_ALU_1", "Brats18_CBICA_ALN_1"),
        "numbers": ("case_002", "case_003"),
        "sessions": ("pat01_ses1", "pat01_ses2"),
        "case of letters": ("patA", "patB"),
        "one within the other": ("P1", "P11"),
    }
    for convention, suffixes in endings.items():
        for name, (one, other) in pairs.items():
            for odd in (1, 2) if name == "patients" else (2,):

                def predict(
                    bench: Bench,
                    one: str = one,
                    other: str = other,
                    odd: int = odd,
                    suffixes: tuple[str, ...] = suffixes,
                ) -> Words:
                    files = []
                    for position, (suffix, modality) in enumerate(zip(suffixes, MODALITIES, strict=True)):
                        owner = other if position == odd else one
                        path = bench.place / owner / f"{owner}{suffix}.nii.gz"
                        files.append(write_volume(path, subject(position == odd)[0][modality]))
                    return "predict", bench.assets.pretrained, *files, "--out", "pred"

                yield Trial("D", f"files of two {name}, {convention}, {odd}", predict, "refused", (one, other))

    def half(bench: Bench) -> Words:
        files = [
            write_volume(bench.place / f"{owner}_{modality}.nii.gz", subject(0)[0][modality])
            for modality, owner in zip(MODALITIES, ("P2", "P2", "P3", "P3"), strict=True)
        ]
        return "predict", bench.assets.pretrained, *files, "--out", "pred"

    yield Trial("D", "two files each of two patients", half, "refused", ("P2", "P3"))


def strays() -> Iterator[Trial]:
    """An outline, or an image, of another patient in a case's folder."""
    verbs = ("check", "evaluate", "pretrain", "naivetune", "split", "summary", "prepare", "compare")

    def words(bench: Bench, data: Path, verb: str) -> Words:
        if verb == "compare":
            settings = (
                f"from: {bench.assets.pretrained}\ntargets: {{met: {{data: {data}}}}}\nmethods: {{naive: {{}}}}\n"
            )
            settings += f"shared: {{split: {bench.split(bench.assets.good('brats', 4))}}}\n"
            (bench.place / "study.yaml").write_text(settings + "shots: [1]\nseeds: 1\nbudget: 4\n")
        return {
            "check": ("data", "check", data, "--json"),
            "evaluate": ("evaluate", bench.assets.pretrained, "--data", data, "--out", "out", "--include-training"),
            "pretrain": ("pretrain", "--data", data, "--out", "run", *SHORT),
            "naivetune": ("naivetune", "--from", bench.assets.pretrained, "--data", data, "--out", "run", *TUNED),
            "split": ("data", "split", data, "--parts", "train=0.5,test=0.5"),
            "summary": ("data", "summary", data),
            "prepare": ("data", "prepare", data, "store"),
            "compare": ("compare", "study.yaml", "--dry-run"),
        }[verb]

    for verb in verbs:

        def other_label(bench: Bench, verb: str = verb) -> Words:
            for case, number in (("P1", 1), ("P2", 2)):
                write_brats_case(bench.place / "data" / case, case, number, label=case != "P2")
            source = bench.place / "data" / "P1" / "P1_seg.nii.gz"
            shutil.copy(source, bench.place / "data" / "P2" / "P3_seg.nii.gz")
            return words(bench, bench.place / "data", verb)

        yield Trial("D", f"P2's folder with P3's seg, {verb}", other_label, "refused", ("P2", "P3"))
    for verb in verbs[:5]:

        def flat(bench: Bench, verb: str = verb) -> Words:
            write_brats_case(bench.place / "data", "P1", 1, label=False)
            write_brats_case(bench.place / "extra", "P9", 2)
            shutil.copy(bench.place / "extra" / "P9_seg.nii.gz", bench.place / "data")
            if verb in ("split", "pretrain", "naivetune"):
                write_brats_case(bench.place / "data" / "more", "P2", 2)
                write_brats_case(bench.place / "data" / "more2", "P4", 2)
            return words(bench, bench.place / "data", verb)

        yield Trial("D", f"a flat folder with a stray P9_seg, {verb}", flat, "refused", ("P9",))
    for verb in verbs[:4]:

        def own_and_other(bench: Bench, verb: str = verb) -> Words:
            for case, number in (("P1", 1), ("P2", 2), ("P4", 3)):
                write_brats_case(bench.place / "data" / case, case, number)
            shutil.copy(bench.place / "data" / "P1" / "P1_seg.nii.gz", bench.place / "data" / "P2" / "P3_seg.nii.gz")
            return words(bench, bench.place / "data", verb)

        yield Trial("D", f"P2's folder with its own and P3's seg, {verb}", own_and_other, "refused", ("P3",))

        def other_image(bench: Bench, verb: str = verb) -> Words:
            for case, number in (("P1", 1), ("P2", 2), ("P4", 3)):
                write_brats_case(bench.place / "data" / case, case, number)
            folder = bench.place / "data" / "P2"
            (folder / "P2_t1ce.nii.gz").rename(folder / "P3_t1ce.nii.gz")
            return words(bench, bench.place / "data", verb)

        yield Trial("D", f"P2's folder with P3's t1ce, {verb}", other_image, "refused", ("P2|P3",))
    for verb in ("check", "evaluate", "pretrain"):

        def brats2023(bench: Bench, verb: str = verb) -> Words:
            data = bench.data("brats2023", 3)
            label = first_label("brats2023", data)
            label.rename(label.with_name("BraTS-MET-00009-000-seg.nii.gz"))
            return words(bench, data, verb)

        yield Trial("D", f"another patient's seg, brats2023, {verb}", brats2023, "refused", ("00001", "00009"))

    def known(bench: Bench) -> Words:
        """BraTS 2020's case 355 comes with a label of another name."""
        case = "BraTS20_Training_355"
        write_brats_case(bench.place / "data" / case, case, 1, label=False)
        write_brats_case(bench.place / "extra", case, 1)
        shutil.copy(
            bench.place / "extra" / f"{case}_seg.nii.gz", bench.place / "data" / case / "W39_1998.09.19_Segm.nii"
        )
        return "data", "check", bench.place / "data", "--json"

    yield Trial("D", "the known exception of BraTS 2020", known, "same")


SESSIONS: dict[str, tuple[str, str]] = {
    "ses1": ("pat01_ses1", "pat01_ses2"),
    "bids": ("sub-01_ses-01", "sub-01_ses-02"),
    "bids words": ("sub-A7_ses-baseline", "sub-A7_ses-followup"),
    "tp": ("pat01_tp1", "pat01_tp2"),
    "timepoint": ("PatientID_0003_Timepoint_1", "PatientID_0003_Timepoint_2"),
    "visit": ("P07-visit1", "P07-visit2"),
    "pre and post": ("P12_pre", "P12_post"),
    "preop": ("case9_preop", "case9_postop"),
    "baseline": ("subj3_baseline", "subj3_followup"),
    "follow-up": ("UCSF-PDGM-0004", "UCSF-PDGM-0004_FU001d"),
    "weeks": ("Patient-001__week-000", "Patient-001__week-044"),
    "dates": ("P31_20190412", "P31_20191003"),
    "ISO dates": ("P31_2019-04-12", "P31_2019-10-03"),
    "scan": ("P44_scan1", "P44_scan2"),
    "session": ("k5-session1", "k5-session2"),
    "upenn": ("UPENN-GBM-00021_11", "UPENN-GBM-00021_21"),
    "brats2023": ("BraTS-GLI-00005-000", "BraTS-GLI-00005-001"),
    "brats2023 post": ("BraTS-GLI-02064-100", "BraTS-GLI-02064-101"),
    "upper case": ("PAT01_SES1", "PAT01_SES2"),
    "MRI": ("p8_mri1", "p8_mri2"),
}
DOUBTFUL: dict[str, tuple[str, ...]] = {
    "restarting numbers": ("name_0800", "name_0801", "name_0900", "name_0901"),
    "bare numbers": ("pat01_1", "pat01_2", "pat02_1", "pat02_2"),
    "letters": ("p12a", "p12b", "p13a", "p13b"),
    "dashes": ("Q7-01", "Q7-02", "Q9-01", "Q9-02"),
}


def part_of(name: str, split: Path) -> str:
    parts = json.loads(split.read_text())["parts"]
    return next(part for part, cases in parts.items() if name in cases)


def sessions() -> Iterator[Trial]:
    others = ("alpha77", "bravo31", "delta58", "gamma44")

    def write(bench: Bench, names: tuple[str, ...], layout: str = "brats", others: tuple[str, ...] = others) -> Path:
        data = bench.place / "data"
        for number, name in enumerate((*names, *others)):
            if layout == "nnunet":
                images, label = subject(number)
                for index, modality in enumerate(MODALITIES):
                    write_volume(data / "imagesTr" / f"{name}_{index:04}.nii.gz", images[modality])
                write_volume(data / "labelsTr" / f"{name}.nii.gz", label)
            else:
                write_brats_case(data / name, name, number)
        if layout == "nnunet":
            labels = {"background": 0, "necrotic core": 1, "edema": 2, "enhancing tumor": 3}
            write_json(
                data / "dataset.json", {"channel_names": dict(zip("0123", MODALITIES, strict=True)), "labels": labels}
            )
        return data

    for name, pair in SESSIONS.items():
        for layout in ("brats", "nnunet"):
            for seed in (0, 1):
                if (layout, seed) == ("nnunet", 1):
                    continue

                def split(bench: Bench, pair: tuple[str, str] = pair, layout: str = layout, seed: int = seed) -> Words:
                    data = write(bench, pair, layout)
                    shares = "a=0.2,b=0.2,c=0.2,d=0.2,e=0.2"
                    return "data", "split", data, "--parts", shares, "--seed", seed, "--stratify", "none"

                def together(result: Result, pair: tuple[str, str] = pair) -> dict[str, float]:
                    parts = {part_of(one, result.place / "split.json") for one in pair}
                    return {"parts of the patient": len(parts)}

                def good(bench: Bench, pair: tuple[str, str] = pair, layout: str = layout) -> Words:
                    # Whatever the seed, one part holds all of a patient; the good input has one part alone.
                    return "data", "split", write(bench, pair, layout), "--parts", "a=1.0"

                yield Trial("D", f"sessions {name}, {layout}, seed {seed}", split, "same", like=good, metrics=together)
    for name, pair in list(SESSIONS.items())[:10]:

        def seen(bench: Bench, pair: tuple[str, str] = pair) -> Words:
            run = bench.copy(bench.assets.pretrained, "net")
            content = json.loads((run / "patients.json").read_text())
            first = bench.place / "first"
            write_brats_case(first / pair[0], pair[0], 1)
            from metaseg.cases.readers import read_cases

            patient = read_cases(first)[0].patient
            content["train"] = [{"case": pair[0], "patient": patient, "cohort": "unknown"}]
            write_json(run / "patients.json", content)
            write_brats_case(bench.place / "data" / pair[1], pair[1], 2)
            return "evaluate", run, "--data", bench.place / "data", "--out", "out"

        yield Trial("D", f"the second session of a training patient, {name}", seen, "refused", ("trained on",))
    for name, names in DOUBTFUL.items():

        def check(bench: Bench, names: tuple[str, ...] = names) -> Words:
            return "data", "check", write(bench, names, others=()), "--json"

        yield Trial("D", f"what may be sessions: {name}", check, "warned", (names[0], "session"))

    def by_table(bench: Bench) -> Words:
        data = write(bench, ("x1", "y2"))
        rows = [{"case": one, "patient": "same"} for one in ("x1", "y2")]
        others = [{"case": one, "patient": one} for one in ("alpha77", "bravo31", "delta58", "gamma44")]
        write_table(bench.place / "patients.csv", rows + others)
        shares = "a=0.2,b=0.2,c=0.2,d=0.2,e=0.2"
        return (
            "data",
            "split",
            data,
            "--parts",
            shares,
            "--stratify",
            "none",
            "--patients",
            bench.place / "patients.csv",
        )

    def one_part(result: Result) -> dict[str, float]:
        return {"parts": len({part_of(one, result.place / "split.json") for one in ("x1", "y2")})}

    yield Trial(
        "D", "sessions told by a table", by_table, "same", metrics=one_part,
        like=lambda bench: ("data", "split", write(bench, ("x1", "y2")), "--parts", "a=1.0"),
    )  # fmt: skip
    tables = {
        "without its columns": "name,who\nx1,a\n",
        "empty": "",
        "naming one case twice": "case,patient\nx1,a\nx1,b\ny2,b\nalpha77,c\nbravo31,d\ndelta58,e\ngamma44,f\n",
        "naming a case that is not there": "case,patient\nx1,a\ny2,a\nnobody,b\n",
        "lacking cases": "case,patient\nx1,a\n",
        "with an empty patient": "case,patient\nx1,\ny2,a\nalpha77,c\nbravo31,d\ndelta58,e\ngamma44,f\n",
    }
    for name, content in tables.items():

        def spoiled(bench: Bench, content: str = content) -> Words:
            (bench.place / "patients.csv").write_text(content)
            data = write(bench, ("x1", "y2"))
            return "data", "split", data, "--parts", "a=0.5,b=0.5", "--patients", bench.place / "patients.csv"

        outcome = "told" if "nobody" in content or name == "lacking cases" else "refused"
        yield Trial(
            "D", f"a table of patients {name}", spoiled, outcome, ("patients.csv|patient",), may_leave=outcome == "told"
        )
    yield Trial(
        "D", "a table of patients that is not there",
        lambda bench: ("data", "split", write(bench, ("x1", "y2")), "--patients", "nowhere.csv"), "refused", ("nowhere.csv",),
    )  # fmt: skip


def hospitals() -> Iterator[Trial]:
    def both(bench: Bench) -> tuple[Path, Path]:
        for number, hospital in enumerate(("north", "south")):
            for case in ("P1", "P2"):
                write_brats_case(bench.place / hospital / case, case, 10 * number + int(case[1]))
        return bench.place / "north", bench.place / "south"

    for verb in ("pretrain", "naivetune", "tune", "evaluate"):

        def pooled(bench: Bench, verb: str = verb) -> Words:
            north, south = both(bench)
            if verb == "evaluate":
                return "evaluate", bench.assets.pretrained, "--data", north, south, "--out", "out"
            options = short(bench, verb)
            at = options.index("--data")
            return verb, *options[:at], "--data", north, south, *options[at + 2 :]

        yield Trial("D", f"equal ids of two hospitals, {verb}", pooled, "told", ("P1",), may_leave=True)

    def other_hospital(bench: Bench) -> Words:
        _, south = both(bench)
        run = bench.copy(bench.assets.pretrained, "net")
        content = json.loads((run / "patients.json").read_text())
        content["train"] = [{"case": case, "patient": case, "cohort": "unknown"} for case in ("P1", "P2")]
        write_json(run / "patients.json", content)
        return "evaluate", run, "--data", south, "--out", "out"

    yield Trial(
        "D",
        "equal ids of another hospital than the training's",
        other_hospital,
        "told",
        ("P1|patients",),
        may_leave=True,
    )


def unknown_training() -> Iterator[Trial]:
    damages = {"gone": None, "empty object": {}, "empty lists": {"train": [], "val": []}, "without train": {"val": []}}
    for name, content in damages.items():
        for asset, verb in (
            ("pretrained", "evaluate"),
            ("tuned", "evaluate"),
            ("pretrained", "naivetune"),
            ("classifier", "classify evaluate"),
        ):

            def use(bench: Bench, content: object = content, asset: str = asset, verb: str = verb) -> Words:
                run = bench.copy(getattr(bench.assets, asset), "net")
                (run / "patients.json").unlink(missing_ok=True)
                if content is not None:
                    write_json(run / "patients.json", content)
                data = bench.assets.good("brats2023", 1)
                return {
                    "evaluate": ("evaluate", run, "--data", data, "--out", "out", "--no-surface", "--pictures", 0),
                    "naivetune": ("naivetune", "--from", run, *short(bench, "naivetune")[2:]),
                    "classify evaluate": ("classify", "evaluate", run, "--data", bench.assets.good("image-folder", 6), "--out", "out", "--pictures", 0),
                }[verb]  # fmt: skip

            yield Trial(
                "D",
                f"{asset}'s patients.json {name}, {verb}",
                use,
                "told",
                ("patients.json|training patients|trained on",),
                may_leave=True,
            )

    def loose(bench: Bench) -> Words:
        for suffix in ("safetensors", "json"):
            bench.copy(bench.assets.pretrained / "checkpoints" / f"best.{suffix}", f"net.{suffix}")
        return "evaluate", bench.place / "net.safetensors", "--data", bench.assets.good("brats2023", 1), "--out", "out"

    yield Trial(
        "D",
        "weights outside of a run, evaluate",
        loose,
        "warned",
        ("training patients|trained on|patients",),
        may_leave=True,
    )


TRIALS = [*mixtures(), *strays(), *sessions(), *hospitals(), *unknown_training()]
