"""Parameters of merge methods: names, types and limits, checked before anything is read.

Standard library only: the workflow checks presets with it when it starts.
"""

import math
from collections.abc import Mapping
from typing import Any

from mergeloom.errors import MergeloomError

# An interval in the usual notation, "(0, 1]" for 0 < x ≤ 1, or the values that may be chosen.
Limits = Mapping[str, str | tuple[Any, ...]]


def check_parameters(
    method: str,
    defaults: Mapping[str, Any],
    limits: Limits,
    given: Mapping[str, Any],
    what: str = "merge method",
) -> dict[str, Any]:
    """Return all parameters of a method: those given, and the defaults of the rest.

    Parameters
    ----------
    what : the method is, for the error.
    defaults : name and default value; a value given must be of the default's type. A parameter
        whose default is None takes a whole number or None, one whose default is an empty tuple
        takes a list of numbers.

    Raises
    ------
    MergeloomError
        If a name is given that the method does not have (the message lists those that exist), or
        a value is of another type or out of its limits.
    """
    if unknown := sorted(set(given) - set(defaults)):
        exist = ", ".join(f"{name} (default {value})" for name, value in defaults.items())
        raise MergeloomError(
            f"The {what} {method} has no parameter {', '.join(unknown)}. It has: {exist or 'none'}."
        )
    for name, value in given.items():
        if not _fits(value, defaults[name], limits.get(name)):
            raise MergeloomError(
                f"The {what} {method}: {name} is {value!r}, expected "
                f"{describe(defaults[name], limits.get(name))}."
            )
    # A whole number where a fraction is meant stands for the same value, and gives the same bytes.
    return {
        name: float(value) if isinstance(default, float) else value
        for name, default in defaults.items()
        for value in [given.get(name, default)]
    }


def describe(default: Any, limit: str | tuple[Any, ...] | None) -> str:
    """Say in words which values a parameter takes."""
    if isinstance(limit, tuple):
        return "one of " + ", ".join(map(str, limit))
    kinds: dict[type, str] = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        tuple: "a list of numbers, for instance [1, 2],",
        type(None): "none, or a whole number",
    }
    kind = kinds.get(type(default), "text")
    return kind + (f" in {limit}" if limit else "")


def _fits(value: Any, default: Any, limit: str | tuple[Any, ...] | None) -> bool:
    if isinstance(limit, tuple):
        return value in limit and isinstance(value, bool) == isinstance(limit[0], bool)
    if isinstance(default, tuple):
        return isinstance(value, list | tuple) and all(_fits(v, 0.0, limit) for v in value)
    if default is None:
        if value is None:
            return True
        default = 0
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, float):
        return isinstance(value, int | float) and _within(value, limit)
    return isinstance(value, type(default)) and (limit is None or _within(value, limit))


def _within(value: float, interval: str | None) -> bool:
    if not math.isfinite(value):
        return False
    if interval is None:
        return True
    low, high = (float(bound) for bound in interval[1:-1].split(","))
    above = value > low if interval[0] == "(" else value >= low
    below = value < high if interval[-1] == ")" else value <= high
    return above and below
