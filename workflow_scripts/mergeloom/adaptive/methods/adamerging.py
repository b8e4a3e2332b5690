"""AdaMerging: coefficients that are the same for all inputs, trained at test time."""

from collections.abc import Mapping, Sequence

import torch
from torch import Generator, Tensor, nn

from mergeloom.adaptive.adapter import Adapter, adapter, layers_of, size_of_base
from mergeloom.adaptive.mixture import Mixture


class Coefficients(Adapter):
    """One coefficient per task, or per task and parameter."""

    def __init__(self, mixture: Mixture, per: str, init: float, clamp: bool) -> None:
        super().__init__(mixture)
        self.values = nn.Parameter(torch.full(layers_of(mixture, per), init))
        self.clamp = clamp

    def coefficients(self, features: Tensor | None, groups: int) -> Tensor:
        """[1, K] or [1, K, L], within 0 and 1 if they are clamped."""
        return (self.values.clamp(0, 1) if self.clamp else self.values)[None]

    def relayered(self, state: Mapping[str, Tensor], layers: Sequence[int]) -> Mapping[str, Tensor]:
        """Columns are of a parameter each."""
        return {"values": state["values"][:, list(layers)]}

    @property
    def stored(self) -> int:
        """One merged model."""
        return size_of_base(self.mixture)


@adapter(
    "adamerging",
    arxiv="2310.02575",
    portable=True,
    low_rank=True,
    limits={"per": ("task", "layer"), "transfer": ("exact", "by_relative_depth")},
)
def adamerging(
    mixture: Mixture,
    size: int | None,
    random: Generator,
    *,
    per: str = "layer",
    init: float = 0.3,
    clamp: bool = True,
    transfer: str = "exact",
) -> Adapter:
    """AdaMerging: merge with coefficients that minimise the entropy of predictions.

    θ = θ0 + Σ_k λ_k τ_k, λ within [0, 1] as in the paper's code; per layer, every parameter has its
    own. On the task vectors of `ties_vectors` it is AdaMerging++.

    Parameters
    ----------
    per : "task", or "layer" (every parameter that a task vector changes).
    init : coefficient before adaptation.
    clamp : whether λ is kept within 0 and 1; beyond them its gradient is 0.
    transfer : as of the gate.
    """
    return Coefficients(mixture, per, init, clamp)
