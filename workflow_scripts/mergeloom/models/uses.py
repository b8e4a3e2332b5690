"""What a model does with its parameters, told as a forward pass goes on.

Of most parameters the type of their module says it (`mergeloom.models.module_uses`). The bare ones,
which belong to no such module, are told of by a function registered by the family's name in a
module of this package, apart from the family: most that build a model never ask.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

from mergeloom.models.family import Family, families

if TYPE_CHECKING:
    from torch import Tensor, nn

Change = Callable[["Tensor"], "Tensor"]


class Uses(Protocol):
    """Is told of every use of a parameter, with what goes into it and what comes out of it.

    The first dimension of inputs and outputs counts examples, n. `view` makes outputs, or a
    gradient of theirs, what the formula says they are, where they are not.
    """

    def linear(
        self,
        weight: "Tensor",
        inputs: "Tensor",
        outputs: "Tensor",
        rows: "Change | None" = None,
        view: "Change | None" = None,
    ) -> None:
        """Outputs [n, ..., o] are inputs [n, ..., i] times a matrix, beside other summands.

        rows : makes inputs so, where they are not.
        """
        ...

    def scaled(
        self, weight: "Tensor", inputs: "Tensor", outputs: "Tensor", factors: "Change"
    ) -> None:
        """Outputs [n, ..., *shape] are factors(inputs) times weight [*shape], entry by entry,
        beside other summands.
        """
        ...

    def added(self, parameter: "Tensor", outputs: "Tensor", view: "Change | None" = None) -> None:
        """A parameter [*shape] is a summand of outputs [n, ..., *shape]."""
        ...

    def looked_up(self, weight: "Tensor", indices: "Tensor", outputs: "Tensor") -> None:
        """Outputs [n, ..., d] are those rows of weight [rows, d], indices int64 [n, ...]."""
        ...


class Handle(Protocol):
    """What puts an end to watching, as torch's handles of hooks do."""

    def remove(self) -> None:
        """Leave the model as it was."""
        ...


Watch = Callable[["nn.Module", Uses], Iterable[Handle]]
_BARE: dict[str, Watch] = {}


def uses(family: str) -> Callable[[Watch], Watch]:
    """Register a function that watches the bare parameters of a family's tower.

    Until the handles that it gives are removed, every forward pass of the tower tells of them.
    """

    def register(watch: Watch) -> Watch:
        _BARE[family] = watch
        return watch

    return register


def get_uses(family: Family) -> Watch:
    """The function that watches a family's bare parameters; many a family has none of these."""
    names = [name for name, known in families().items() if known is family]
    return next((_BARE[name] for name in names if name in _BARE), lambda tower, told: ())
