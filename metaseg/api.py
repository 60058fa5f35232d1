"""The package's functions: verbs with their settings as arguments, and :func:`load`.

Networks, losses and cases of the caller's own are taken where the command line takes names and folders.

Examples:
    A network is trained on synthetic phantoms for one epoch, and segments one of them:

    >>> import numpy as np
    >>> import metaseg
    >>> small = {"channels": [4, 8, 8], "strides": [2, 2]}
    >>> source = metaseg.pretrain(
    ...     epochs=1, slices_per_epoch=8, phantom_cases=4, model_options=small, out="run", progress=False
    ... )
    >>> source.steps
    1
    >>> network = metaseg.load(source)
    >>> network.modalities
    ('flair', 't1', 't1ce', 't2')
    >>> network.predict(np.random.default_rng(0).random((4, 32, 32, 8))).shape
    (32, 32, 8)
"""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metaseg.results import Result
from metaseg.verbs import ADAPTATION, CLASSIFIER, PRETRAINING, STUDY, VERBS, Verb

if TYPE_CHECKING:
    from metaseg.inference.predictor import Predictor

OBJECTS = {
    "cases": "Cases of metaseg.cases.read_cases or of your own, instead of data.",
    "network": "A network to adapt, instead of from_run; with modalities, unless it is of metaseg.load.",
}
CLASSES = {"Case": "metaseg.cases.case", "MetasegError": "metaseg.errors", "Predictor": "metaseg.inference.predictor"}


def public(name: str) -> Any:
    """What ``metaseg.NAME`` is: a verb's function, :func:`load`, or a class."""
    if name in CLASSES:
        return getattr(import_module(CLASSES[name]), name)
    return load if name == "load" else next(verb_function(verb) for verb in VERBS if verb.identifier == name)


def load(run: str | Path | Result, checkpoint: str = "best", *, device: str = "auto", tta: bool = False) -> Predictor:
    """The segmentation network of a run, ready to predict.

    Args:
        run: A run folder, a checkpoint, or the result of a verb that made a run.
        checkpoint: ``best`` or ``last`` of a run.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        tta: Average over flips.

    Returns:
        Its ``network`` is a plain :class:`torch.nn.Module`, its ``card`` says what it is, and ``predict(case)`` gives
        labels on the case's own grid.

    Raises:
        MetasegError: There is no such run, it is damaged, or made with a plug-in that is not installed.
    """
    from metaseg.inference.predictor import Predictor

    return Predictor.load(_as_setting(run), checkpoint, device=device, tta=tta)


def positional(verb: Verb) -> tuple[str, ...]:
    """Names of the settings that may be given without their name: what a verb works on."""
    if verb.kind == STUDY:
        return ("config",)
    return tuple(field.name for field in verb.fields if field.argument) or ("data",)


def objects(verb: Verb) -> tuple[str, ...]:
    """Names of a function's arguments that are objects and no settings."""
    trains = verb.kind in (PRETRAINING, ADAPTATION, CLASSIFIER)
    return (*(("cases",) if trains else ()), *(("network",) if verb.kind == ADAPTATION else ()))


def verb_function(verb: Verb) -> Callable[..., Any]:
    """A verb as a function."""
    names = positional(verb)

    def function(*arguments: Any, **settings: Any) -> Any:
        given = dict(zip(names, arguments, strict=False))
        if len(arguments) > len(names) or given.keys() & settings.keys():
            raise TypeError(f"{verb.identifier}() takes {', '.join(names)} by place or by name, all else by name")
        given |= settings
        file, progress = given.pop("config", None), given.pop("progress", True)
        from metaseg.terminal import quiet

        with contextlib.nullcontext() if progress else quiet():
            return verb.run(verb.settings(None if file is None else Path(file), as_settings(verb, given)))

    function.__name__ = function.__qualname__ = verb.identifier
    function.__module__ = "metaseg"
    function.__doc__ = docstring(verb)
    function.__signature__ = signature(verb)  # type: ignore[attr-defined]
    return function


def signature(verb: Verb) -> inspect.Signature:
    """The parameters of a verb's function, as ``help()`` shows them."""
    names, fields = positional(verb), {field.name: field for field in verb.fields}
    defaults = {name: field.default for name, field in fields.items()}
    defaults |= dict.fromkeys((*objects(verb), "config")) | {"progress": True}
    ordered = [*names, *(name for name in defaults if name not in names)]
    empty = inspect.Parameter.empty
    return inspect.Signature(
        [
            inspect.Parameter(
                name,
                inspect.Parameter.POSITIONAL_OR_KEYWORD if name in names else inspect.Parameter.KEYWORD_ONLY,
                default=empty if name in fields and fields[name].argument else defaults[name],
            )
            for name in ordered
        ]
    )


def docstring(verb: Verb) -> str:
    """What a verb's function does, and its settings."""
    helps = {field.name: field.help for field in verb.fields}
    helps |= {name: OBJECTS[name] for name in objects(verb)}
    helps |= {"config": "YAML file of settings; others win over it.", "progress": "False: print and show nothing."}
    lines = [f"    {name}: {text}" for name, text in helps.items()]
    result = verb.result.partition(":")[2]
    return f"{verb.help}\n\nArgs:\n" + "\n".join(lines) + f"\n\nReturns:\n    {result}.\n"


def as_settings(verb: Verb, given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they stand in a file, from arguments that may be objects.

    Args:
        verb: The verb.
        given: Its arguments. ``cases`` are cases instead of folders, ``network`` is a network instead of a run.
    """
    values: dict[str, Any] = {}
    known = {field.name for field in verb.fields}
    if given.get("network") is not None and given.get("from_run") is not None:
        raise TypeError("network and from_run are both given")
    for name, value in given.items():
        if value is None and name in objects(verb):
            continue
        if name == "cases" and name not in known:
            name = "data"
        elif name == "loss" and callable(value):
            value = _given_loss(value)
        elif name == "network" and "from_run" in known:
            name, value = "from_run", _given_network(value, given)
        values[name] = _as_setting(value)
    return values


def _as_setting(value: Any) -> Any:
    """A text or plain value for what an argument may be: a path, a result, cases, a network or a function."""
    if isinstance(value, Result):
        if not hasattr(value, "run"):
            raise TypeError(f"a {type(value).__name__} stands for no run; give its folder")
        return str(value.run)
    if isinstance(value, Path):
        # A run's path comes as a Path from an earlier call, where a text is asked for.
        return str(value)
    if isinstance(value, list | tuple) and any(isinstance(item, Result) for item in value):
        return tuple(map(_as_setting, value))
    items = value if isinstance(value, list | tuple) else [value]
    if items and all(type(item).__name__ == "Case" for item in items):
        from metaseg.cases.readers import give_cases

        return (give_cases(items),)
    if "torch" in sys.modules and isinstance(value, sys.modules["torch"].nn.Module):
        from metaseg.models import give_network

        return give_network(value)
    if callable(value):
        return f"{value.__module__}:{value.__qualname__}"
    return value


def _given_loss(loss: Callable[..., Any]) -> str:
    from metaseg.training.optimization import give_loss

    return give_loss(loss)


def _given_network(network: Any, given: Mapping[str, Any]) -> str:
    """The checkpoint that stands for a network in memory: of a predictor, or a module and ``modalities``.

    Raises:
        TypeError: The network's modalities are not given.
    """
    from metaseg.runs.networks import give_loaded

    modalities, space = getattr(network, "modalities", given.get("modalities")), getattr(network, "space", None)
    if not modalities:
        raise TypeError("a network in memory needs its modalities, in the order in which it takes them: modalities=")
    names = modalities.split(",") if isinstance(modalities, str) else list(modalities)
    cache = Path(given["cache"]) if given.get("cache") else None
    return give_loaded(getattr(network, "network", network), names, space and space.name, cache)
