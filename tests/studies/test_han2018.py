"""Han's study as it is shipped: every command of its file's header, on phantoms, reduced in sizes and nothing else."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import torch
import yaml
from imagenet_files import shaped_like_imagenet
from torchvision.models.vgg import cfgs

from metaseg.adapt.watch import read_marks
from metaseg.cases.phantoms import make_phantoms
from metaseg.cases.splits import Split
from metaseg.studies.tables import read_study_table

FILE = Path(__file__).resolve().parents[2] / "configs" / "paper" / "han2018.yaml"
SIZES = {
    "shots": [2], "seeds": [0], "budget": 8, "marks": 1, "first_marks": 1, "trials": 1, "resamples": 100, "threads": 1,
}  # fmt: skip
PRETRAINING = {"epochs": 1, "slices_per_epoch": 16, "image_size": 32}

pytestmark = pytest.mark.skipif(not FILE.exists(), reason="needs the repository")


def vgg16() -> dict[str, torch.Tensor]:
    """ImageNet-shaped weights whose features let gradients through, as trained ones do."""
    generator = torch.Generator().manual_seed(0)
    return {
        key: torch.randn(weights.shape, generator=generator) * (2 / weights[0].numel()) ** 0.5
        if key.startswith("features.") and key.endswith("weight")
        else torch.zeros(1).expand(weights.shape)
        for key, weights in shaped_like_imagenet("torchvision", "vgg16").items()
    }


@pytest.fixture
def folder(tmp_path, monkeypatch, imagenet) -> Path:
    """A folder with the file, smaller in nothing but sizes, and with phantoms where it looks for patients."""
    # VGG-16 in all its layers, with an eighth of its channels.
    monkeypatch.setitem(cfgs, "D", [width if width == "M" else width // 8 for width in cfgs["D"]])
    imagenet.publish("vgg16", vgg16())
    for name in ("METASEG_BRATS", "METASEG_BRATS_SPLIT", "METASEG_TARGET", "METASEG_TARGET_SPLIT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("METASEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    make_phantoms(Path("data/BraTS2018/HGG"), cohort="hgg", cases=4)
    make_phantoms(Path("data/metastasis"), cohort="met", cases=5)
    settings = yaml.safe_load(FILE.read_text())
    settings |= SIZES | {"device": "cpu"}
    settings["pretrain"] |= PRETRAINING
    settings["shared"] |= {"slices": 4, "image_size": 32}
    copy = Path("configs/paper/han2018.yaml")
    copy.parent.mkdir(parents=True)
    copy.write_text(yaml.safe_dump(settings))
    return tmp_path


def commands() -> list[list[str]]:
    """The header's commands in their order, with the patients divided as five allow."""
    header = [line for line in FILE.read_text().splitlines() if line.startswith("#   metaseg ")]
    words = [shlex.split(line.removeprefix("#   metaseg ").partition("  #")[0]) for line in header]
    assert [line[0] for line in words] == ["data", "data", "data", "data", "compare", "compare", "report"]
    return [["train=2,val=1,test=2" if word == "train=20,val=4,test=6" else word for word in line] for line in words]


def test_the_file_runs_from_raw_folders_to_the_report(folder, call):
    def printed_by(*words: str) -> str:
        code, printed, said = call(*words)
        assert code == 0, (words, said)
        return printed

    *prepare, dry, compare, report = commands()
    for words in prepare:
        printed_by(*words)
    assert "left to do: 5 cells, 5 trials in 5 searches" in printed_by(*dry)
    assert not Path("studies").exists()
    # Without a search, and then with one.
    printed_by(*compare, "--trials", "0")
    printed = printed_by(*compare)
    assert "5 of 5 cells are done" in printed
    assert "beside Han et al. 2018" in printed
    assert "SYNTHETIC" in printed
    for published in ("0.66", "0.33 ± 0.3413", "0.41 ± 0.2752", "0.45 ± 0.2317"):
        assert published in printed
    study = Path("studies/han2018")
    parts = {name: Split.load(f"data/{name}-split.json").parts for name in ("brats", "metastasis")}
    for cell in study.glob("cells/metastasis/*/shots-2/seed-0"):
        watched = {
            domain: {row["case"] for row in read_marks(cell) if row["domain"] == domain}
            for domain in ("source", "target")
        }
        assert watched == {"source": set(parts["brats"]["test"]), "target": set(parts["metastasis"]["test"])}
    for trial in study.glob("searches/metastasis/*/trials/*"):
        rows = json.loads((trial / "patients.json").read_text())
        assert {row["case"] for row in rows["source"]} == set(parts["brats"]["val"])
        assert {row["case"] for row in rows["target"]} == set(parts["metastasis"]["val"])
    assert set(read_study_table(study / "results.csv")["method"]) == set(yaml.safe_load(FILE.read_text())["methods"])
    # Pictures take longer than all else here, and have tests of their own.
    printed_by(*report, "--worst", "0", "--no-figures")
    assert "SYNTHETIC" in (study / "report.html").read_text()
