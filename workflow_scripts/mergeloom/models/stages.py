"""A model cut into stages, and the linear maps within that can be watched at work."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


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
