"""What an adapter is, and the register of all of them.

An adapter chooses, for each group of inputs, how the task vectors of a mixture are combined. It is
a torch module made by a function that `@adapter` registers: the function is given a mixture, the
size of the features φ(x) and a generator; its keyword-only parameters are what the user may set.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mergeloom.adaptive.mixture import Mixture
from mergeloom.errors import MergeloomError
from mergeloom.merging.parameters import Limits, check_parameters
from mergeloom.training.loop import generator

# Called with the name of a layer (None for all) and coefficients [g, K] when they are applied.
Observer = Callable[[str | None, Tensor], None]


class Adapter(nn.Module):
    """A module that has a mixture answer with coefficients of its own.

    Attributes
    ----------
    mixture : what it adapts; its tower runs within `applied`.
    entry : as what it was registered; set by `build`.
    within : whether it chooses within the forward pass, from what the tower makes of an input, and
        tells `observer`; else `coefficients` says what it chooses.
    together : whether an input's choice then depends on its group, which must pass the tower as
        one.
    observer : called with the coefficients that are chosen within the forward pass, if any are.
    """

    entry: "Entry"
    within = False
    together = False

    def __init__(self, mixture: Mixture) -> None:
        super().__init__()
        self.mixture = mixture
        self.observer: Observer | None = None

    def coefficients(self, features: Tensor | None, groups: int) -> Tensor:
        """λ of the groups that rows of features are divided into.

        Parameters
        ----------
        features : Tensor [n, d], float32, of the inputs; None for an adapter that takes none.
        groups : of n / groups rows each, one after the other.

        Returns
        -------
        Tensor [g, K] or [g, K, L]; g is 1 where they are the same for all inputs, else `groups`.
        """
        raise NotImplementedError

    def applied(self, features: Tensor | None, groups: int) -> AbstractContextManager[None]:
        """Within this the mixture's tower is the adapted model for n inputs in so many groups."""
        return self.mixture.mixed(self._once(self.coefficients(features, groups)))

    def gradients(self, step: int, entropy: Callable[[], Tensor]) -> Tensor:
        """Leave the gradients of a step of adaptation in the parameters.

        Parameters
        ----------
        step : counted from 0.
        entropy : computes what is minimised, [], on the inputs of this step.

        Returns
        -------
        Tensor [] – its value before the step.
        """
        loss = entropy()
        loss.backward()
        return loss.detach()

    def fit(self, features: Sequence[Tensor] | None) -> None:
        """Make ready what is computed and not trained; features [n, d] of each task's inputs."""

    def state(self) -> dict[str, Tensor]:
        """What has to be stored of it, by name."""
        return {name: value.detach() for name, value in self.state_dict().items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take up what `state` gave."""
        self.load_state_dict(dict(state))

    def relayered(self, state: Mapping[str, Tensor], layers: Sequence[int]) -> Mapping[str, Tensor]:
        """A state of another encoder's layers as one of this one's.

        Parameters
        ----------
        layers : for each of the mixture's parameters the index of the one whose coefficients it
            takes.
        """
        raise NotImplementedError

    @property
    def trainable(self) -> int:
        """Number of parameters that adaptation trains."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    @property
    def stored(self) -> int:
        """Numbers that the adapted model consists of: the base's, and what stands beside them."""
        own = sum(tensor.numel() for tensor in self.state().values())
        return size_of_base(self.mixture) + self.mixture.beside + own

    @staticmethod
    def _once(coefficients: Tensor) -> Tensor:
        """Of equal groups one: their weights are mixed once."""
        if coefficients.requires_grad or len(coefficients) == 1:
            return coefficients
        return coefficients[:1] if bool((coefficients == coefficients[:1]).all()) else coefficients


@contextmanager
def observed(adapter: Adapter, observer: Observer) -> Iterator[None]:
    """Have an observer see what an adapter chooses within forward passes."""
    adapter.observer = observer
    try:
        yield
    finally:
        adapter.observer = None


def size_of_base(mixture: Mixture) -> int:
    """Number of parameters of the tower."""
    return sum(tensor.numel() for tensor in mixture.base.values())


def group_means(values: Tensor, groups: int) -> Tensor:
    """Means of n / groups consecutive rows each, [n, ...] to [groups, ...].

    Equal rows have their own value for a mean, to the bit, which their sum divided by their number
    need not be.
    """
    grouped = values.unflatten(0, (groups, -1))
    if grouped.shape[1] == 1:
        return grouped[:, 0]
    first = grouped[:, :1]
    return first[:, 0] + (grouped - first).mean(dim=1)


def layers_of(mixture: Mixture, per: str) -> tuple[int, ...]:
    """Shape of the coefficients of an input: (K,) per task, (K, L) per layer."""
    return (mixture.size,) if per == "task" else (mixture.size, len(mixture.keys))


@dataclass(frozen=True)
class Entry:
    """An adapter as it was registered.

    arxiv : identifier of its paper, None where none is certain.
    features : whether it takes features φ(x).
    trained : whether entropy is minimised; else it is made ready by `Adapter.fit`.
    portable : whether a state may serve another encoder than the one it was made on.
    low_rank : whether the mixture itself combines the task vectors as they are, so that a low-rank
        form of it serves, too.
    modality : the only one whose encoders it serves; None where it serves any.
    parameters, limits : name and default of what the user may set, and its range or choices.
    """

    name: str
    function: Callable[..., Adapter]
    arxiv: str | None
    features: bool
    trained: bool
    portable: bool
    low_rank: bool
    modality: str | None
    parameters: Mapping[str, Any]
    limits: Limits

    def check(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """All parameters: those given, and the defaults of the rest."""
        return check_parameters(self.name, self.parameters, self.limits, given, "adapter")


_ENTRIES: dict[str, Entry] = {}
Function = Callable[..., Adapter]


def adapter(
    name: str,
    arxiv: str | None = None,
    features: bool = False,
    trained: bool = True,
    portable: bool = False,
    low_rank: bool = False,
    modality: str | None = None,
    limits: Limits | None = None,
) -> Callable[[Function], Function]:
    """Register a function (mixture, size of features, generator, *, ...) -> Adapter."""

    def register(function: Function) -> Function:
        arguments = inspect.signature(function).parameters.values()
        parameters = {a.name: a.default for a in arguments if a.kind is a.KEYWORD_ONLY}
        if stray := set(limits or {}) - set(parameters):
            raise TypeError(f"{name} has limits of {', '.join(stray)}, which are no parameters")
        if name in _ENTRIES:
            raise ValueError(f"there are two adapters named {name}")
        _ENTRIES[name] = Entry(
            name, function, arxiv, features, trained, portable, low_rank, modality, parameters,
            limits or {},
        )  # fmt: skip
        return function

    return register


def adapters() -> Mapping[str, Entry]:
    """All adapters by name."""
    package = importlib.import_module("mergeloom.adaptive.methods")
    for module in pkgutil.iter_modules(package.__path__, prefix=f"{package.__name__}."):
        importlib.import_module(module.name)
    return dict(sorted(_ENTRIES.items()))


def get_adapter(name: str) -> Entry:
    """The adapter of this name, or a MergeloomError that lists what exists."""
    known = adapters()
    if name not in known:
        raise MergeloomError(f"There is no adapter {name!r}. There are: {', '.join(known)}.")
    return known[name]


def centre_of(settings: Mapping[str, Any]) -> float:
    """The coefficient that a mixture for an adapter starts from: its `init`, or 0."""
    return float(settings.get("init", 0.0))


def build(
    mixture: Mixture, method: str, parameters: Mapping[str, Any], size: int | None, seed: int
) -> Adapter:
    """An adapter before adaptation, on the mixture's device.

    Parameters
    ----------
    parameters : those that differ from the method's defaults.
    size : of the features, d.

    Raises
    ------
    MergeloomError – no such adapter or parameter, a value out of range, no features for an adapter
    that takes them, or an encoder of another modality than the only one that it serves.
    """
    entry = get_adapter(method)
    if entry.modality not in (None, modality := mixture.family.modality):
        raise MergeloomError(
            f"adapter {method} serves encoders of {entry.modality}, and this one reads {modality}"
        )
    if entry.features and size is None:
        raise MergeloomError(f"adapter {method} chooses by features of the inputs: give their size")
    made = entry.function(mixture, size, generator(seed), **entry.check(parameters))
    made.entry = entry
    return made.to(next(iter(mixture.base.values())).device)
