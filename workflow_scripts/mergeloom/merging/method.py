"""What a merge method is, and the register of all methods and modifiers.

A method is a pure function of one parameter tensor: what the tasks know of it goes in, the merged
task vector comes out. `@merger` reads the function's signature: positional parameters are the
method's *inputs*, which the engine provides, and keyword-only ones are its *parameters*, which the
user may set. A `@modifier` is the same with one input more, `merged`: it takes what any method made
of a parameter and returns something better.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from mergeloom.errors import MergeloomError
from mergeloom.merging.parameters import Limits

INPUTS = {
    "deltas": "Tensor [T, *shape], float32: the task vectors of this parameter",
    "total": "Tensor [*shape], float32: their sum",
    "mean": "function without arguments: their mean, for methods that seldom need it",
    "base": "Tensor [*shape], float32: the parameter before fine-tuning",
    "svd": "Factors: the leading k = ⌊min(m, n) / T⌋ singular triples of each task's matrix",
    "summed": "Summed: the sum with its SVD and polar factor, from a cache where there is one",
    "fisher": "Tensor [T, *shape], float32: diagonal Fisher information of each task's model",
    "gram": "Gram: of what this linear map is fed in each task's model",
    "propagated": "Gram: the same, where the blocks before it are the merged ones",
    "random": "Random: numbers that belong to the seed, the task vector and the element",
    "place": "Place: name, shape, kind and depth of the parameter, and the model's linear maps",
    "tasks": "int: T",
    "statistics": "what the method's survey of the whole model found",
    "stack": "Stack: the task vectors of equally shaped matrices of all blocks",
    "merged": "Tensor [*shape], float32: what the method made of this parameter (modifiers only)",
    "spectrum": "function: U [m, r], S [r], Vt [r, n] of what the method made (modifiers only)",
}
On = Literal["all", "matrices"]
Grain = Literal["element", "tensor", "stack"]


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
    """A merge method or a modifier as it was registered.

    arxiv : identifier of its paper.
    alpha : the paper's scale of the merged task vector, θ = θ0 + alpha · function(...).
    on : "all" parameters, or "matrices" only; the others then get the mean over tasks (of a method
        with a parameter `fallback`, what the method of that name makes of them).
    grain : how far a parameter may be taken apart. A function of grain "element" treats every
        element alike and gets runs of elements, inputs flat, [T, n] and [n]; one of grain "stack"
        gets the matrices of all blocks that share a name at once.
    per_task : gives one model per task, [T, *shape]: such a model needs the task's identity.
    shares : what it gives per task are shares of one merged task vector, which is their sum; of a
        parameter that it does not apply to, each task's share of the mean.
    sums : gives the sum of the task vectors itself, whose spectrum may lie in a cache.
    survey : function (Survey, **parameters) whose result is the input `statistics`.
    inputs : names of what the function takes, out of `INPUTS`.
    parameters, limits : name and default of what the user may set, and its range or choices.
    """

    name: str
    function: Callable[..., Tensor]
    arxiv: str | None
    alpha: float
    on: On
    grain: Grain
    per_task: bool
    shares: bool
    sums: bool
    survey: Callable[..., Any] | None
    inputs: tuple[str, ...]
    parameters: Mapping[str, Any]
    limits: Limits

    @property
    def by_stage(self) -> bool:
        """Whether parameters must be merged in the order in which inputs pass through the model."""
        return "propagated" in self.inputs

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]


_MERGERS: dict[str, Method] = {}
_MODIFIERS: dict[str, Method] = {}
Function = Callable[..., Tensor]


def merger(
    name: str,
    arxiv: str | None = None,
    alpha: float = 1.0,
    on: On = "all",
    grain: Grain = "tensor",
    per_task: bool = False,
    shares: bool = False,
    sums: bool = False,
    survey: Callable[..., Any] | None = None,
    limits: Limits | None = None,
) -> Callable[[Function], Function]:
    """Register a function as the merge method `name`; see `Method` for the arguments."""

    def register(function: Function) -> Function:
        return _register(
            _MERGERS,
            describe(
                function, name, arxiv, alpha, on, grain, per_task, shares, sums, survey, limits
            ),
        )

    return register


def modifier(
    name: str,
    arxiv: str | None = None,
    on: On = "all",
    grain: Grain = "tensor",
    limits: Limits | None = None,
) -> Callable[[Function], Function]:
    """Register a function of `merged`, or of its `spectrum`, as the modifier `name`."""

    def register(function: Function) -> Function:
        method = describe(function, name, arxiv, on=on, grain=grain, limits=limits)
        if not {"merged", "spectrum"} & set(method.inputs):
            raise TypeError(f"the modifier {name} takes neither `merged` nor `spectrum`")
        return _register(_MODIFIERS, method)

    return register


def _register(register: dict[str, Method], method: Method) -> Function:
    if method.name in register:
        raise ValueError(f"there are two merge methods or modifiers named {method.name}")
    register[method.name] = method
    return method.function


def describe(
    function: Function,
    name: str,
    arxiv: str | None = None,
    alpha: float = 1.0,
    on: On = "all",
    grain: Grain = "tensor",
    per_task: bool = False,
    shares: bool = False,
    sums: bool = False,
    survey: Callable[..., Any] | None = None,
    limits: Limits | None = None,
) -> Method:
    """Make a `Method` of a function, its inputs and parameters read from the signature."""
    arguments = inspect.signature(function).parameters.values()
    inputs = tuple(a.name for a in arguments if a.kind is a.POSITIONAL_OR_KEYWORD)
    parameters = {a.name: a.default for a in arguments if a.kind is a.KEYWORD_ONLY}
    if unknown := [i for i in inputs if i not in INPUTS]:
        raise TypeError(f"{name} takes {', '.join(unknown)}; there are {', '.join(INPUTS)}")
    if missing := [p for p, default in parameters.items() if default is inspect.Parameter.empty]:
        raise TypeError(f"{name}: the parameters {', '.join(missing)} need defaults")
    if stray := set(limits or {}) - set(parameters):
        raise TypeError(f"{name} has limits of {', '.join(stray)}, which are no parameters")
    return Method(
        name, function, arxiv, alpha, on, grain, per_task, shares, sums, survey, inputs,
        parameters, limits or {},
    )  # fmt: skip


def methods() -> Mapping[str, Method]:
    """All merge methods by name."""
    _load()
    return dict(sorted(_MERGERS.items()))


def modifiers() -> Mapping[str, Method]:
    """All modifiers by name."""
    _load()
    return dict(sorted(_MODIFIERS.items()))


def get_method(name: str) -> Method:
    """Return the merge method of this name, or raise a MergeloomError that lists what exists."""
    return _get("merge method", methods(), name)


def get_modifier(name: str) -> Method:
    """Return the modifier of this name, or raise a MergeloomError that lists what exists."""
    return _get("modifier", modifiers(), name)


def _get(what: str, known: Mapping[str, Method], name: str) -> Method:
    if name not in known:
        raise MergeloomError(f"There is no {what} {name!r}. There are: {', '.join(known)}.")
    return known[name]


def _load() -> None:
    # By name and not by import statement: what imports the engine does not depend on every method.
    package = importlib.import_module("mergeloom.merging.methods")
    for module in pkgutil.iter_modules(package.__path__, prefix=f"{package.__name__}."):
        importlib.import_module(module.name)
