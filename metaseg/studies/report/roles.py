"""Which methods stand out in the charts, and in which colour: naive, the paper's two, and the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from metaseg.studies.report.runs import ReportRun

FREE = ("best", "extra", "active", "passive", "naive")
"""Colours for methods without a role, where there are few enough to give each one."""


@dataclass(frozen=True)
class Roles:
    """The parts that methods play.

    Attributes:
        colours: Method to role of :data:`~metaseg.studies.report.chart_style.COLOURS`; ``other`` is grey.
        reference: The method that the others are measured against: naive where there is one.
        shown: Methods whose cases and choices are shown, at most five, the reference first.
        paper: Name in the paper (``naive``, ``passive``, ``active``) to method.
        floors: Trainings from random weights, which know nothing of the source.
    """

    colours: Mapping[str, str]
    reference: str
    shown: tuple[str, ...]
    paper: Mapping[str, str]
    floors: frozenset[str]

    @property
    def highlighted(self) -> tuple[str, ...]:
        """Methods that are not grey."""
        return tuple(method for method, role in self.colours.items() if role != "other")


def find_roles(methods: Sequence[str], best: str | None, runs: Sequence[ReportRun]) -> Roles:
    """Give each method its part.

    A method is the paper's if it is called so, or else if its runs have the paper's settings.

    Args:
        methods: All methods.
        best: The one with the highest balanced mean.
        runs: Their runs, where they are still there.
    """
    paper = {name: method for name in ("naive", "passive", "active") if (method := _paper_method(name, methods, runs))}
    colours = dict.fromkeys(methods, "other") | {method: name for name, method in paper.items()}
    if best is not None and colours[best] == "other":
        colours[best] = "best"
    left = [method for method in methods if colours[method] == "other"]
    free = [role for role in FREE if role not in colours.values()]
    if len(left) <= len(free):
        colours |= dict(zip(left, free, strict=False))
    reference = paper.get("naive", methods[0])
    first = [
        reference,
        *paper.values(),
        *([best] if best else []),
        *(one for one in methods if colours[one] != "other"),
    ]
    floors = {run.method for run in runs if run.settings.get("method") == "scratch"} | {"scratch"}
    return Roles(colours, reference, tuple(dict.fromkeys(first))[:5], paper, frozenset(floors & set(methods)))


def _paper_method(name: str, methods: Sequence[str], runs: Sequence[ReportRun]) -> str | None:
    if name in methods:
        return name
    fitting = [run.method for run in runs if run.method in methods and _is_papers(name, run)]
    return min(fitting, key=lambda method: (len(method), method)) if fitting else None


def _is_papers(name: str, run: ReportRun) -> bool:
    settings = run.settings
    if name == "naive":
        return run.verb in ("naivetune", "tune") and settings.get("method") == "naive"
    orders = {"passive": ("passive", "random"), "active": ("active",)}[name]
    plain_maml = settings.get("method") == "maml" and settings.get("replay", "none") == "none"
    return run.verb == "metatune" and plain_maml and settings.get("order") in orders
