"""Conditions of training, expanded into recipes and collections of experts.

A sweep (config/conditions.yaml) changes a recipe: one key at a time (`vary`), by name (`named`),
and each of these with every combination of others (`cross`). A collection of experts may keep more
than the last epoch's weights of its run: each selection is a collection of its own,
`{experts}.{selection}`, that costs no training.
"""

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from mergeloom.config.presets import check, choose
from mergeloom.errors import MergeloomError
from mergeloom.training.recipe import DEFAULTS
from mergeloom.training.selection import LAST, SELECTIONS

BASE = "base"  # the condition that changes nothing
BUDGETS = {"steps": "epochs", "epochs": "steps"}  # one takes the place of the other

Changes = dict[str, Any]
Presets = Mapping[str, Mapping[str, Any]]


class Collection(NamedTuple):
    """A collection of experts of a sweep.

    experts : its name in paths.
    run : the collection whose training it is of: itself, if the selection is `last`.
    """

    experts: str
    run: str
    condition: str
    selection: str
    seed: int


def expand(presets: Presets, recipe_schema: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Add to the presets what sweeps and selections stand for.

    Returns
    -------
    The presets, with the recipe `{sweep}.{condition}` and the experts `{sweep}.{condition}.seed{n}`
    of every sweep, and the experts `{experts}.{selection}` of every collection with selections.

    Raises
    ------
    MergeloomError – a sweep changes its recipe into none, names a condition twice with different
    values, or its names are taken; a selection needs what the run does not record.
    """
    expanded = {kind: dict(named) for kind, named in presets.items()}
    for name, sweep in presets["conditions"].items():
        where = f"conditions {name!r}"
        try:
            recipe = choose("recipes", presets["recipes"], sweep["recipe"])
        except MergeloomError as error:
            raise MergeloomError(f"{where}: {error}") from None
        for condition, changes in conditions_of(name, sweep, recipe).items():
            derived = changed(recipe, changes)
            check(derived, recipe_schema, f"{where}: {condition}")
            _add(expanded, "recipes", f"{name}.{condition}", derived, where)
            for seed in sweep["seeds"]:
                experts = {
                    "recipe": f"{name}.{condition}",
                    "seed": seed,
                    "selections": [s for s in sweep["selections"] if s != LAST],
                    "log_trace": sweep["log_trace"],
                }
                _add(expanded, "experts", f"{name}.{condition}.seed{seed}", experts, where)
    for name, experts in list(expanded["experts"].items()):
        where = f"experts {name!r}"
        for selection in experts.get("selections", []):
            if SELECTIONS[selection] == "log_trace" and "log_trace" not in experts:
                raise MergeloomError(
                    f"{where}: the selection {selection} takes the epoch of the largest log-trace, "
                    "which is not recorded: add log_trace, or leave the selection out"
                )
            chosen = {**experts, "run": name, "selection": selection}
            _add(expanded, "experts", f"{name}.{selection}", chosen, where)
    return expanded


def _add(
    presets: dict[str, dict[str, Any]], kind: str, name: str, preset: Mapping[str, Any], where: str
) -> None:
    if name in presets[kind]:
        raise MergeloomError(f"{where}: makes the {kind} {name!r}, which exist: rename one of both")
    presets[kind][name] = preset


def conditions_of(
    name: str, sweep: Mapping[str, Any], recipe: Mapping[str, Any]
) -> dict[str, Changes]:
    """The conditions of a sweep, by name, and what each changes of the recipe.

    A condition is called after what differs from the recipe (`batch_size-8`, `lr-5e-5`), `base` if
    nothing does; what is crossed follows after a dot.

    Raises
    ------
    MergeloomError – a key that is crossed and varied, two conditions of one name, or of one recipe.
    """
    crossed = sweep.get("cross", {})
    combinations = [
        dict(zip(crossed, values, strict=True)) for values in itertools.product(*crossed.values())
    ]
    found: dict[str, Changes] = {}
    for first, changes in _varied(sweep):
        if twice := sorted(set(changes) & set(crossed)):
            raise MergeloomError(
                f"conditions {name!r}: {', '.join(twice)} is crossed, which sets it in every "
                "condition, and stands in `vary` or `named`, too: leave it out of one of both"
            )
        for combination in combinations:
            both = {k: v for k, v in (changes | combination).items() if _differs(recipe, k, v)}
            if first in sweep.get("named", {}):
                rest = [f"{k}-{_text(v)}" for k, v in both.items() if k in combination]
                condition = ".".join([first, *rest])
            else:
                condition = ".".join(f"{k}-{_text(v)}" for k, v in both.items()) or BASE
            if found.setdefault(condition, both) != both:
                raise MergeloomError(
                    f"conditions {name!r}: {condition!r} is named twice with different values, "
                    f"{found[condition]} and {both}: give one another name under `named`"
                )
            first_name = next(known for known, values in found.items() if values == both)
            if first_name != condition:
                raise MergeloomError(
                    f"conditions {name!r}: {first_name!r} and {condition!r} are one recipe, "
                    "which would be trained twice: leave one of both out"
                )
    return found


def _varied(sweep: Mapping[str, Any]) -> Iterator[tuple[str, Changes]]:
    yield "", {}
    for key, values in sweep.get("vary", {}).items():
        yield from (("", {key: value}) for value in values)
    yield from sweep.get("named", {}).items()


def _differs(recipe: Mapping[str, Any], key: str, value: object) -> bool:
    missing = object()
    return bool(recipe.get(key, DEFAULTS.get(key, missing)) != value)


def _text(value: object) -> str:
    """A value as it stands in names: 5e-5, 0.9_1, cosine."""
    if isinstance(value, list):
        return "_".join(map(_text, value))
    if isinstance(value, float):
        return re.sub(r"e([+-])0*", lambda found: "e" + found[1].strip("+"), f"{value:g}")
    return value if isinstance(value, str) else json.dumps(value)


def changed(recipe: Mapping[str, Any], changes: Changes) -> dict[str, Any]:
    """The recipe with these changes; a budget in steps takes the place of one in epochs."""
    replaced = {BUDGETS[key] for key in changes if key in BUDGETS} - set(changes)
    return {key: value for key, value in recipe.items() if key not in replaced} | changes


def collections(name: str, presets: Presets) -> list[Collection]:
    """The collections of experts of a sweep, in the order of condition, selection and seed."""
    sweep = choose("conditions", presets["conditions"], name)
    conditions = conditions_of(name, sweep, presets["recipes"][sweep["recipe"]])
    found = []
    for condition, selection, seed in itertools.product(
        conditions, sweep["selections"], sweep["seeds"]
    ):
        run = f"{name}.{condition}.seed{seed}"
        experts = run if selection == LAST else f"{run}.{selection}"
        found.append(Collection(experts, run, condition, selection, seed))
    return found


def check_selection(name: str, experts: Mapping[str, Mapping[str, Any]]) -> None:
    """Say of a collection that does not exist if it is a selection that a run does not keep."""
    run, _, selection = name.rpartition(".")
    if name not in experts and run in experts and selection in SELECTIONS:
        if "import" in experts[run] or "source" in experts[run]:
            raise MergeloomError(
                f"experts {run!r} are not trained here, and have no {selection}: a selection takes "
                "an epoch of a run"
            )
        kept = ", ".join((LAST, *experts[run].get("selections", [])))
        raise MergeloomError(
            f"experts {run!r} keep no {selection} (they keep: {kept}): add it to `selections` of "
            f"their preset, with log_trace where it is max_fim, and they are trained again"
        )


def design(name: str, presets: Presets) -> dict[str, Any]:
    """What a sweep changes: for each condition, of which base, and which keys are crossed.

    Returns
    -------
    `{"conditions": name -> changes, "base": changed key -> value of the recipe, "cross": keys}`; a
    key that the recipe lacks is None in `base`.
    """
    sweep = choose("conditions", presets["conditions"], name)
    recipe = presets["recipes"][sweep["recipe"]]
    conditions = conditions_of(name, sweep, recipe)
    keys = dict.fromkeys(key for changes in conditions.values() for key in changes)
    base = {key: recipe.get(key, DEFAULTS.get(key)) for key in keys}
    return {"conditions": conditions, "base": base, "cross": list(sweep.get("cross", {}))}
