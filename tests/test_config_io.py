from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaseg.config.classification import ClassifyActiveConfig, ClassifyTrainConfig
from metaseg.config.io import (
    config_text,
    config_verb,
    describe_fields,
    dump_config,
    load_config,
    present_names,
    shaping_values,
)
from metaseg.config.segmentation import EvaluateConfig, MetatuneConfig, NaivetuneConfig, PredictConfig, PretrainConfig
from metaseg.config.studies import ClassifyCompareConfig
from metaseg.errors import UsageError, recorded_warnings

ALL = (PretrainConfig, MetatuneConfig, NaivetuneConfig, EvaluateConfig, PredictConfig)


def written(folder: Path, text: str) -> Path:
    path = folder / "settings.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def failure(cls: type, path: Path | None = None, **overrides: object) -> UsageError:
    with pytest.raises(UsageError) as caught:
        load_config(cls, path, overrides)
    return caught.value


def test_nothing_given_is_the_dataclass_itself() -> None:
    assert load_config(PretrainConfig) == PretrainConfig()


def test_file_sets_and_overrides_win(tmp_path: Path) -> None:
    path = written(tmp_path, "verb: pretrain\nepochs: 3\nlearning-rate: 1e-4\n")
    config = load_config(PretrainConfig, path, {"epochs": 5})
    assert (config.epochs, config.learning_rate) == (5, 1e-4)


def test_values_as_typed_are_brought_to_their_types(tmp_path: Path) -> None:
    path = written(tmp_path, "data: cases\nthreshold: 0.5\nclasses: HGG, 3\n")
    config = load_config(MetatuneConfig, path, {"source": ["a", "b"], "first_order": "yes", "image_size": "128"})
    assert config.data == (Path("cases"),)
    assert config.source == (Path("a"), Path("b"))
    assert config.threshold == "0.5"
    assert config.classes == ("HGG", "3")
    assert config.first_order is True
    assert config.image_size == 128


@pytest.mark.parametrize("text", ["160,192", "160x192", "[160, 192]"])
def test_window_may_be_written_in_three_ways(tmp_path: Path, text: str) -> None:
    assert load_config(PretrainConfig, written(tmp_path, f"window: {text}\n")).window == (160, 192)


def test_none_takes_a_value_of_the_file_back(tmp_path: Path) -> None:
    path = written(tmp_path, "image_size: 64\n")
    assert load_config(PretrainConfig, path, {"image_size": "none"}).image_size is None


def test_mapping_may_be_json_or_yaml(tmp_path: Path) -> None:
    path = written(tmp_path, "model_options: {channels: [8, 16]}\n")
    assert load_config(PretrainConfig, path).model_options == {"channels": [8, 16]}
    assert load_config(PretrainConfig, None, {"model_options": '{"channels": [8]}'}).model_options == {"channels": [8]}


def test_option_name_is_an_alias(tmp_path: Path) -> None:
    assert load_config(MetatuneConfig, written(tmp_path, "from: runs/a\n")).from_run == "runs/a"
    assert "given twice" in failure(MetatuneConfig, written(tmp_path, "from: a\nfrom_run: b\n")).found


def test_environment_and_home_are_filled_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METASEG_TEST_DATA", "/somewhere")
    monkeypatch.delenv("METASEG_TEST_UNSET", raising=False)
    path = written(
        tmp_path,
        "data: ['${METASEG_TEST_DATA}/a', '${METASEG_TEST_UNSET:-b}/c']\nfrom: ${METASEG_TEST_DATA}/run\nout: ~/run\n",
    )
    config = load_config(MetatuneConfig, path)
    assert config.data == (Path("/somewhere/a"), Path("b/c"))
    assert config.from_run == "/somewhere/run"
    assert config.out == Path.home() / "run"
    error = failure(MetatuneConfig, written(tmp_path, "data: ${METASEG_TEST_UNSET}/a\n"))
    assert "METASEG_TEST_UNSET is not set" in error.found


def test_typo_names_the_nearest_key(tmp_path: Path) -> None:
    path = written(tmp_path, "epoch: 3\n")
    error = failure(PretrainConfig, path)
    assert error.found == "unknown setting 'epoch'"
    assert error.where == path
    assert error.remedy == "did you mean 'epochs'?"


@pytest.mark.parametrize(
    ("text", "found", "expected"),
    [
        ("epochs: 0", "'epochs' is 0", "a whole number of at least 1"),
        ("epochs: many", "'epochs' is 'many'", "a whole number of at least 1"),
        ("epochs: true", "'epochs' is True", "a whole number of at least 1"),
        ("batch_size:", "'batch_size' is empty", "a whole number of at least 1"),
        ("val_fraction: 1.0", "'val_fraction' is 1.0", "a number of at least 0.0 and below 1.0"),
        ("learning_rate: 0", "'learning_rate' is 0", "a number above 0"),
        ("learning_rate: .inf", "'learning_rate' is inf", "a number above 0"),
        ("optimizer: adam", "'optimizer' is 'adam'", "one of adamw, sgd"),
        (
            "window: [1, 2, 3]",
            "'window' is [1, 2, 3]",
            "each a whole number of at least 16, or none",
        ),
        ("data: [1]", "'data' is [1]", "a path or several"),
        ("out: ''", "'out' is empty", "a path, or none"),
        ("device: ''", "'device' is empty", "a text"),
        ("model_options: '{'", "which is no JSON", "a JSON object"),
        ("model_options: [1]", "'model_options' is [1]", "a mapping, or its JSON text"),
        ("image_size: 8", "'image_size' is 8", "a whole number of at least 16, or none"),
        ("resume: perhaps", "'resume' is 'perhaps'", "true or false"),
    ],
)
def test_wrong_value_says_what_was_found_and_expected(tmp_path: Path, text: str, found: str, expected: str) -> None:
    path = written(tmp_path, text + "\n")
    error = failure(PretrainConfig, path)
    assert found in error.found
    assert error.where == path
    assert expected in str(error.expected)
    assert error.exit_code == 2


def test_override_is_blamed_by_its_flag() -> None:
    assert failure(PretrainConfig, batch_size=0).where == "--batch-size"


def test_all_that_is_wrong_is_told_in_one_message(tmp_path: Path) -> None:
    path = written(tmp_path, "epochs: 0\nfoo_bar_baz: 1\nval_share: 2\ndata: ${METASEG_TEST_NO_SUCH}\n")
    message = str(failure(PretrainConfig, path, optimizer="adam"))
    assert message.startswith("5 settings are wrong")
    for part in (
        "foo_bar_baz",
        "'epochs' is 0",
        "'val_fraction' is 2",
        "METASEG_TEST_NO_SUCH",
        "'optimizer' is 'adam'",
    ):
        assert part in message


@pytest.mark.parametrize(
    "text",
    ["epochs: [1\n", "epochs: 1\nepochs: 2\n", "a: b: c\n", "? [a]\n: 1\n", "\tx: 1\n", "- 1\n", "3: 4\n", "text"],
)
def test_unreadable_yaml_is_a_usage_error(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, text)
    error = failure(PretrainConfig, path)
    assert error.where == path
    assert "\n" not in error.found


def test_unreadable_files_are_usage_errors(tmp_path: Path) -> None:
    assert "cannot be read" in failure(PretrainConfig, tmp_path / "missing.yaml").found
    assert "cannot be read" in failure(PretrainConfig, tmp_path).found
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00\x9f")
    assert "no text in UTF-8" in failure(PretrainConfig, binary).found


def test_file_of_another_verb_is_refused(tmp_path: Path) -> None:
    error = failure(PretrainConfig, written(tmp_path, "verb: metatune\n"))
    assert error.found == "the config file is for 'metaseg metatune'"
    error = failure(PretrainConfig, written(tmp_path, "verb: classify-compare\n"))
    assert error.found == "the config file is for 'metaseg classify compare'"
    assert str(error.remedy).startswith("give it to 'metaseg classify compare'")


def test_positional_arguments_are_needed_but_may_come_from_the_file(tmp_path: Path) -> None:
    assert failure(EvaluateConfig).found == "RUN is missing"
    message = str(failure(PredictConfig))
    assert "RUN is missing" in message
    assert "CASES is missing" in message
    assert failure(PredictConfig, run="a", cases=[]).found == "CASES is missing"
    assert load_config(PredictConfig, written(tmp_path, "run: a\ncases: b\n")).cases == (Path("b"),)


def test_empty_file_sets_nothing(tmp_path: Path) -> None:
    assert load_config(PretrainConfig, written(tmp_path, "# nothing\n")) == PretrainConfig()


text = st.text(
    st.characters(codec="utf-8", exclude_characters="$\0", exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1
)


WHOLE = st.integers(-(2**63) + 1, 2**63 - 1)


@settings(deadline=None)
@given(
    data=st.lists(st.sampled_from(["a", "b c", "/x/ü", "yes", "1", "- x", "#c", "null"]), max_size=3),
    names=st.lists(st.sampled_from(["HGG", "no", "3", "1e3", "null", "~"]), max_size=3),
    rate=st.floats(min_value=1e-12, max_value=1e6, allow_nan=False),
    threshold=text,
    options=st.dictionaries(text, st.one_of(WHOLE, st.booleans(), st.none(), text, st.lists(WHOLE))),
    window=st.none() | st.tuples(*[st.integers(16, 2**63 - 1)] * 2),
)
def test_dump_and_load_give_an_equal_config(
    tmp_path_factory: pytest.TempPathFactory,
    data: list[str],
    names: list[str],
    rate: float,
    threshold: str,
    options: dict,
    window: tuple[int, int] | None,
) -> None:
    path = tmp_path_factory.mktemp("dump") / "config.yaml"
    tuned = MetatuneConfig(
        data=tuple(map(Path, data)), classes=tuple(names), threshold=threshold, inner_learning_rate=rate
    )
    trained = PretrainConfig(model_options=options, window=window, learning_rate=rate)
    for config in (tuned, trained):
        dump_config(config, path)
        assert load_config(type(config), path) == config
    assert [entry.name for entry in path.parent.iterdir()] == ["config.yaml"]


def test_written_text_is_grouped_as_the_help() -> None:
    lines = config_text(MetatuneConfig(from_run="runs/a", data=(Path("x"), Path("y")))).splitlines()
    assert lines[0] == "verb: metatune"
    assert "# Adaptation" in lines
    assert "data: [x, y]" in lines
    assert "from: runs/a" in lines


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    dump_config(PretrainConfig(epochs=7), path)
    with pytest.raises(Exception, match="cannot represent"):
        dump_config(PretrainConfig(model_options={"a": object()}), path)
    assert load_config(PretrainConfig, path).epochs == 7
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize("cls", ALL)
def test_every_field_is_described(cls: type) -> None:
    described = describe_fields(cls)
    assert [field.name for field in described] == [field.name for field in dataclasses.fields(cls)]
    assert len({field.option for field in described}) == len(described)
    for field in described:
        assert field.help.endswith("."), field.name
        assert field.option == field.option.strip("-")


def test_verb_of_a_config_class() -> None:
    assert [config_verb(cls) for cls in ALL] == ["pretrain", "metatune", "naivetune", "evaluate", "predict"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", "1e400"),
        ("clip_norm", float("inf")),
        ("recall_weight", float("nan")),
        ("seed", 2**63),
        ("epochs", "99999999999999999999"),
        ("model_options", {"channels": [8, 1e999]}),
        ("model_options", '{"deep": {"deeper": [NaN]}}'),
        ("model_options", "[" * 100_000),
        ("window", "0,0"),
        ("window", (240, -1)),
    ],
)
def test_numbers_that_no_library_takes_are_refused_wherever_they_stand(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=name):
        load_config(PretrainConfig, None, {name: value})


def test_modalities_have_one_spelling() -> None:
    config = load_config(PretrainConfig, None, {"modalities": "T1Gd,FLAIR,t2w"})
    assert config.modalities == ("t1ce", "flair", "t2")
    with pytest.raises(UsageError, match="one modality stands there twice"):
        load_config(PretrainConfig, None, {"modalities": "T1Gd,t1c"})


@pytest.mark.parametrize(
    ("given_values", "ignored"),
    [
        ({"train_part": "val"}, "--train-part"),
        ({"data": "x", "phantom_cases": 5}, "--phantom-cases"),
    ],
)
def test_settings_without_meaning_are_told(given_values: dict[str, Any], ignored: str) -> None:
    with recorded_warnings() as heard:
        load_config(PretrainConfig, None, given_values)
    assert len(heard) == 1
    assert heard[0].startswith(f"{ignored} is ignored")


@pytest.mark.parametrize(
    ("cls", "earlier", "present"),
    [
        (PretrainConfig, {"strategy": "ddp", "val-share": 0.2}, {"processes": "ddp", "val_fraction": 0.2}),
        (MetatuneConfig, {"learned_inner_rates": True}, {"learnable_inner_rates": True}),
        (ClassifyTrainConfig, {"strategy": "freeze"}, {"transfer": "freeze"}),
        (ClassifyActiveConfig, {"strategy": "bald", "patch_share": 1}, {"acquisition": "bald", "patch_fraction": 1}),
        (ClassifyCompareConfig, {"figure": "f1"}, {"metric": "f1"}),
    ],
)
def test_settings_of_earlier_releases_are_read(tmp_path: Path, cls: Any, earlier: Any, present: Any) -> None:
    config = load_config(cls, None, present)
    text = "".join(f"{name}: {value}\n" for name, value in earlier.items())
    assert load_config(cls, written(tmp_path, text)) == load_config(cls, None, earlier) == config
    assert present_names(cls, earlier) == present
    # What digests are made of is as before.
    recorded = {name.replace("-", "_") for name in earlier}
    assert recorded - shaping_values(config).keys() <= {"strategy", "figure"}
    assert not shaping_values(config).keys() & present.keys() - {"transfer"}


def test_both_names_of_a_setting_contradict_each_other() -> None:
    with pytest.raises(UsageError, match="given twice, under two names"):
        load_config(PretrainConfig, None, {"val_share": 0.1, "val_fraction": 0.2})


def test_a_setting_that_came_later_is_recorded_where_it_is_used() -> None:
    assert "loss" not in shaping_values(PretrainConfig())
    assert shaping_values(load_config(PretrainConfig, None, {"loss": "my:loss"}))["loss"] == "my:loss"


@pytest.mark.parametrize(("value", "near"), [("unett", "unet"), ("segresnets", "segresnet")])
def test_mistyped_names_are_answered_with_the_nearest(value: str, near: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_config(PretrainConfig, None, {"model": value})
    assert caught.value.remedy == f"did you mean '{near}'?"
    assert load_config(PretrainConfig, None, {"model": "package.module:factory"}).model.endswith(":factory")
