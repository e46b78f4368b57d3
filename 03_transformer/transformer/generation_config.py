"""How a model's authors sample from it: what its `generation_config.json` says, in the names of `SamplingParameters`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from groundwork.foreign_settings import ForeignSettings
from groundwork.user_errors import UserError
from transformer.sampling import SamplingParameters

FILE = "generation_config.json"
_DRAWING = ("temperature", "top_p", "min_p", "typical_p")


def recommended_sampling(generation_config: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that the file sets. Every program takes them for what its user did not set.

    >>> recommended_sampling({"temperature": 0.6, "top_p": 0.9, "eos_token_id": 2})
    {'temperature': 0.6, 'top_p': 0.9}
    >>> recommended_sampling({"do_sample": False, "temperature": 0.6})
    {'temperature': 0.0}

    Args:
        generation_config: the file's content, which may be empty.

    Returns:
        Names and values of `SamplingParameters`. Greedy is a temperature of 0.

    Raises:
        UserError: a value makes no sense.
    """
    settings = ForeignSettings(dict(generation_config), FILE)
    if settings.flag("do_sample", None) is False:
        found = {"temperature": 0.0}
    else:
        found = {name: settings.number(name, None) for name in _DRAWING}
        found["top_k"] = settings.whole("top_k", None)
    found["repetition_penalty"] = settings.number("repetition_penalty", None)
    found = {name: value for name, value in found.items() if value is not None}
    try:
        SamplingParameters(**found)  # type: ignore[arg-type]  # the names are those of its fields
    except ValueError as error:
        raise UserError(f"{FILE}: {error}") from None
    return found
