"""Options of a network: names, types, limits and defaults, by the signature of what builds it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from metaseg.errors import UsageError


class NoOptions(BaseModel):
    """Of a network that is as it is."""

    model_config = ConfigDict(extra="forbid")


def options_of(build: Callable[..., object], before: int) -> type[BaseModel]:
    """The options that a function or class takes; their annotations are enforced.

    Args:
        build: Its last parameters are the options, with a default that JSON can hold.
        before: How many parameters stand before them.
    """
    typed = build.__init__ if isinstance(build, type) else build  # type: ignore[misc]
    hints = get_type_hints(typed, include_extras=True)
    parameters = list(inspect.signature(build).parameters.values())[before:]
    fields: dict[str, Any] = {
        parameter.name: (
            hints.get(parameter.name, Any),
            ... if parameter.default is parameter.empty else parameter.default,
        )
        for parameter in parameters
    }
    return create_model(f"{build.__name__}_options", __config__=ConfigDict(extra="forbid"), **fields)


def validated_options(name: str, kind: type[BaseModel], given: Mapping[str, object]) -> BaseModel:
    """All options of a network, with defaults filled in.

    Args:
        name: The network, for messages.
        kind: As from :func:`options_of`.
        given: Options by name.

    Raises:
        UsageError: An option is unknown or has a wrong value.
    """
    try:
        return kind(**given)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
        known = [f"{option} (default {field.default})" for option, field in kind.model_fields.items()]
        raise UsageError(
            f"wrong option of network '{name}': " + "; ".join(problems),
            expected=", ".join(known) or "no options: this network has none",
        ) from error
