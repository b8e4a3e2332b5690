"""A model cut into stages, and the linear maps within that can be watched at work.

How a family's models are cut is a function registered by the family's name in a module of this
package, apart from the family: most that build a model never cut it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mergeloom.errors import MergeloomError
from mergeloom.models.family import import_modules

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class LinearMap:
    """A parameter that is a linear map.

    key : of the parameter in files.
    dim : of the parameter that inputs meet: 1 of W [out, in] in x Wᵀ, 0 of W [in, out] in x W.
    """

    key: str
    dim: int

    @property
    def name(self) -> str:
        """What a tensor that belongs to it is called in files."""
        return f"{self.key}.{self.dim}"

    @classmethod
    def named(cls, name: str) -> "LinearMap":
        """The map whose tensors are called so."""
        key, _, dim = name.rpartition(".")
        return cls(key, int(dim))


See = Callable[[LinearMap, "Tensor"], None]


class Stage(Protocol):
    """One of the parts that a model applies after one another."""

    def __call__(self, inputs: "Tensor", see: See | None = None) -> "Tensor":
        """Apply the stage. `see` gets each of its linear maps with what is fed to it, [..., in]."""


Cut = Callable[["nn.Module"], Sequence[Stage]]
_CUTS: dict[str, Cut] = {}


def stages(family: str) -> Callable[[Cut], Cut]:
    """Register a function that cuts a family's tower into stages.

    One after the other they are the tower; each applies the parameters of one entry of `by_stage`.
    """

    def register(cut: Cut) -> Cut:
        _CUTS[family] = cut
        return cut

    return register


def get_stages(family: str) -> Cut:
    """The function that cuts a family's tower, or a MergeloomError that lists those there are."""
    import_modules()
    if family not in _CUTS:
        raise MergeloomError(
            f"family {family!r} has no stages, so what its linear maps are fed cannot be seen; "
            f"those that have are: {', '.join(sorted(_CUTS))}"
        )
    return _CUTS[family]
