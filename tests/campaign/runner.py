"""Runs trials in this process, through the command line's own entry, and says what was not as it must be."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from campaign.bench import Assets, Bench
from campaign.trial import Result, Trial, Words
from metaseg.cli import main

MOST_SECONDS = 20
"""A command that has not ended by then is stuck."""
MOST_LINES = 12
"""Lines that a message may take: what was found, where, what was expected and what to do."""


def run(
    words: Words, assets: Assets, place: Path, during: Callable[[], AbstractContextManager[object]] = nullcontext
) -> Result:
    """Run a command line in ``place``, in such surroundings."""
    before = _files(place)
    out, err = io.StringIO(), io.StringIO()
    with _surroundings(assets, place), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), during():
        try:
            main.run([str(word) for word in words])
        except SystemExit as end:
            code = int(end.code or 0)
    return Result(code, out.getvalue(), err.getvalue(), place, tuple(sorted(_files(place) - before)))


@contextlib.contextmanager
def _surroundings(assets: Assets, place: Path) -> Iterator[None]:
    """The working folder, environment and signals of a user's shell, put back afterwards."""
    handler, folder, environment = signal.getsignal(signal.SIGTERM), Path.cwd(), dict(os.environ)
    os.environ.update(METASEG_CACHE=str(assets.cache), COLUMNS="200")
    os.environ.pop("METASEG_DEBUG", None)
    os.chdir(place)
    signal.signal(signal.SIGALRM, _give_up)
    signal.alarm(MOST_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        signal.signal(signal.SIGTERM, handler)


def _give_up(number: int, frame: object) -> None:
    raise KeyboardInterrupt(f"it did not end within {MOST_SECONDS} s")


def _files(place: Path) -> set[str]:
    return {str((Path(folder) / name).relative_to(place)) for folder, _, names in os.walk(place) for name in names}


def faults(trial: Trial, assets: Assets, place: Path) -> list[str]:
    """What is wrong with the outcome of a trial, in words; nothing if all is as it must be."""
    place.mkdir(parents=True)
    with contextlib.redirect_stdout(io.StringIO()):
        words = trial.arrange(Bench(assets, place))
    result = run(words, assets, place, trial.during)
    found = list(_faults_of_any(trial, result))
    if trial.outcome == "refused" or (trial.outcome == "told" and result.code):
        found += _not_refused(trial, result)
    elif trial.outcome in ("warned", "told"):
        found += _not_warned(trial, result)
    elif trial.outcome == "goes on":
        found += _not_going_on(trial, result)
    elif result.code != 0:
        found.append(f"exit code {result.code} where the good input's metrics are due")
    if trial.like is not None and not found:
        found += _other_metrics(trial, result, assets)
    if found:
        shown = " ".join(str(word) for word in words)
        found.append(f"$ metaseg {shown}\nexit {result.code}\n{result.out[-1500:]}\n{result.err[-2500:]}")
    return found


def _faults_of_any(trial: Trial, result: Result) -> Iterator[str]:
    both = result.out + result.err
    if "Traceback" in both or re.search(r"unexpected \w+(Error|Exception)|and report it", both):
        yield "it ends as a fault of the program"
    if result.code not in (0, 1, 2):
        yield f"exit code {result.code}"


def _not_refused(trial: Trial, result: Result) -> Iterator[str]:
    if result.code not in (1, 2):
        yield f"not refused: exit code {result.code}"
        return
    findings = _findings(result)
    if findings is None:
        message = _message(result)
        if len(re.findall(r"^metaseg: ", message, re.MULTILINE)) != 1:
            yield "not one message"
        if message.count("\n") + 1 > MOST_LINES:
            yield f"a message of {message.count(chr(10)) + 1} lines"
    else:
        message = "\n".join(str(finding) for finding in findings if finding["severity"] == "error")
    yield from _unnamed(trial, message)
    left = [name for name in result.written if not name.endswith(".lock")]
    if left and not trial.may_leave:
        yield f"left behind: {', '.join(left[:4])}"


def _not_warned(trial: Trial, result: Result) -> Iterator[str]:
    if result.code != 0:
        yield f"exit code {result.code} where a warning is due"
        return
    findings = _findings(result)
    if trial.listed:
        message = result.out
    elif findings is None:
        message = "\n".join(_warnings(result))
    else:
        message = "\n".join(str(finding) for finding in findings) + "\n".join(_warnings(result))
    if not message:
        yield "silent"
    else:
        yield from _unnamed(trial, message)


def _not_going_on(trial: Trial, result: Result) -> Iterator[str]:
    if result.code != 1:
        yield f"exit code {result.code}, 1 is due"
    yield from _unnamed(trial, result.err)
    if not result.written:
        yield "the other cases were not done"


def _unnamed(trial: Trial, message: str) -> Iterator[str]:
    for name in trial.names:
        if not re.search(name, message, re.IGNORECASE):
            yield f"the message does not name '{name}'"


def _other_metrics(trial: Trial, result: Result, assets: Assets) -> Iterator[str]:
    assert trial.like is not None
    assert trial.metrics is not None
    place = result.place.with_name(result.place.name + "-good")
    place.mkdir()
    good = run(trial.like(Bench(assets, place)), assets, place)
    wanted, got = trial.metrics(good), trial.metrics(result)
    if not wanted:
        yield "the good input gives no metrics"
    for name, value in wanted.items():
        if name not in got:
            yield f"no metric {name}"
        elif abs(got[name] - value) > trial.tolerance:
            yield f"{name} is {got[name]:g}, of the good input {value:g}"


def _message(result: Result) -> str:
    """Standard error without its warnings."""
    lines, warning = [], False
    for line in result.err.splitlines():
        warning = line.startswith("metaseg: warning:") or (warning and line.startswith("  "))
        if not warning and line.strip():
            lines.append(line)
    return "\n".join(lines)


def _warnings(result: Result) -> list[str]:
    """Each warning on standard error, with its further lines."""
    found: list[str] = []
    inside = False
    for line in result.err.splitlines():
        if line.startswith("metaseg: warning:"):
            found.append(line)
        elif inside and line.startswith("  "):
            found[-1] += f"\n{line}"
        inside = line.startswith("metaseg: warning:") or (inside and line.startswith("  "))
    return found


def _findings(result: Result) -> list[dict[str, str]] | None:
    """What ``data check --json`` found; None of any other command."""
    try:
        content = json.loads(result.out)
    except ValueError:
        return None
    return content.get("findings") if isinstance(content, dict) else None


def volumes(result: Result) -> dict[str, float]:
    """Volumes in ml that ``predict`` wrote, by case and region."""
    return {
        f"{file.parent.name}/{file.stem}/{region}": size["voxels"]
        for file in sorted(result.place.rglob("*.json"))
        if "pred" in file.parts[-2] or "pred" in str(file)
        for region, size in (json.loads(file.read_text()).get("volumes") or {}).items()
    }
