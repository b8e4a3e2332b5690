"""What a tensor of open_clip is stacked of."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LowRank:
    """A change scale · B A of a matrix [m, n].

    a : Tensor [r, n].
    b : Tensor [m, r].
    """

    a: Tensor
    b: Tensor
    scale: float


@dataclass(frozen=True)
class Part:
    """A run of a tensor's rows, with a change of low rank where there is one."""

    weight: Tensor
    change: LowRank | None = None

    def read(self) -> Tensor:
        """The rows, in the type of `weight`; a change is added in float32."""
        if self.change is None:
            return self.weight
        wide, change = torch.float32, self.change
        step = change.b.to(wide) @ change.a.to(wide)
        return self.weight.to(wide).add(step, alpha=change.scale).to(self.weight.dtype)
