"""What a measure of similarity is, and the register of all of them.

A measure is a function of the features of M models that gives the similarities of all pairs in one
pass. `@measure` reads its signature: keyword-only arguments are the *parameters* that the user may
set. All measures are symmetric and 1 for a model and itself.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from torch import Tensor

from mergeloom.errors import MergeloomError
from mergeloom.merging.parameters import Limits, check_parameters

Function = Callable[..., Tensor]


@dataclass(frozen=True)
class Measure:
    """A measure as it was registered.

    function : of Features and parameters; gives the rows of the new models, Tensor [M - known, M],
        float64.
    arxiv : identifier of its paper.
    parameters, limits : name and default of what the user may set, and its range or choices.
    """

    name: str
    function: Function
    arxiv: str | None
    parameters: Mapping[str, Any]
    limits: Limits

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    def settings(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """All parameters: those given, checked, and the defaults of the rest."""
        return check_parameters(
            self.name, self.parameters, self.limits, given, what="measure of similarity"
        )


_MEASURES: dict[str, Measure] = {}


def measure(
    name: str, arxiv: str | None = None, limits: Limits | None = None
) -> Callable[[Function], Function]:
    """Register a function as the measure `name`; see `Measure` for the arguments."""

    def register(function: Function) -> Function:
        if name in _MEASURES:
            raise ValueError(f"there are two measures named {name}")
        arguments = inspect.signature(function).parameters.values()
        parameters = {a.name: a.default for a in arguments if a.kind is a.KEYWORD_ONLY}
        if stray := set(limits or {}) - set(parameters):
            raise TypeError(f"{name} has limits of {', '.join(stray)}, which are no parameters")
        _MEASURES[name] = Measure(name, function, arxiv, parameters, limits or {})
        return function

    return register


def measures() -> Mapping[str, Measure]:
    """All measures by name."""
    # By name and not by import statement: what looks up one does not depend on every measure.
    package = importlib.import_module("mergeloom.similarity.measures")
    for module in pkgutil.iter_modules(package.__path__, prefix=f"{package.__name__}."):
        importlib.import_module(module.name)
    return dict(sorted(_MEASURES.items()))


def get_measure(name: str) -> Measure:
    """The measure of this name, or a MergeloomError that lists what exists, near names first."""
    known = measures()
    if name not in known:
        near = get_close_matches(name, known, n=3, cutoff=0.5)
        listed = [*near, *(other for other in known if other not in near)]
        raise MergeloomError(
            f"There is no measure of similarity {name!r}. There are: {', '.join(listed)}."
        )
    return known[name]
