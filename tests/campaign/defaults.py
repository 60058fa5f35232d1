"""Kind J: defaults that surprise, plans that promise what the run refuses, help that is wrong."""

from __future__ import annotations

from collections.abc import Iterator

from campaign.bench import TUNED, Bench, short
from campaign.trial import Result, Trial, Words


def starts() -> Iterator[Trial]:
    for verb in ("metatune", "naivetune", "tune"):
        for name, options in (
            ("", ()),
            (" and a source", ("--source", "DATA")),
            (" and a split", ("--split", "SPLIT")),
        ):

            def use(bench: Bench, verb: str = verb, options: Words = options) -> Words:
                data = bench.data("brats2023", 3)
                split = bench.split(data, counts=(1, 1, 1))
                given = [data if word == "DATA" else split if word == "SPLIT" else word for word in options]
                return verb, "--data", data, "--out", "run", *TUNED, *given

            yield Trial("J", f"{verb} --data{name} without --from", use, "refused", ("--from",))

        def newest(bench: Bench, verb: str = verb) -> Words:
            (bench.place / "runs").mkdir()
            bench.copy(bench.assets.pretrained, "runs/older")
            return verb, "--data", bench.assets.good("brats2023", 3), "--out", "run", *TUNED

        yield Trial("J", f"{verb} --data where a run lies under runs/", newest, "refused", ("--from",))

        def no_data(bench: Bench, verb: str = verb) -> Words:
            return (
                verb,
                "--from",
                bench.assets.pretrained,
                "--source",
                bench.assets.good("brats", 2),
                "--out",
                "run",
                *TUNED,
            )

        if verb == "naivetune":
            name, said = f"{verb} --from and --source without --data", ("no --data.*synthetic",)
            yield Trial("J", name, no_data, "warned", said, may_leave=True, listed=True, slow=True)

        def shots(bench: Bench, verb: str = verb) -> Words:
            data = bench.data("brats2023", 6)
            split = bench.split(data, counts=(3, 1, 2))
            return (
                verb,
                "--from",
                bench.assets.pretrained,
                "--data",
                data,
                "--split",
                split,
                "--out",
                "run",
                *TUNED,
                "--shots",
                5,
            )

        yield Trial(
            "J", f"{verb} --shots 5 of a part of three patients", shots, "refused", ("shots", "split|part", "3|three")
        )

        def many(bench: Bench, verb: str = verb) -> Words:
            return verb, *short(bench, verb), "--shots", 9

        yield Trial("J", f"{verb} --shots 9 of three patients", many, "refused", ("shots|patients",))

        def no_part(bench: Bench, verb: str = verb) -> Words:
            data = bench.data("brats2023", 4)
            split = bench.split(data)
            return (
                verb,
                "--from",
                bench.assets.pretrained,
                "--data",
                data,
                "--split",
                split,
                "--train-part",
                "trian",
                "--out",
                "run",
                *TUNED,
            )

        yield Trial("J", f"{verb} --train-part trian", no_part, "refused", ("trian", "train"))

        def part_alone(bench: Bench, verb: str = verb) -> Words:
            return verb, *short(bench, verb), "--train-part", "val"

        yield Trial(
            "J", f"{verb} --train-part without --split", part_alone, "told", ("train.part|split",), may_leave=True
        )

    def fold_alone(bench: Bench) -> Words:
        return "pretrain", *short(bench, "pretrain"), "--fold", 0

    yield Trial("J", "--fold without --split", fold_alone, "refused", ("fold", "split"))

    def part_without_split(bench: Bench) -> Words:
        return (
            "evaluate",
            bench.assets.pretrained,
            "--data",
            bench.assets.good("brats2023", 1),
            "--part",
            "test",
            "--out",
            "out",
        )

    yield Trial("J", "evaluate --part without --split", part_without_split, "refused", ("part", "split"))

    def phantoms(bench: Bench, verb: str = "pretrain") -> Words:
        return "pretrain", *short(bench, "pretrain"), "--phantom-cases", 5

    yield Trial("J", "--phantom-cases beside --data", phantoms, "told", ("phantom",), may_leave=True)
    for verb, name, value, right in (
        ("metatune", "order", "activ", "active"), ("metatune", "order", "Active", "active"), ("metatune", "method", "mmal", "maml"),
        ("naivetune", "method", "rehears", "rehearse"), ("pretrain", "model", "unnet", "unet"), ("pretrain", "augment", "ful", "full"),
        ("pretrain", "optimizer", "adamW2", "adamw"), ("pretrain", "precision", "16", "16-mixed"), ("pretrain", "labels", "whole", "whole-lesion"),
        ("pretrain", "format", "bratz", "brats"), ("pretrain", "weights", "imagnet", "weights"), ("classify train", "model", "resnet51", "resnet50"),
        ("classify train", "transfer", "freze", "freeze"), ("classify train", "monitor", "aucc", "auc"), ("classify active", "acquisition", "margn", "margin"),
        ("classify train", "label", "grad", "grade"), ("classify train", "classes", "gliom,meningioma", "glioma"),
        ("pretrain", "classes", "HGGG", "HGG"), ("pretrain", "modalities", "flair,t1gb", "t1"),
    ):  # fmt: skip

        def misspelt(bench: Bench, verb: str = verb, name: str = name, value: str = value) -> Words:
            return *verb.split(), *short(bench, verb), f"--{name}", value

        yield Trial(
            "J",
            f"{verb} --{name} {value}",
            misspelt,
            "refused",
            (value.split(",")[0] if name == "classes" else value.split(",")[-1], right),
        )
    for verb, option in (
        ("pretrain", "--epoch"),
        ("predict", "--ttta"),
        ("metatune", "--shot"),
        ("data check", "--jsn"),
        ("data split", "--part"),
        ("evaluate", "--threshold"),
    ):

        def unknown(bench: Bench, verb: str = verb, option: str = option) -> Words:
            return *verb.split(), option, "1"

        yield Trial("J", f"{verb} {option}", unknown, "refused", (option,))
    for verb in ("predic", "classify trian", "data chek", "tunes"):
        yield Trial(
            "J", f"the verb {verb}", lambda bench, verb=verb: (*verb.split(), "x"), "refused", (verb.split()[-1],)
        )
    for key in ("learning_rat", "Epochs", "learning-rate ", "epochs.", "data_"):

        def misspelt_key(bench: Bench, key: str = key) -> Words:
            (bench.place / "settings.yaml").write_text(f"'{key}': 3\n")
            return "pretrain", *short(bench, "pretrain"), "--config", "settings.yaml"

        yield Trial("J", f"YAML key '{key}'", misspelt_key, "refused", ("settings.yaml", key.strip().strip("_.")))
    yamls = {
        "a key twice": "epochs: 3\nepochs: 4\n", "a list": "- epochs\n", "text": "epochs\n", "tabs": "epochs:\t3\n\tseed: 1\n",
        "an object of Python": "epochs: !!python/object/apply:os.system ['true']\n", "an alias bomb": "a: &a [x]\nb: &b [*a, *a]\nepochs: *b\n",
        "a boolean for a number": "epochs: yes\n", "a word for a number": "epochs: ten\n", "a fraction for a number": "epochs: 2.5\n",
        "a list for a number": "epochs: [1, 2]\n", "a number of text": "seed: '0x10'\n",
        "invalid UTF-8": "latin\xe9: 1\n", "two documents": "epochs: 1\n---\nepochs: 2\n",
    }  # fmt: skip
    for name, content in yamls.items():

        def file(bench: Bench, content: str = content) -> Words:
            (bench.place / "settings.yaml").write_bytes(content.encode("latin-1"))
            return (
                "pretrain",
                *short(bench, "pretrain")[:4],
                "--config",
                "settings.yaml",
                "--model-options",
                '{"channels":[4,8],"strides":[2]}',
            )

        yield Trial("J", f"YAML with {name}", file, "refused", ("settings.yaml|epochs|data|seed",))


COMPARE = {
    "from": "NET", "targets": "{met: {data: DATA, classes: [MET]}}", "methods": "{naive: {}}", "shared": "{slices: 4, source: SOURCE, split: SPLIT}", "shots": "[1]", "seeds": "1",
    "budget": "4", "marks": "1",
}  # fmt: skip
ENTRIES = {
    "shared": "{data: PICTURES, model: lau-cnn, input_size: 16, epochs: 1}",
    "entries": "{a: {}, b: {epochs: 2}}",
    "seeds": "1",
}
SEARCH = {"shared": "{data: PICTURES, model: lau-cnn, input_size: 16, epochs: 1}", "trials": "1"}
WRONG_PLANS: tuple[tuple[str, str, dict[str, str | None], str], ...] = (
    ("compare", "no source network", {"from": None}, "from|pretrain"),
    ("compare", "a source network that is not there", {"from": "nowhere"}, "nowhere"),
    ("compare", "a classifier as source", {"from": "CLASSIFIER"}, "classif|segment"),
    ("compare", "both from and pretrain", {"pretrain": "{epochs: 1}"}, "from|pretrain"),
    ("compare", "no target", {"targets": "{}"}, "target"),
    ("compare", "a target that is not there", {"targets": "{met: {data: nowhere}}"}, "nowhere"),
    ("compare", "a target without data", {"targets": "{met: {}}"}, "met|data"),
    ("compare", "a target of a misspelt setting", {"targets": "{met: {data: DATA, formt: brats}}"}, "formt"),
    ("compare", "a target of an unknown class", {"targets": "{met: {data: DATA, classes: [LGG]}}"}, "LGG"),
    ("compare", "a target of an unknown format", {"targets": "{met: {data: DATA, format: bratz}}"}, "bratz|format"),
    ("compare", "a target named ..", {"targets": "{'../x': {data: DATA}}"}, r"\.\./x"),
    ("compare", "no methods", {"methods": "{}"}, "method"),
    ("compare", "an unknown method", {"methods": "{naiv: {}}"}, "naiv"),
    ("compare", "an unknown method behind a label", {"methods": "{mine: {method: naiv}}"}, "naiv"),
    ("compare", "a setting of another method", {"methods": "{naive: {order: active}}"}, "order"),
    ("compare", "a misspelt setting", {"methods": "{naive: {learning_rat: 0.1}}"}, "learning_rat"),
    ("compare", "a setting of the wrong type", {"methods": "{naive: {learning_rate: much}}"}, "learning_rate"),
    ("compare", "a negative rate", {"methods": "{naive: {learning_rate: -1}}"}, "learning_rate"),
    ("compare", "a setting that the study sets", {"methods": "{naive: {seed: 3}}"}, "seed"),
    ("compare", "a label with a slash", {"methods": "{'a/b': {method: naive}}"}, "a/b"),
    ("compare", "an unknown order", {"methods": "{maml: {order: activ}}"}, "activ"),
    ("compare", "a threshold of words", {"methods": "{maml: {threshold: half}}"}, "threshold|half"),
    ("compare", "more shots than patients", {"shots": "[9]"}, "shots|patients"),
    ("compare", "no shots", {"shots": "[]"}, "shots"),
    ("compare", "negative shots", {"shots": "[-1]"}, "shots"),
    ("compare", "shots twice", {"shots": "[1, 1]"}, "shots"),
    ("compare", "seeds twice", {"seeds": "[1, 1]"}, "seeds"),
    ("compare", "a negative seed", {"seeds": "[-1]"}, "seed"),
    ("compare", "a seed beyond 64 bits", {"seeds": "[99999999999999999999999]"}, "seed"),
    ("compare", "an unknown region", {"region": "XT"}, "XT|region"),
    ("compare", "a split that is not there", {"shared": "{split: nowhere.json}"}, "nowhere"),
    ("compare", "an unknown part", {"test_part": "tset"}, "tset"),
    ("compare", "a source that is not there", {"shared": "{source: nowhere, split: SPLIT}"}, "nowhere"),
    ("compare", "rehearsal without a source", {"methods": "{rehearse: {}}", "from": "MOVED", "shared": "{split: SPLIT}"}, "source|rehears"),
    ("compare", "an oracle that is not there", {"methods": "{maml: {order: oracle, oracle: nowhere}}"}, "nowhere|oracle"),
    ("compare", "an unknown modality", {"shared": "{modalities: [flair, t3], source: SOURCE, split: SPLIT}"}, "t3|modalit"),
    ("compare", "a search in the test part", {"trials": "2", "search_part": "test"}, "search|test"),
    ("compare", "a search seed among the seeds", {"trials": "2", "seeds": "[0, 1000]"}, "search_seed|1000"),
    ("compare", "a storage nobody knows", {"trials": "2", "storage": "nosql://x"}, "storage|nosql"),
    ("compare", "a device that is not there", {"device": "cuda:7"}, "cuda"),
    ("classify compare", "no entries", {"entries": "{}"}, "entries"),
    ("classify compare", "an unknown model", {"entries": "{a: {model: resnet5000}}"}, "resnet5000|model"),
    ("classify compare", "a misspelt setting", {"entries": "{a: {epoch: 2}, b: {}}"}, "epoch"),
    ("classify compare", "a wrong verb", {"entries": "{a: {verb: activ}, b: {}}"}, "verb|activ"),
    ("classify compare", "an unknown strategy", {"entries": "{a: {verb: active, acquisition: margn}, b: {}}"}, "margn|acquisition"),
    ("classify compare", "an unknown baseline", {"baseline": "c"}, "baseline"),
    ("classify compare", "data that are not there", {"shared": "{data: nowhere}"}, "nowhere"),
    ("classify compare", "an unknown class", {"shared": "{data: PICTURES, classes: [a, b]}"}, "class"),
    ("classify compare", "weights that are not there", {"shared": "{data: PICTURES, weights: nowhere}"}, "nowhere|weights"),
    ("classify compare", "a run of another task as weights", {"shared": "{data: PICTURES, weights: NET}"}, "segment|classif"),
    ("classify compare", "a split that is not there", {"shared": "{data: PICTURES, split: nowhere.json}"}, "nowhere"),
    ("classify compare", "a fold without a split", {"shared": "{data: PICTURES, fold: 1}"}, "fold"),
    ("classify search", "a misspelt setting in the space", {"space": "{learning_rat: [1e-3]}"}, "learning_rat"),
    ("classify search", "an empty list in the space", {"space": "{learning_rate: []}"}, "learning_rate"),
    ("classify search", "low above high", {"space": "{learning_rate: {low: 1, high: 0.1}}"}, "learning_rate|low"),
    ("classify search", "a logarithm of 0", {"space": "{learning_rate: {low: 0, high: 0.1, log: true}}"}, "learning_rate|log"),
    ("classify search", "values that the setting refuses", {"space": "{learning_rate: [-1, -2]}"}, "learning_rate"),
    ("classify search", "a setting that is no number", {"space": "{optimizer: {low: 0, high: 1}}"}, "optimizer"),
    ("classify search", "an unknown model", {"shared": "{data: PICTURES, model: resnet5000}"}, "resnet5000|model"),
    ("classify search", "data that are not there", {"shared": "{data: nowhere}"}, "nowhere"),
)  # fmt: skip


def plans() -> Iterator[Trial]:
    for verb, name, changes, named in WRONG_PLANS:

        def use(bench: Bench, verb: str = verb, changes: dict[str, str | None] = changes) -> Words:
            good = {"compare": COMPARE, "classify compare": ENTRIES, "classify search": SEARCH}[verb]
            settings = {key: value for key, value in (good | changes).items() if value is not None}
            written = "".join(f"{key}: {value}\n" for key, value in settings.items())
            data = bench.data("brats2023", 4)
            if "MOVED" in written:
                # The network's own data are no longer where they were.
                run = bench.copy(bench.assets.pretrained, "net")
                config = (run / "config.yaml").read_text().replace(str(bench.assets.good("brats", 4)), "/nowhere")
                (run / "config.yaml").write_text(config)
            for word, path in (
                ("NET", bench.assets.pretrained), ("CLASSIFIER", bench.assets.classifier), ("MOVED", bench.place / "net"),
                ("PICTURES", bench.assets.good("image-folder", 8)), ("SPLIT", bench.place / "split.json"), ("DATA", data),
                ("SOURCE", bench.assets.good("brats", 4)),
            ):  # fmt: skip
                if word == "SPLIT" and word in written:
                    bench.split(data, bench.assets.good("brats", 4))
                written = written.replace(word, str(path))
            (bench.place / "study.yaml").write_text(written)
            return *verb.split(), "study.yaml", "--dry-run"

        yield Trial("J", f"{verb} --dry-run of {name}", use, "refused", (named,))
    for verb, good in (("compare", COMPARE), ("classify compare", ENTRIES), ("classify search", SEARCH)):

        def fine(bench: Bench, verb: str = verb, good: dict[str, str] = good) -> Words:
            written = "".join(f"{key}: {value}\n" for key, value in good.items())
            data, source = bench.assets.good("brats2023", 4), bench.assets.good("brats", 4)
            for word, path in (
                ("NET", bench.assets.pretrained), ("DATA", data), ("PICTURES", bench.assets.good("image-folder", 8)),
                ("SOURCE", source), ("SPLIT", bench.split(data, source)),
            ):  # fmt: skip
                written = written.replace(word, str(path))
            (bench.place / "study.yaml").write_text(written)
            return *verb.split(), "study.yaml", "--dry-run"

        yield Trial("J", f"{verb} --dry-run of a good plan", fine, "same")


def says(*patterns: str) -> object:
    import re

    def metrics(result: Result) -> dict[str, float]:
        flat = " ".join(result.out.split())
        return {pattern: float(bool(re.search(pattern, flat, re.IGNORECASE))) for pattern in patterns}

    return metrics


def helps() -> Iterator[Trial]:
    """Help that says what the verb does."""

    def plain(bench: Bench) -> Words:
        return "runs", bench.place

    for verb, wrong in (
        ("evaluate", r"--data PATH\S* [^-]*default: synthetic phantoms"),
        ("tune", r"--source PATH\S* [^-]*source disease to watch"),
    ):  # fmt: skip
        yield Trial(
            "J", f"{verb} --help", lambda bench, verb=verb: (verb, "--help"), "same", like=plain, metrics=says(wrong),  # type: ignore[arg-type]
        )  # fmt: skip


TRIALS = [*starts(), *plans(), *helps()]
