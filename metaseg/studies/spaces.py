"""Search spaces: which settings of a method are searched, and between what limits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from metaseg.config.io import Config, describe_fields, present_names
from metaseg.errors import UsageError

Value = float | int | str | bool
KEYS = ("low", "high", "log")


@dataclass(frozen=True)
class Parameter:
    """One searched setting: a range, or a list of values.

    Attributes:
        name: The setting.
        low: Lower end of a range.
        high: Upper end of a range, taken as well.
        log: Whether the range is searched evenly in its logarithm.
        whole: Whether the values are whole numbers.
        choices: The values of a list; empty for a range.
    """

    name: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    choices: tuple[Value, ...] = ()

    def nearest(self, value: Any) -> Value:
        """The value of the space that lies nearest to one, such as a default outside of it; its middle for None."""
        if value is None and not self.choices:
            value = math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2
        if self.choices:
            numbers = isinstance(value, int | float) and all(isinstance(choice, int | float) for choice in self.choices)
            if value in self.choices or not numbers:
                return value if value in self.choices else self.choices[0]
            return min(self.choices, key=lambda choice: abs(float(choice) - value))
        nearest = min(max(value, self.low), self.high)
        return round(nearest) if self.whole else float(nearest)

    def at(self, share: float) -> Value:
        """The value that lies a share in [0, 1) of the way through the space."""
        if self.choices:
            return self.choices[int(share * len(self.choices))]
        value = self.low * (self.high / self.low) ** share if self.log else self.low + (self.high - self.low) * share
        return round(value) if self.whole else float(value)

    def ends(self) -> tuple[Value, ...]:
        """The values that all others lie between, or all of a list."""
        if self.choices:
            return self.choices
        return (int(self.low), int(self.high)) if self.whole else (self.low, self.high)

    def distribution(self) -> Any:
        """The same for Optuna."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choices:
            return CategoricalDistribution(self.choices)
        if self.whole:
            return IntDistribution(int(self.low), int(self.high), log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)

    def text(self) -> str:
        """In words: ``learning_rate from 0.0001 to 0.003``."""
        if self.choices:
            return f"{self.name} of " + ", ".join(map(str, self.choices))
        return f"{self.name} from {self.low:g} to {self.high:g}"

    def plain(self) -> Any:
        """As it stands in a settings file."""
        return list(self.choices) if self.choices else {"low": self.low, "high": self.high, "log": self.log}


Space = Mapping[str, Parameter]
"""Searched settings by name; empty where nothing is searched."""


def _range(low: float, high: float) -> dict[str, Any]:
    return {"low": low, "high": high, "log": True}


_RATE = {"learning_rate": _range(1e-4, 3e-3)}
_HIGH_RATE = {"learning_rate": _range(1e-4, 1e-2)}
_RATES = {"outer_learning_rate": _range(1e-4, 3e-3), "inner_learning_rate": _range(1e-3, 1e-1)}

DEFAULT_SPACES: Mapping[str, Mapping[str, Any]] = {
    "head-only": _HIGH_RATE,
    "l2-sp": {**_RATE, "l2_sp_alpha": _range(1e-4, 1.0)},
    "ewc": {**_RATE, "ewc_lambda": _range(10.0, 1e5)},
    "lwf": {**_RATE, "lwf_lambda": _range(0.1, 10.0)},
    "replay": {**_RATE, "replay_fraction": {"low": 0.125, "high": 0.5}},
    "rehearse": {**_RATE, "replay_fraction": {"low": 0.125, "high": 0.5}},
    "wise-ft": {**_RATE, "interpolation": {"low": 0.25, "high": 0.75}},
    "lora": {**_HIGH_RATE, "lora_rank": [2, 4, 8]},
}
"""What is searched of a method unless its entry says otherwise, as in a settings file; few settings, since trials are
few. Of other plain methods the learning rate is searched, of meta methods the rates of both loops."""


def default_space(method: str, family: str) -> Mapping[str, Any]:
    """The space of a method, as in a settings file."""
    return DEFAULT_SPACES.get(method, _RATES if family == "meta" else _RATE)


def parse_space(space: Any, config: type[Config], searchable: frozenset[str], where: str) -> dict[str, Parameter]:
    """Read a space as it stands in a settings file.

    Args:
        space: Setting to range ``{low: 1e-4, high: 3e-3, log: true}`` or to a list of values.
        config: The settings of the method's verb.
        searchable: Settings that may be searched.
        where: Whose space it is, for messages.

    Raises:
        UsageError: A setting is unknown or not to be searched, or a range or list makes no sense.
    """
    if not isinstance(space, Mapping):
        raise UsageError(f"the space of {where} is '{space}'", expected="a mapping such as {lora_rank: [2, 4, 8]}")
    annotations = {field.name: field.annotation for field in describe_fields(config)}
    parsed = {}
    for key, value in present_names(config, space).items():
        name = str(key).replace("-", "_")
        if name not in searchable:
            raise UsageError(
                f"{where}: '{key}' is no setting to search",
                expected="one of " + ", ".join(sorted(searchable)),
            )
        parsed[name] = _parameter(name, value, annotations[name], where)
    return parsed


def _parameter(name: str, value: Any, annotation: Any, where: str) -> Parameter:
    if isinstance(value, list | tuple):
        if not value or len(set(map(str, value))) < len(value):
            raise UsageError(f"{where}: the values of '{name}' are {list(value)}", expected="values that differ")
        return Parameter(name, choices=tuple(value))
    if not isinstance(value, Mapping) or not {"low", "high"} <= set(value) <= set(KEYS):
        raise UsageError(
            f"{where}: the space of '{name}' is {value}",
            expected="{low: 1e-4, high: 1e-2, log: true}, or a list of values",
        )
    if annotation not in (int, float):
        raise UsageError(f"{where}: '{name}' is no number", expected="a list of its values instead of low and high")
    low, high = (_number(value[end], f"{where}: '{end}' of '{name}'") for end in ("low", "high"))
    log = value.get("log", False)
    if not isinstance(log, bool):
        raise UsageError(f"{where}: 'log' of '{name}' is '{log}'", expected="true or false")
    if low >= high:
        raise UsageError(f"{where}: the space of '{name}' runs from {low:g} to {high:g}", expected="low below high")
    if log and low <= 0:
        raise UsageError(f"{where}: 'low' of '{name}' is {low:g}", expected="a number above 0, since log is true")
    whole = annotation is int
    if whole and (low != int(low) or high != int(high)):
        raise UsageError(f"{where}: the space of '{name}' runs from {low:g} to {high:g}", expected="whole numbers")
    return Parameter(name, low, high, log, whole)


def _number(value: Any, what: str) -> float:
    # YAML reads 1e-4 as a text, since it has no point.
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"{what} is '{value}'", expected="a number")
    return number
