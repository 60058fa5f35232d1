"""A committee's list against SciPy's entropies, and a ranking that another run takes against one of its own."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from active_runs import left_by
from scipy.special import rel_entr
from scipy.stats import entropy

from metaseg.classify import active
from metaseg.classify.active import run_classify_active
from metaseg.classify.rounds import read_rounds
from metaseg.classify.uncertainty import list_file, member_probabilities, read_list, uncertainty_list, write_list
from metaseg.config.classification import ClassifyActiveConfig
from metaseg.config.io import load_config
from metaseg.errors import DataError, RunError, UsageError

HAO = {
    "acquisition": "committee", "initial": 0.3, "batch": 0.3, "budget": 1, "rounds": 2, "rank": "all", "fit": "reset",
    "fit_on": "chosen", "epochs": 1,
}  # fmt: skip
DRAWS = [
    {"drop_top": 0.1, "drop_bottom": 0.1, "draw": "random"},
    {"drop_bottom": 0.7},
    {"drop_top": 0.1, "drop_bottom": 0.1, "draw": "random", "batch": 0.5, "fit_on": "labelled", "budget": 0.6},
]


@pytest.fixture
def probabilities():
    chances = np.random.default_rng(3).dirichlet([0.3, 0.3], size=(3, 20))
    chances[0, 0] = 1.0, 0.0  # a member that is sure
    return chances


@pytest.fixture
def slices(open_set):
    return open_set().take(range(20))


@pytest.fixture
def table(slices, probabilities):
    ranking = np.random.default_rng(0).permutation(20)
    return uncertainty_list(slices, probabilities, ranking, np.arange(20) < 6, ranking[2:5])


@pytest.fixture(scope="module")
def ranked(common, tmp_path_factory):
    """A run whose ranking others can take."""
    settings = common | HAO | {"drop_bottom": 0.5, "out": tmp_path_factory.mktemp("ranked") / "run"}
    return run_classify_active(load_config(ClassifyActiveConfig, None, settings)).run


@pytest.fixture
def damaged(ranked, tmp_path):
    """A copy of it, to be damaged."""
    return shutil.copytree(ranked, tmp_path / "ranked")


def test_entropies_and_divergences_are_scipys(table, probabilities):
    for member in range(3):
        np.testing.assert_allclose(table[f"entropy_{member + 1}"], entropy(probabilities[member], axis=1), atol=1e-13)
        assert table[f"prob_right_{member + 1}"].tolist() == probabilities[member, :, 1].tolist()
    some = probabilities[:, 1:]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        both = rel_entr(some[one], some[other]).sum(axis=1) + rel_entr(some[other], some[one]).sum(axis=1)
        np.testing.assert_allclose(table[f"divergence_{one + 1}_{other + 1}"][1:], both, atol=1e-12)
    parts = table[[name for name in table if name.startswith(("entropy", "divergence"))]]
    np.testing.assert_allclose(table["score"], parts.sum(axis=1), rtol=1e-12)


def test_ranks_labels_and_choice_stand_where_they_belong(table):
    ranking = np.random.default_rng(0).permutation(20)
    assert table.sort_values("rank").index.tolist() == ranking.tolist()
    assert table["labelled"].tolist() == [1] * 6 + [0] * 14
    assert sorted(table.index[table["chosen"] == 1]) == sorted(ranking[2:5])


def test_probabilities_come_back_to_the_bit(tmp_path, table, slices, probabilities):
    write_list(tmp_path, 2, table, "", synthetic=True)
    assert np.array_equal(member_probabilities(list_file(tmp_path, 2), slices), probabilities)


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda text: text.replace("prob_left_2", "prob_none_2"), "probabilities cannot be used"),
        (lambda text: text.replace("\n", "\n\n").replace("left00", "left99"), "of other slices"),
        (lambda text: "\n".join(text.splitlines()[:-1]), "ranks are not those of a ranking"),
        (lambda text: text.replace("rank", "place"), "lacks the column rank"),
    ],
)
def test_a_damaged_list_is_refused(tmp_path, table, slices, damage, match):
    write_list(tmp_path, 2, table.sort_values("rank", ascending=False, kind="stable").sort_index(), "", synthetic=True)
    path = list_file(tmp_path, 2)
    path.write_text(damage(path.read_text()))
    with pytest.raises(RunError, match=match):
        member_probabilities(path, slices)


def test_a_run_keeps_the_list_it_chose_from(ranked, parts_of):
    table, (first, second) = read_list(list_file(ranked, 2)), read_rounds(ranked)
    assert table["slice"].tolist() == parts_of().train.ids
    assert set(table["slice"][table["labelled"] == 1]) == set(first.chosen)
    chosen = table[table["chosen"] == 1].sort_values("rank")
    assert chosen["slice"].tolist() == list(second.chosen)
    assert chosen["score"].tolist() == list(second.scores)
    assert chosen["rank"].tolist() == [1, 2, 3, 4, 5, 6]
    assert list_file(ranked, 2).with_suffix(".png").exists()


@pytest.mark.parametrize("draw", DRAWS)
def test_a_ranking_taken_gives_the_run_that_makes_its_own(active_config, ranked, tmp_path, monkeypatch, draw):
    own = run_classify_active(active_config(**HAO | draw, out=tmp_path / "own")).run
    fits, real = [], active.fit_round
    monkeypatch.setattr(active, "fit_round", lambda *args, **named: fits.append(1) or real(*args, **named))
    taken = run_classify_active(active_config(**HAO | draw, ranking_from=ranked)).run
    assert len(fits) == 1
    assert left_by(taken) == left_by(own)
    assert list_file(taken, 2).read_text() == list_file(own, 2).read_text()


@pytest.mark.parametrize("name", ["choose", "fit_round", "measure_test_part"])
def test_an_interrupted_run_goes_on_with_the_ranking_it_took(active_config, ranked, tmp_path, monkeypatch, name):
    own = left_by(run_classify_active(active_config(**HAO | DRAWS[0], out=tmp_path / "own")).run)
    config = HAO | DRAWS[0] | {"ranking_from": ranked}

    def interrupt(*args, **named):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(active, name, interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_classify_active(active_config(**config))
    assert left_by(run_classify_active(active_config(**config, resume=True)).run) == own


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"learning_rate": 0.02}, r"(?s)other settings: learning_rate: 0.01 -> 0.02.*the same but for --batch"),
        ({"seed": 1}, "seed: 0 -> 1"),
        ({"acquisition": "entropy"}, "takes the ranking of a committee"),
        ({"fit": "continue"}, "takes the ranking of a committee"),
        ({"rounds": 1}, "takes the ranking of a committee"),
    ],
)
def test_a_ranking_of_other_settings_is_refused(active_config, ranked, tmp_path, changes, match):
    with pytest.raises(UsageError, match=match):
        run_classify_active(active_config(**HAO | changes, ranking_from=ranked))
    assert not (tmp_path / "run").exists()


def test_a_ranking_of_other_data_is_refused(active_config, damaged):
    inputs = json.loads((damaged / "inputs.json").read_text())
    inputs["cases"]["data"].popitem()
    (damaged / "inputs.json").write_text(json.dumps(inputs))
    with pytest.raises(UsageError, match="the cases are others"):
        run_classify_active(active_config(**HAO, ranking_from=damaged))


def test_a_run_without_a_ranking_is_refused(active_config, damaged, tmp_path):
    list_file(damaged, 2).unlink()
    with pytest.raises(RunError, match="has no ranking of a committee"):
        run_classify_active(active_config(**HAO, ranking_from=damaged))
    shutil.rmtree(damaged)
    with pytest.raises(DataError, match="what --ranking-from names does not exist"):
        run_classify_active(active_config(**HAO, ranking_from=damaged))
