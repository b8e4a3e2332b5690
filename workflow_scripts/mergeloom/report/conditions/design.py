"""Which conditions are shown together: the values of one factor side by side, the base in each."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from matplotlib.colors import LinearSegmentedColormap, to_hex

BASE: Final = "base"
NAMED: Final = "named"
"""Title of the group of conditions that change several keys at once."""
TITLES: Final = {"lr": "learning rate"}

BASE_COLOR: Final = "#111111"
_BELOW: Final = LinearSegmentedColormap.from_list("below", ["#A9D8F5", "#56B4E9", "#00456E"])
_ABOVE: Final = LinearSegmentedColormap.from_list("above", ["#F7C878", "#D55E00", "#6E2A00"])


class Level(NamedTuple):
    """One value of a factor.

    label : as it is written in figures.
    conditions : names of the conditions that have it, by variant.
    is_base : whether it is the base recipe's value.
    color : black for the base's, blue below it, orange above; the darker, the farther.
    """

    label: str
    conditions: dict[str, str]
    is_base: bool
    color: str


class Group(NamedTuple):
    """A factor (`batch_size`) and its levels, in numeric order where they are numbers."""

    factor: str
    levels: list[Level]
    is_numeric: bool

    @property
    def title(self) -> str:
        """The factor, in words."""
        return TITLES.get(self.factor, self.factor.replace("_", " "))


class Design(NamedTuple):
    """The conditions of a sweep, as figures show them.

    variants : the combinations of what is crossed with every group, in words; one, the empty word,
        where nothing is.
    """

    groups: list[Group]
    variants: list[str]


def design(
    conditions: Mapping[str, Mapping[str, Any]],
    base: Mapping[str, Any],
    cross: Sequence[str] = (),
) -> Design:
    """Sort the conditions of a sweep by what they change.

    A condition that changes one key stands in that key's group. One that changes several stands in
    the group `named`. The base, which changes nothing, stands in every group.

    Parameters
    ----------
    conditions : name → what the condition changes of the base recipe.
    base : value of the base recipe, of every key that is changed (None: has none).
    cross : keys that were crossed with all others. If nothing else was varied, the one with most
        values becomes the group.
    """
    crossed = list(cross)
    if crossed and all(set(changes) <= set(crossed) for changes in conditions.values()):
        crossed.remove(max(crossed, key=lambda key: len(_values(conditions, key))))
    variants: list[str] = []
    bases: dict[str, str] = {}
    found: dict[str, dict[Any, dict[str, str]]] = {}  # factor -> value -> variant -> condition
    for name, changes in conditions.items():
        pairs = [
            f"{key.replace('_', ' ')} {text(changes.get(key, base.get(key)))}" for key in crossed
        ]
        variant = ", ".join(pairs)
        if variant not in variants:
            variants.append(variant)
        own = [(key, value) for key, value in changes.items() if key not in crossed]
        if not own:
            bases[variant] = name
            continue
        factor, value = own[0]
        if isinstance(value, list):
            value = text(value)
        if len(own) > 1 or variant in found.get(factor, {}).get(value, {}):
            factor, value = NAMED, _without(crossed, name)
        found.setdefault(factor, {}).setdefault(value, {})[variant] = name
    if not found:
        return Design([Group("", [Level(BASE, bases, True, BASE_COLOR)], False)], variants)
    groups = [
        Group(key, _levels(values, base.get(key), bases), all(map(_is_number, values)))
        for key, values in found.items()
    ]
    return Design(groups, variants)


def _levels(values: Mapping[Any, dict[str, str]], base: Any, bases: dict[str, str]) -> list[Level]:
    """The values of a factor in order, the base's among them if all are numbers, else first."""
    given = list(values)
    if all(_is_number(value) for value in given):
        given.sort()
    below = [value for value in given if _is_number(base) and _is_number(value) and value < base]
    above = [value for value in given if value not in below]
    middle = [Level(BASE if base is None else text(base), bases, True, BASE_COLOR)] if bases else []
    return [
        *(_level(v, values[v], _BELOW, len(below) - i, len(below)) for i, v in enumerate(below)),
        *middle,
        *(_level(v, values[v], _ABOVE, i + 1, len(above)) for i, v in enumerate(above)),
    ]


def _level(
    value: Any, conditions: dict[str, str], shades: LinearSegmentedColormap, step: int, steps: int
) -> Level:
    return Level(text(value), conditions, False, to_hex(shades(step / (steps + 1))))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _values(conditions: Mapping[str, Mapping[str, Any]], key: str) -> set[str]:
    return {text(changes[key]) for changes in conditions.values() if key in changes}


def _without(crossed: Sequence[str], condition: str) -> str:
    """Name of a condition without what was crossed with it, which stands last."""
    if not crossed:
        return condition
    return re.split(rf"\.(?:{'|'.join(map(re.escape, crossed))})-", condition)[0]


def text(value: Any) -> str:
    """A value as figures write it: 5e-5, 0.1, none, 0.9 0.98."""
    if isinstance(value, list | tuple):
        return " ".join(map(text, value))
    if not isinstance(value, float):
        return "none" if value is None else str(value)
    short = f"{value:g}" if value == 0 or 1e-2 <= abs(value) < 1e4 else f"{value:.3e}"
    return re.sub(r"\.?0*e([+-])0*", lambda found: "e" + found[1].strip("+"), short)
