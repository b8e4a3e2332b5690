"""Options of the form --param name=value, as they were typed."""

import math
from collections.abc import Sequence
from typing import Any

import yaml

from mergeloom.errors import MergeloomError


def parse_parameters(
    given: Sequence[str], modifiers: Sequence[str] = ()
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Read "name=value" and "modifier.name=value", values as YAML.

    Returns
    -------
    parameters of the method, and of each modifier by its name.

    Raises
    ------
    MergeloomError
        For text of another form, a modifier that is not used, or a name given twice.
    """
    of_method: dict[str, Any] = {}
    of_modifiers: dict[str, dict[str, Any]] = {}
    for name in modifiers:
        if name in of_modifiers:
            raise MergeloomError(f"--modify {name} was given twice. Give it once.")
        of_modifiers[name] = {}
    for text in given:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not (equals and name):
            raise MergeloomError(f"--param {text}: expected name=value, for instance density=0.2.")
        owner, dot, rest = name.partition(".")
        if dot and owner not in of_modifiers:
            raise MergeloomError(
                f"--param {text}: {owner} is not among the modifiers of this merge. "
                f"Add --modify {owner}, or leave this parameter out."
            )
        target, key = (of_modifiers[owner], rest) if dot else (of_method, name)
        if key in target:
            raise MergeloomError(f"--param {name} was given twice. Give it once.")
        target[key] = _value(text, value)
    return of_method, of_modifiers


def _value(text: str, value: str) -> Any:
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        problem = str(error).splitlines()[0]
        raise MergeloomError(f"--param {text}: {value!r} is no YAML value ({problem}).") from None
    if parsed == "none":  # as --list shows it
        return None
    if isinstance(parsed, str):
        try:  # YAML 1.1 takes 1e-3, without a point, for text
            number = float(parsed)
        except ValueError:
            return parsed
        return number if math.isfinite(number) else parsed
    return parsed
