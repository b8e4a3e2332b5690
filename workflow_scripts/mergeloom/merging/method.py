"""What a merge method is, and the register of all methods.

A method is a pure function of one parameter tensor: what the tasks know of it goes in, the merged
task vector comes out. `@merger` reads the function's signature: positional parameters are the
method's *inputs*, which the engine provides, and keyword-only ones are its *parameters*, which the
user may set.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from mergeloom.errors import MergeloomError

INPUTS = {
    "deltas": "Tensor [T, *shape], float32: the task vectors of this parameter",
    "svd": "Factors: the leading k = ⌊min(m, n) / T⌋ singular triples of each task's matrix",
}


@dataclass(frozen=True)
class Factors:
    """The leading k singular triples of T matrices of shape [m, n], float32.

    U : Tensor [T, m, k]
    S : Tensor [T, k], descending
    Vt : Tensor [T, k, n]
    """

    U: Tensor
    S: Tensor
    Vt: Tensor


@dataclass(frozen=True)
class Method:
    """A merge method as `@merger` registered it.

    arxiv : identifier of its paper.
    alpha : the paper's scale of the merged task vector, θ = θ0 + alpha · function(...).
    on : "all" parameters, or "matrices" only; the others then get the mean over tasks.
    inputs : names of what the function takes, out of `INPUTS`.
    parameters : name and default of what the user may set.
    """

    name: str
    function: Callable[..., Tensor]
    arxiv: str | None
    alpha: float
    on: Literal["all", "matrices"]
    inputs: tuple[str, ...]
    parameters: Mapping[str, Any]


_METHODS: dict[str, Method] = {}


def merger(
    name: str,
    arxiv: str | None = None,
    alpha: float = 1.0,
    on: Literal["all", "matrices"] = "all",
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Register a function as the merge method `name`; see `Method` for the arguments."""

    def register(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        if name in _METHODS:
            raise ValueError(f"there are two merge methods named {name}")
        _METHODS[name] = describe(function, name, arxiv, alpha, on)
        return function

    return register


def describe(
    function: Callable[..., Tensor],
    name: str,
    arxiv: str | None = None,
    alpha: float = 1.0,
    on: Literal["all", "matrices"] = "all",
) -> Method:
    """Make a `Method` of a function, its inputs and parameters read from the signature."""
    arguments = inspect.signature(function).parameters.values()
    inputs = tuple(a.name for a in arguments if a.kind is a.POSITIONAL_OR_KEYWORD)
    parameters = {a.name: a.default for a in arguments if a.kind is a.KEYWORD_ONLY}
    if unknown := [i for i in inputs if i not in INPUTS]:
        raise TypeError(f"{name} takes {', '.join(unknown)}; there are {', '.join(INPUTS)}")
    if missing := [p for p, default in parameters.items() if default is inspect.Parameter.empty]:
        raise TypeError(f"{name}: the parameters {', '.join(missing)} need defaults")
    return Method(name, function, arxiv, alpha, on, inputs, parameters)


def get_method(name: str) -> Method:
    """Return the method of this name.

    Raises
    ------
    MergeloomError
        If there is none; the message lists those that exist.
    """
    # By name and not by import statement: what imports the engine does not depend on every method.
    methods = importlib.import_module("mergeloom.merging.methods")
    for module in pkgutil.iter_modules(methods.__path__, prefix=f"{methods.__name__}."):
        importlib.import_module(module.name)
    if name not in _METHODS:
        raise MergeloomError(
            f"There is no merge method {name!r}. There are: {', '.join(sorted(_METHODS))}."
        )
    return _METHODS[name]


def check_parameters(method: Method, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return all parameters of a method: those given, and the defaults of the rest.

    Raises
    ------
    MergeloomError
        If a name is given that the method does not have; the message lists those that exist.
    """
    if unknown := sorted(set(given) - set(method.parameters)):
        exist = ", ".join(f"{name} (default {value})" for name, value in method.parameters.items())
        raise MergeloomError(
            f"The merge method {method.name} has no parameter {', '.join(unknown)}. "
            f"It has: {exist or 'none'}."
        )
    return {**method.parameters, **given}
