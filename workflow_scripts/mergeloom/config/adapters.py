"""What the preset of an adapter says across files: its method, parameters, vectors, splits."""

from collections.abc import Mapping
from typing import Any

from mergeloom.adaptive.plan import Plan
from mergeloom.config.extractors import reads
from mergeloom.config.presets import choose
from mergeloom.errors import MergeloomError
from mergeloom.merging.parameters import check_parameters
from mergeloom.provenance.code import lookup

Presets = Mapping[str, Mapping[str, Any]]
# Splits that may be adapted to, by their names in presets and in paths.
SPLITS = {"test": "test", "val": "val", "train_unlabelled": "train"}


def check_adapter(name: str, adapter: Mapping[str, Any], presets: Presets) -> None:
    """Check what an adapter's preset refers to.

    Raises
    ------
    MergeloomError – an unknown method, parameter or extractor; a merger for `vectors` that does not
    exist or gives no task vector per task; steps that are missing, or too few; keys that the method
    makes no use of.
    """
    where = f"adapter {name!r}"
    try:
        method = lookup("adapter", adapter["method"])
        limits: Any = method.options.get("limits", {})
        parameters = check_parameters(
            adapter["method"], method.parameters, limits, adapter.get("parameters", {}), "adapter"
        )
    except MergeloomError as error:
        raise MergeloomError(f"{where}: {error}") from None
    _check_adaptation(where, adapter, parameters)
    if "rank" in adapter.get("evaluation", {}) and not method.options.get("low_rank", False):
        raise MergeloomError(
            f"{where}: {adapter['method']} has no low-rank form: leave evaluation.rank out"
        )
    if "extractor" in adapter and not reads_features(adapter):
        raise MergeloomError(
            f"{where}: {adapter['method']} reads no features: leave out the extractor"
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


def _check_adaptation(
    where: str, adapter: Mapping[str, Any], parameters: Mapping[str, Any]
) -> None:
    given, method = adapter.get("adaptation", {}), adapter["method"]
    if is_trained(adapter):
        if "steps" not in given:
            raise MergeloomError(
                f"{where}: {method} is trained: say `adaptation: {{split, steps, …}}`"
            )
        if given["steps"] <= (first := parameters.get("mask_steps", 0)):
            raise MergeloomError(
                f"{where}: adaptation.steps is {given['steps']}, and the first {first} train the "
                "mask, so that none is left for the coefficients: raise the steps, or lower "
                "parameters.mask_steps"
            )
        return
    used = {"split"} if reads_features(adapter) else set()
    if idle := sorted(set(given) - used):
        raise MergeloomError(
            f"{where}: {method} is not trained, and makes no use of adaptation."
            f"{', adaptation.'.join(idle)}: leave that out"
        )
    if used - set(given):
        raise MergeloomError(
            f"{where}: {method} is fitted to features: say `adaptation: {{split: test}}`"
        )


def check_serves(name: str, adapter: Mapping[str, Any], encoder: Mapping[str, Any]) -> None:
    """Raise MergeloomError if the adapter called `name` does not serve what an encoder reads."""
    served = lookup("adapter", adapter["method"]).options.get("modality")
    if served not in (None, reads(encoder)):
        raise MergeloomError(
            f"adapter {name!r}: {adapter['method']} serves encoders of {served}, and this one "
            f"reads {reads(encoder)}: take another adapter"
        )


def reads_features(adapter: Mapping[str, Any]) -> bool:
    """Whether an adapter chooses by features of the inputs."""
    return bool(lookup("adapter", adapter["method"]).options.get("features", False))


def is_trained(adapter: Mapping[str, Any]) -> bool:
    """Whether entropy is minimised."""
    return bool(lookup("adapter", adapter["method"]).options.get("trained", True))


def is_portable(adapter: Mapping[str, Any]) -> bool:
    """Whether its state may serve another encoder than the one that it was adapted on."""
    return bool(lookup("adapter", adapter["method"]).options.get("portable", False))


def settings_of(adapter: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters of its method: those that the preset gives, and the defaults of the rest."""
    known = lookup("adapter", adapter["method"]).parameters
    return {**known, **adapter.get("parameters", {})}


def looks_at_inputs(adapter: Mapping[str, Any]) -> bool:
    """Whether inputs are looked at to adapt."""
    return is_trained(adapter) or reads_features(adapter)


def functions_of(adapter: Mapping[str, Any]) -> dict[str, str]:
    """What an adapter looks up by name: its method, optimiser and schedule."""
    plan = adapter.get("adaptation", {})
    return {
        "adapter": adapter["method"],
        "optimizer": plan.get("optimizer", Plan.optimizer),
        "schedule": plan.get("schedule", Plan.schedule),
    }
