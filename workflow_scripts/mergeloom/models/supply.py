"""A tower whose parameters are supplied as it runs, other ones for other rows of its inputs.

Modules of known types ask a supplier for what they would do with their own parameters; what a
family has beside them is a class registered by the family's name in a module of this package, apart
from the family: most that build a model never supply it.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from mergeloom.errors import MergeloomError
from mergeloom.models.family import Family, import_modules

if TYPE_CHECKING:
    from torch import Tensor, nn


class Supplier(Protocol):
    """Gives parameters by their keys in files. The first dimension of inputs counts rows, n."""

    def linear(self, key: str, inputs: "Tensor", transposed: bool = False) -> "Tensor":
        """Inputs [n, ..., i] times each row's matrix [o, i], or [i, o] if `transposed`.

        Returns
        -------
        Tensor [n, ..., o].
        """
        ...

    def entries(self, key: str, like: "Tensor") -> "Tensor":
        """Each row's parameter [*shape], to be broadcast against `like`, [n, ..., *shape].

        Returns
        -------
        Tensor [n, 1, ..., *shape], or [1, ..., *shape] where all rows have the same.
        """
        ...

    def looked_up(self, key: str, indices: "Tensor") -> "Tensor":
        """Those lines of each row's table [lines, d], indices int64 [n, ...].

        Returns
        -------
        Tensor [n, ..., d].
        """
        ...


Keys = Mapping[int, str]  # address of a parameter's memory -> its key in files


class Perceptron(NamedTuple):
    """The perceptron of a block: its module, the keys of its parameters, the size of its inputs."""

    module: "nn.Module"
    keys: list[str]
    width: int


class Supplied(Protocol):
    """What a family's towers need beside their modules of known types."""

    def supply(self, tower: "nn.Module", keys: Keys, supplier: Supplier) -> set[str]:
        """Have the parameters that belong to no module of a known type asked for, too.

        Returns
        -------
        Their keys.
        """
        ...

    def perceptrons(self, tower: "nn.Module") -> "list[nn.Module]":
        """The perceptron of every block, in the order in which the input passes through them."""
        ...


_SUPPLIED: dict[str, Supplied] = {}


def supplied(family: str) -> Callable[[type], type]:
    """Register a class as what a family's towers need; it is instantiated once."""

    def register(cls: type) -> type:
        _SUPPLIED[family] = cls()
        return cls

    return register


def _of(family: str) -> Supplied:
    import_modules()
    if family not in _SUPPLIED:
        raise MergeloomError(
            f"family {family!r} cannot be supplied with parameters as it runs, which merging by "
            f"input needs; those that can are: {', '.join(sorted(_SUPPLIED))}"
        )
    return _SUPPLIED[family]


def _keys(family: Family, tower: Any) -> dict[int, str]:
    return {value.data_ptr(): key for key, value in family.tower_weights(tower).items()}


def supply(
    name: str, family: Family, tower: "nn.Module", supplier: Supplier, wanted: Iterable[str]
) -> None:
    """From now on the tower asks a supplier for its parameters.

    Parameters
    ----------
    name : of the family.
    wanted : keys of the parameters that must be asked for; the tower may keep others as they are.

    Raises
    ------
    MergeloomError
        A family whose towers cannot be supplied; a module that is set up in a way that is not known
        here, or parameters that belong to one of an unknown type: names it, or the first of them.
    """
    from mergeloom.models.module_supply import supply_modules

    keys = _keys(family, tower)
    of_modules = supply_modules(tower, keys, supplier)
    asked = of_modules | _of(name).supply(tower, keys, supplier)
    if left := sorted(set(wanted) - asked):
        others = f" and {len(left) - 1} more parameters belong" if len(left) > 1 else " belongs"
        raise MergeloomError(
            f"{left[0]}{others} to modules of a type that merging by input does not know; it is "
            "known of open_clip's plain vision transformer and of transformers' T5. Take such an "
            "encoder, or merge these experts statically"
        )


def perceptrons(name: str, family: Family, tower: "nn.Module") -> list[Perceptron]:
    """The perceptron of every block of a tower."""
    keys = _keys(family, tower)
    found = []
    for module in _of(name).perceptrons(tower):
        parameters = list(module.parameters())
        width = next(p.shape[1] for p in parameters if p.ndim == 2)
        found.append(Perceptron(module, [keys[p.data_ptr()] for p in parameters], width))
    return found
