"""Data-adaptive weight ensembling: a gate that chooses coefficients by features of the input."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Generator, Tensor, nn

from mergeloom.adaptive.adapter import Adapter, adapter, group_means, layers_of
from mergeloom.adaptive.mixture import Mixture


class Gate(Adapter):
    """g(φ(x)) = W2 ReLU(W1 φ(x) + b1) + b2, one perceptron for all coefficients."""

    def __init__(
        self, mixture: Mixture, size: int, random: Generator, per: str, init: float
    ) -> None:
        super().__init__(mixture)
        self.shape = layers_of(mixture, per)
        outputs = math.prod(self.shape)
        bound = 1 / math.sqrt(size)  # of torch's default initialisation of both

        def uniform(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape).uniform_(-bound, bound, generator=random))

        self.hidden_weight, self.hidden_bias = uniform(size, size), uniform(size)
        self.weight = nn.Parameter(torch.zeros(outputs, size))
        self.bias = nn.Parameter(torch.full((outputs,), init))

    def coefficients(self, features: Tensor | None, groups: int) -> Tensor:
        """The mean of g over each group's rows."""
        assert features is not None
        hidden = nn.functional.linear(features, self.hidden_weight, self.hidden_bias).relu()
        found = nn.functional.linear(hidden, self.weight, self.bias)
        return group_means(found, groups).unflatten(1, self.shape)

    def relayered(self, state: Mapping[str, Tensor], layers: Sequence[int]) -> Mapping[str, Tensor]:
        """Rows of the second layer are of an expert and a parameter each."""
        moved = {
            name: state[name].unflatten(0, (self.shape[0], -1))[:, list(layers)].flatten(0, 1)
            for name in ("weight", "bias")
        }
        return {**state, **moved}


@adapter(
    "gate",
    features=True,
    portable=True,
    low_rank=True,
    limits={"per": ("task", "layer"), "transfer": ("exact", "by_relative_depth")},
)
def gate(
    mixture: Mixture,
    size: int,
    random: Generator,
    *,
    per: str = "task",
    init: float = 0.3,
    transfer: str = "exact",
) -> Adapter:
    """Data-adaptive weight ensembling: coefficients are a perceptron's answer to features of x.

    θ(x) = θ0 + Σ_k λ_k(x) τ_k with λ(x) = g(φ(x)) ∈ R^K, or R^{K×L} with coefficients of every
    parameter; g(f) = W2 ReLU(W1 f + b1) + b2 with W1 of shape d × d in torch's default
    initialisation, W2 = 0 and b2 = `init`, so that it begins as task arithmetic at `init`. Nothing
    is clamped or made to sum to one. For a group of inputs λ is the mean over them.

    Parameters
    ----------
    per : "task", or "layer" (every parameter that a task vector changes).
    init : coefficient before adaptation; the published one is 0.3.
    transfer : of a gate per layer to another encoder: "exact" refuses other parameters;
        "by_relative_depth", an extension, lets each parameter take the coefficients of the one of
        its place in a block at the nearest relative depth.
    """
    return Gate(mixture, size, random, per, init)
