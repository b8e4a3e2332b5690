"""What the preset of an adapter says across files: its method, parameters, vectors, splits."""

from collections.abc import Mapping
from typing import Any

from mergeloom.config.presets import choose
from mergeloom.errors import MergeloomError
from mergeloom.merging.parameters import check_parameters
from mergeloom.provenance.code import lookup

Presets = Mapping[str, Mapping[str, Any]]
# Splits that may be adapted to, by their names in presets and in paths.
SPLITS = {"test": "test", "val": "val", "train_unlabelled": "train"}
OPTIMIZER, SCHEDULE = "adam", "constant"  # of a preset that names none


def check_adapter(name: str, adapter: Mapping[str, Any], presets: Presets) -> None:
    """Check what an adapter's preset refers to.

    Raises
    ------
    MergeloomError – an unknown method, parameter or extractor, a merger for `vectors` that does not
    exist or gives no task vector per task, or steps that are missing, or in vain.
    """
    where = f"adapter {name!r}"
    try:
        method = lookup("adapter", adapter["method"])
        limits: Any = method.options.get("limits", {})
        check_parameters(
            adapter["method"], method.parameters, limits, adapter.get("parameters", {}), "adapter"
        )
    except MergeloomError as error:
        raise MergeloomError(f"{where}: {error}") from None
    steps = "steps" in adapter.get("adaptation", {})
    if is_trained(adapter) and not steps:
        raise MergeloomError(
            f"{where}: {adapter['method']} is trained: say `adaptation: {{split, steps, …}}`"
        )
    if not is_trained(adapter) and steps:
        raise MergeloomError(f"{where}: {adapter['method']} is not trained: leave out the steps")
    if (
        not is_trained(adapter)
        and reads_features(adapter)
        and "split" not in adapter.get("adaptation", {})
    ):
        raise MergeloomError(
            f"{where}: {adapter['method']} is fitted to features: say `adaptation: {{split: test}}`"
        )
    if "extractor" in adapter:
        try:
            choose("extractors", presets["extractors"], adapter["extractor"])
        except MergeloomError as error:
            raise MergeloomError(f"{where}: {error}") from None
    if "vectors" not in adapter:
        return
    merger = presets["mergers"].get(adapter["vectors"])
    if merger is None or not lookup("merger", merger["method"]).options.get("per_task"):
        fitting = [
            m
            for m, p in sorted(presets["mergers"].items())
            if lookup("merger", p["method"]).options.get("per_task")
        ]
        raise MergeloomError(
            f"{where}: vectors is {adapter['vectors']!r}, expected a merger that gives one task "
            f"vector per task: {', '.join(fitting)}"
        )


def reads_features(adapter: Mapping[str, Any]) -> bool:
    """Whether an adapter chooses by features of the inputs."""
    return bool(lookup("adapter", adapter["method"]).options.get("features", False))


def is_trained(adapter: Mapping[str, Any]) -> bool:
    """Whether entropy is minimised."""
    return bool(lookup("adapter", adapter["method"]).options.get("trained", True))


def looks_at_inputs(adapter: Mapping[str, Any]) -> bool:
    """Whether inputs are looked at to adapt."""
    return is_trained(adapter) or reads_features(adapter)


def functions_of(adapter: Mapping[str, Any]) -> dict[str, str]:
    """What an adapter looks up by name: its method, optimiser and schedule."""
    plan = adapter.get("adaptation", {})
    return {
        "adapter": adapter["method"],
        "optimizer": plan.get("optimizer", OPTIMIZER),
        "schedule": plan.get("schedule", SCHEDULE),
    }
