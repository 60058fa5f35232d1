from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from metaseg.errors import UsageError
from metaseg.sampling import ORDERS, Pool, plan_case
from metaseg.sampling.tasks import Step, Task


def case(dice: list[float] | np.ndarray, first: int = 0) -> Pool:
    dice = np.asarray(dice, dtype=np.float64)
    index = np.arange(first, first + dice.size)
    scores = {"oracle": 1 - dice, "preference": 0.1 + dice}
    return Pool(index=index, dice=dice, entropy=dice[::-1], foreground=100 + index, scores=scores)


def test_algorithm_1_on_eight_slices_by_hand():
    # Slices 60 .. 67; the median is (0.4 + 0.6) / 2 = 0.5.
    # learned, descending:  62 (0.95), 66 (0.9), 60 (0.8), 64 (0.6);
    # unlearned, ascending: 63 (0), 61 (0.1), 67 (0.2), 65 (0.4).
    plan = plan_case(case([0.8, 0.1, 0.95, 0.0, 0.6, 0.4, 0.9, 0.2], first=60), "active", rng=np.random.default_rng(0))
    assert plan.decomposition.threshold == 0.5
    assert list(plan) == [
        Step((Task("learned", (62,), (66,)), Task("unlearned", (63,), (61,)))),
        Step((Task("learned", (60,), (64,)), Task("unlearned", (67,), (65,)))),
    ]
    assert plan.leftover == ()
    assert plan.draws == {"learned": (62, 66, 60, 64), "unlearned": (63, 61, 67, 65)}


def test_controls_on_the_same_eight_slices_by_hand():
    pool = case([0.8, 0.1, 0.95, 0.0, 0.6, 0.4, 0.9, 0.2], first=60)
    plans = {
        name: plan_case(pool, name, rng=np.random.default_rng(0))
        for name in ("reverse", "unlearned-only", "learned-only", "oracle")
    }
    assert list(plans["reverse"]) == [
        Step((Task("learned", (64,), (60,)), Task("unlearned", (65,), (67,)))),
        Step((Task("learned", (66,), (62,)), Task("unlearned", (61,), (63,)))),
    ]
    assert list(plans["unlearned-only"]) == [
        Step((Task("unlearned", (63,), (61,)),)),
        Step((Task("unlearned", (67,), (65,)),)),
    ]
    assert plans["unlearned-only"].leftover == (60, 62, 64, 66)
    assert list(plans["learned-only"]) == [
        Step((Task("learned", (62,), (66,)),)),
        Step((Task("learned", (60,), (64,)),)),
    ]
    assert plans["learned-only"].leftover == (61, 63, 65, 67)
    # The oracle of this pool finds easy what the network finds hard; the sides stay the network's own.
    assert plans["oracle"].draws == {"learned": (64, 60, 66, 62), "unlearned": (63, 61, 67, 65)}


def test_all_orders_see_the_same_sides():
    pool = case(np.linspace(0, 1, 13))
    plans = {name: plan_case(pool, name, rng=np.random.default_rng(3)) for name in ORDERS}
    for name, plan in plans.items():
        assert {side: sorted(draws) for side, draws in plan.draws.items()} == {
            side: getattr(plans["active"].decomposition, side).tolist() for side in ORDERS.get(name).sides
        }


def test_two_tasks_of_each_side_in_a_step():
    plan = plan_case(
        case([0.8, 0.1, 0.95, 0.0, 0.6, 0.4, 0.9, 0.2]), "active", tasks_per_step=2, rng=np.random.default_rng(0)
    )
    assert list(plan) == [
        Step(
            (
                Task("learned", (2,), (6,)),
                Task("learned", (0,), (4,)),
                Task("unlearned", (3,), (1,)),
                Task("unlearned", (7,), (5,)),
            )
        )
    ]


def test_algorithm_1_read_literally_takes_all_tasks_of_the_patient_in_one_step():
    pool, rng = case([0.9, 0.8, 0.1, 0.2, 0.3, 0.4, 0.45]), np.random.default_rng
    [step] = plan_case(pool, "active", 0.5, tasks_per_step=None, rng=rng(0))
    dealt = plan_case(pool, "active", 0.5, rng=rng(0))
    assert len(dealt) == 2
    assert sorted(step.tasks, key=str) == sorted((task for each in dealt for task in each.tasks), key=str)
    assert [task.kind for task in step.tasks] == ["learned", "unlearned", "unlearned"]
    assert len(plan_case(case([0.1, 0.9]), "active", tasks_per_step=None, rng=rng(0))) == 0


def test_when_one_side_is_used_up_the_other_goes_on_alone():
    plan = plan_case(case([0.9, 0.8, 0.1, 0.2, 0.3, 0.4, 0.45]), "active", 0.5, rng=np.random.default_rng(0))
    assert [[task.kind for task in step.tasks] for step in plan] == [["learned", "unlearned"], ["unlearned"]]
    assert plan.leftover == (6,)


def test_a_case_that_is_missed_wholly_has_tasks_on_both_sides():
    plan = plan_case(case([0.0] * 6), "active", rng=np.random.default_rng(0))
    assert plan.decomposition.fallback == "rank"
    assert [task.kind for task in plan.steps[0].tasks] == ["learned", "unlearned"]
    assert plan.leftover == (2, 5)


def test_a_case_too_small_for_a_task_has_no_step():
    plan = plan_case(case([0.1, 0.9]), "active", rng=np.random.default_rng(0))
    assert len(plan) == 0
    assert plan.leftover == (0, 1)
    with pytest.raises(UsageError, match="1 slice"):
        plan_case(case([0.1]), "active", rng=np.random.default_rng(0))


def test_passive_differs_from_active_in_order_alone():
    pool = case(np.linspace(0, 1, 24))
    active, passive = (plan_case(pool, name, rng=np.random.default_rng(1)) for name in ("active", "passive"))
    for kind in ("learned", "unlearned"):
        drawn = [
            {place for step in plan for task in step.tasks if task.kind == kind for place in task.support + task.query}
            for plan in (active, passive)
        ]
        assert drawn[0] == drawn[1]
    assert list(active) != list(passive)
    assert list(passive) != list(plan_case(pool, "passive", rng=np.random.default_rng(2)))


@pytest.mark.parametrize("order", ORDERS)
@settings(max_examples=40, deadline=None)
@given(
    dice=arrays(np.float64, st.integers(2, 30), elements=st.integers(0, 5).map(lambda x: x / 5)),
    rule=st.one_of(st.sampled_from(["median", "otsu", "rank"]), st.floats(0, 1)),
    tasks=st.integers(1, 3),
    support_size=st.integers(1, 3),
    query_size=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_every_slice_is_taken_once_or_left_over(order, dice, rule, tasks, support_size, query_size, seed):
    def plan():
        rng = np.random.default_rng(seed)
        pool = case(dice, first=40)
        return plan_case(pool, order, rule, tasks, rng=rng, support_size=support_size, query_size=query_size)

    steps = list(plan())
    assert steps == list(plan())
    drawn = [place for step in steps for task in step.tasks for place in (*task.support, *task.query)]
    assert sorted([*drawn, *plan().leftover]) == list(range(40, 40 + dice.size))
    wanted = ORDERS.get(order).sides
    sides = {side: 40 + getattr(plan().decomposition, side) for side in wanted}
    assert {side: sorted(draws) for side, draws in plan().draws.items()} == {
        side: positions.tolist() for side, positions in sides.items()
    }
    for step in steps:
        kinds = [task.kind for task in step.tasks]
        assert set(kinds) <= set(wanted)
        assert kinds
        assert max(kinds.count("learned"), kinds.count("unlearned")) <= tasks
        for task in step.tasks:
            assert (len(task.support), len(task.query)) == (support_size, query_size)
            assert np.isin([*task.support, *task.query], sides[task.kind]).all()
    whole = [side.size // (support_size + query_size) for side in sides.values()]
    assert sum(len(step.tasks) for step in steps) == sum(whole)
    assert len(steps) == -(-max(whole) // tasks)


def test_a_step_without_tasks_is_refused():
    with pytest.raises(ValueError, match="at least"):
        plan_case(case([0.1, 0.9]), "active", tasks_per_step=0, rng=np.random.default_rng(0))


@pytest.mark.parametrize("order", ["badge", "committee"])
def test_an_order_of_classifiers_plans_no_segmentation(order: str):
    with pytest.raises(UsageError, match=rf"(?s)unknown order '{order}'.*active, passive"):
        plan_case(case([0.1, 0.9, 0.3, 0.4]), order, rng=np.random.default_rng(0))
