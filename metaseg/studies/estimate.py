"""What a comparison would do and cost: the plan that ``--dry-run`` prints."""

from __future__ import annotations

from collections.abc import Mapping

from metaseg.config.io import plain_value
from metaseg.studies.cells import state_of
from metaseg.studies.display import Pace, duration
from metaseg.studies.plan import Plan, Unit, with_patients
from metaseg.studies.preparation import dry_patients
from metaseg.studies.search import best_values
from metaseg.studies.workers import left_to_do


def print_plan(plan: Plan, device: str) -> None:
    """Print a plan: every entry with its settings, what is done of it, and the cost of the rest. Writes nothing.

    Args:
        plan: The comparison.
        device: Where it would run.
    """
    plan = with_patients(plan, dry_patients(plan))
    todo = left_to_do(plan)
    _print_network(plan)
    for target in plan.targets:
        print(f"\ntarget {target}")
        for unit in (unit for unit in plan.units if unit.kind == "oracle" and unit.target == target):
            print(f"  oracle: naive tuning on all patients of the training part, {_word(plan, unit, todo)}")
        for label in plan.entries:
            _print_entry(plan, target, label, todo)
    _print_cost(plan, todo, device)


def _print_network(plan: Plan) -> None:
    print(f"study {plan.folder}")
    if plan.pretrain is None:
        print(f"source network {plan.network}")
    else:
        state = state_of(plan.network, plan.pretrain, plan.folder)
        print(f"source network {plan.network}: pretraining {state}")


def _print_entry(plan: Plan, target: str, label: str, todo: list[Unit]) -> None:
    entry = plan.entries[label]
    mine = [unit for unit in plan.units if (unit.target, unit.label) == (target, label)]
    cells = [unit for unit in mine if unit.kind == "cell"]
    left = [unit for unit in cells if unit in todo]
    settings = ", ".join(f"{name}={plain_value(value)}" for name, value in entry.settings.items())
    print(f"  {label}: {entry.method}{f' ({settings})' if settings else ''}")
    if plan.is_searched(label) and entry.searched_as != label:
        print(f"    takes the values that the search of {entry.searched_as} finds")
    elif plan.is_searched(label):
        space = ", ".join(parameter.text() for parameter in entry.space.values())
        best = best_values(plan, target, label)
        found = "to do" if best is None else "best " + ", ".join(f"{name}={_short(best[name])}" for name in best)
        print(f"    {plan.study.trials} trials: {space}; {found}")
    states = _states(plan, left)
    done = len(cells) - len(left)
    print(f"    {len(cells)} cells, {done} done" + "".join(f", {count} {word}" for word, count in states.items()))


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _states(plan: Plan, left: list[Unit]) -> Mapping[str, int]:
    """How the cells that are left stand, with their numbers."""
    counts: dict[str, int] = {}
    for unit in left:
        values = best_values(plan, unit.target, unit.label)
        word = "waiting for the search"
        if values is not None:
            state = state_of(plan.folder / unit.folder, plan.config(unit, values), plan.folder)
            word = {
                "missing": "to do",
                "changed": "to do again, their settings changed",
                "damaged": "to do again, they are damaged",
                "locked": "at work",
                "done": "to do again, their search changed",
            }.get(state, "to continue")
        counts[word] = counts.get(word, 0) + 1
    return counts


def _word(plan: Plan, unit: Unit, todo: list[Unit]) -> str:
    return "to do" if unit in todo else "done"


def _print_cost(plan: Plan, todo: list[Unit], device: str) -> None:
    study = plan.study
    searches = [unit for unit in todo if unit.kind == "search"]
    cells = [unit for unit in todo if unit.kind == "cell"]
    runs = len(cells) + study.trials * len(searches) + sum(unit.kind == "oracle" for unit in todo)
    evaluations = (study.marks + 1) * len(cells) + 2 * (runs - len(cells))
    print(f"\nleft to do: {len(cells)} cells, {study.trials * len(searches)} trials in {len(searches)} searches")
    print(f"  {runs * study.budget} slice gradient evaluations ({study.budget} in each run)")
    print(f"  {evaluations} evaluations of all watched patients")
    seconds = Pace(plan).seconds(todo)
    if not todo:
        print("  nothing: all is done")
    elif seconds is None:
        print("  no run is done yet that would tell the time")
    else:
        jobs = min(study.jobs, len(todo))
        print(f"  about {duration(seconds / jobs)} in {jobs} {'process' if jobs == 1 else 'processes'} on {device}")
