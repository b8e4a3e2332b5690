"""What a recipe names: optimisers, schedules of the learning rate, augmentations of images.

Each is a function registered by name; its keyword-only parameters are keys that a recipe may set
beside its own. Modules are imported at the first look-up, by name, so that what trains by one
optimiser does not depend on the code of the others. Standard library only.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from mergeloom.errors import MergeloomError

if TYPE_CHECKING:
    from torch import nn

    from mergeloom.models.naming import Place

MODULES = {
    "optimizer": "mergeloom.training.optimizers",
    "schedule": "mergeloom.training.schedules",
    "augmentation": "mergeloom.training.augmentation",
}
_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Part:
    """A registered function.

    parameters : keyword-only parameters of the function and their default values.
    draws : how many uniform numbers an augmentation takes for an image.
    """

    function: Callable[..., Any]
    parameters: Mapping[str, Any]
    draws: int = 0


@dataclass(frozen=True)
class Trained:
    """What an optimiser gets.

    parameters : those that are trained, by name.
    places : where they are in the model, as far as its family's naming says it, by the same names.
    fused : whether a step may be one kernel.
    """

    parameters: "Mapping[str, nn.Parameter]"
    places: "Mapping[str, Place]"
    fused: bool


_PARTS: dict[str, dict[str, Part]] = {kind: {} for kind in MODULES}


def optimizer(name: str) -> Callable[[_Function], _Function]:
    """Register a function (Trained, lr, weight_decay, *, ...) -> torch.optim.Optimizer."""
    return _register("optimizer", name)


def schedule(name: str) -> Callable[[_Function], _Function]:
    """Register a function (peak, step, Span, *, ...) -> learning rate of the step."""
    return _register("schedule", name)


def augmentation(name: str, draws: int) -> Callable[[_Function], _Function]:
    """Register a function of uint8 images [b, s, s, 3] and uniform numbers [b, draws], float64."""
    return _register("augmentation", name, draws)


def _register(kind: str, name: str, draws: int = 0) -> Callable[[_Function], _Function]:
    def register(function: _Function) -> _Function:
        arguments = inspect.signature(function).parameters.values()
        given = {a.name: a.default for a in arguments if a.kind is a.KEYWORD_ONLY}
        _PARTS[kind][name] = Part(function, given, draws)
        return function

    return register


def parts() -> dict[str, dict[str, Part]]:
    """Everything registered, by kind and name."""
    for module in MODULES.values():
        importlib.import_module(module)
    return _PARTS


def get_part(kind: str, name: str) -> Part:
    """One registered function, or a MergeloomError that lists what exists."""
    known = parts()[kind]
    if name not in known:
        raise MergeloomError(f"unknown {kind} {name!r}; there is: {', '.join(sorted(known))}")
    return known[name]
