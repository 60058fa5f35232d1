"""What an adaptation leaves, for Python callers and for the command line's last lines."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from metaseg.runs.folder import RunFolder


@dataclass(frozen=True)
class AdaptationResult:
    """Figures of an adaptation on the watched cases; None where nothing could be measured.

    Attributes:
        run: The run folder.
        spent: Work done, in slice gradient evaluations.
        before: ``dice/target/ET`` and the like, before tuning.
        after: The same at the end.
        forgetting: ``forgetting/ET`` and the like: source Dice before minus after.
        synthetic: Whether phantoms were among the data.
    """

    spent: int
    before: dict[str, float | None]
    after: dict[str, float | None]
    forgetting: dict[str, float | None]
    synthetic: bool
    run: Path = Path()


def adaptation_result(run: RunFolder) -> AdaptationResult:
    """Read a finished adaptation's result and print it."""
    result: AdaptationResult = replace(run.read_json("result.json", AdaptationResult), run=run.path)
    print(f"run: {result.run}" + ("   (SYNTHETIC phantoms, not patients)" if result.synthetic else ""))
    for name, before in result.before.items():
        print(f"  {name:<18} {_shown(before)} -> {_shown(result.after.get(name))}")
    for name, value in result.forgetting.items():
        print(f"  {name:<18} {_shown(value)}")
    return result


def _shown(value: float | None) -> str:
    return "   - " if value is None else f"{value:5.3f}"
