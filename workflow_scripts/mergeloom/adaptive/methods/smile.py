"""SMILE: sparse experts of low rank beside every linear map, without training."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Generator, Tensor
from torch.nn import functional

from mergeloom.adaptive.adapter import Adapter, adapter, size_of_base
from mergeloom.adaptive.mixture import Mixture
from mergeloom.linalg.spectral import truncated_svd
from mergeloom.models.naming import places


class Experts:
    """One linear map with its experts; supplies the matrix and its bias.

    Attributes
    ----------
    gate : Tensor [K, g, i], the leading right singular vectors of each expert's ΔW, which route.
    down, up : Tensor [K, r, i] and [K, r, o] with ΔW_k ≈ up_kᵀ down_k; None for dense experts.
    """

    def __init__(self, owner: "Smile", key: str, bias: str | None) -> None:
        self.owner, self.key, self.bias = owner, key, bias
        self.gate = torch.empty(0)  # until `decompose` or `Smile.load`
        self.down: Tensor | None = None
        self.up: Tensor | None = None
        self._weights: Tensor | None = None  # of the last inputs, which the bias is chosen by, too

    def decompose(self, transposed: bool) -> None:
        """Make gates and factors from the task vectors; ΔW maps columns to rows."""
        stack = self.owner.mixture.stacks[self.key]
        stack = stack.mT if transposed else stack
        rank = min(max(self.owner.rank, self.owner.gate_rank), *stack.shape[1:])
        left, values, right = truncated_svd(stack.contiguous(), rank)
        self.gate = right[:, : self.owner.gate_rank].contiguous()
        if self.owner.rank:
            kept = min(self.owner.rank, *stack.shape[1:])
            self.down = right[:, :kept].contiguous()
            self.up = (left[:, :, :kept] * values[:, None, :kept]).mT.contiguous()

    def linear(self, key: str, inputs: Tensor, transposed: bool = False) -> Tensor:
        """W0 x + Σ_k w_k(x) ΔW_k x for every token x: see `mergeloom.models.supply`."""
        mixture = self.owner.mixture
        base = mixture.base[key]
        outputs = functional.linear(inputs, base.T if transposed else base)
        weights = self._weights = self.owner.routing(self.gate, inputs)
        if self.owner.observer:
            self.owner.observer(
                key, weights.reshape(len(weights), -1, self.gate.shape[0]).mean(dim=1)
            )
        if self.down is not None and self.up is not None:
            inner = functional.linear(inputs, self.down.flatten(0, 1))
            inner = inner * weights.repeat_interleave(self.down.shape[1], dim=-1)
            return outputs + inner @ self.up.flatten(0, 1)
        for expert, delta in enumerate(mixture.stacks[key]):
            of_expert = functional.linear(inputs, delta.T if transposed else delta)
            outputs = outputs + weights[..., expert, None] * of_expert
        return outputs

    def entries(self, key: str, like: Tensor) -> Tensor:
        """The bias of the experts that the matrix chose; a matrix stays the base's."""
        mixture = self.owner.mixture
        base = mixture.base[key]
        plain = base.view(*[1] * (like.ndim - base.ndim), *base.shape)
        if key != self.bias or self._weights is None:
            return plain
        return plain + self._weights @ mixture.stacks[key]

    def looked_up(self, key: str, indices: Tensor) -> Tensor:
        """Tables stay the base's."""
        return functional.embedding(indices, self.owner.mixture.base[key])


class Smile(Adapter):
    """Experts beside every linear map that some task vector changes."""

    within = True

    def __init__(self, mixture: Mixture, gate_rank: int, rank: int, top: int) -> None:
        super().__init__(mixture)
        self.gate_rank, self.rank, self.top = gate_rank, rank, min(top, mixture.size)
        self.register_buffer("zeros", torch.zeros(1, mixture.size), persistent=False)
        self.experts: dict[str, Experts] = {}
        located = places(mixture.family, {k: tuple(v.shape) for k, v in mixture.base.items()})
        for key in mixture.keys:
            if located[key].kind != "matrix" or key in located[key].embeddings:
                continue
            bias = f"{key.removesuffix('weight')}bias" if key.endswith("weight") else None
            experts = Experts(self, key, bias if bias in mixture.stacks else None)
            self.experts[key] = experts
            mixture.delegate([key, *([experts.bias] if experts.bias else [])], experts)

    def routing(self, gate: Tensor, inputs: Tensor) -> Tensor:
        """w [..., K] of tokens [..., i]: softmax of ‖V_k x‖, the largest `top` made to sum to 1."""
        projected = functional.linear(inputs, gate.flatten(0, 1)).unflatten(-1, gate.shape[:2])
        weights = projected.norm(dim=-1).softmax(dim=-1)
        if self.top < weights.shape[-1]:
            kept = weights.topk(self.top, dim=-1)
            weights = torch.zeros_like(weights).scatter(-1, kept.indices, kept.values)
        return weights / weights.sum(dim=-1, keepdim=True)

    def fit(self, features: Sequence[Tensor] | None) -> None:
        """Decompose the task vectors."""
        with torch.no_grad():
            for key, experts in self.experts.items():
                experts.decompose(self._transposed(key))

    def _transposed(self, key: str) -> bool:
        """Whether inputs are multiplied with the matrix from the left, as open_clip's `proj` is."""
        return key.endswith("proj")

    @contextmanager
    def applied(self, features: Tensor | None, groups: int) -> Iterator[None]:
        """Tokens choose, each for itself; what is no linear map stays the base's."""
        with self.mixture.mixed(self.get_buffer("zeros")):
            yield

    def state(self) -> dict[str, Tensor]:
        """Gates and factors of every linear map."""
        found: dict[str, Tensor] = {}
        for key, experts in self.experts.items():
            parts = {"gate": experts.gate, "down": experts.down, "up": experts.up}
            found |= {f"{key}.{n}": t for n, t in parts.items() if t is not None}
        return found

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take up gates and factors."""
        device = self.get_buffer("zeros").device
        for key, experts in self.experts.items():
            experts.gate = state[f"{key}.gate"].to(device)
            if self.rank:
                experts.down = state[f"{key}.down"].to(device)
                experts.up = state[f"{key}.up"].to(device)

    @property
    def stored(self) -> int:
        """The base, gates, factors (or, of dense experts, task vectors) and biases."""
        own = sum(tensor.numel() for tensor in self.state().values())
        beside = [experts.bias for experts in self.experts.values() if experts.bias]
        beside += [] if self.rank else list(self.experts)
        stacks = self.mixture.stacks
        return size_of_base(self.mixture) + own + sum(stacks[key].numel() for key in beside)


@adapter(
    "smile",
    arxiv="2408.10174",
    trained=False,
    limits={"gate_rank": "[1, inf)", "rank": "[0, inf)", "top": "[1, inf)"},
)
def smile(
    mixture: Mixture,
    size: int | None,
    random: Generator,
    *,
    gate_rank: int = 16,
    rank: int = 32,
    top: int = 1,
) -> Adapter:
    """SMILE: tokens choose experts of low rank by how much of them the experts' subspaces hold.

    Of every linear map, ΔW_k = U_k Σ_k V_kᵀ; a token x gets y = W0 x + b0 + Σ_k w_k (U_k Σ_k V_kᵀ x
    + Δb_k) with the leading `rank` triples, w the softmax of ‖V_kᵀ x‖ of the leading `gate_rank`
    right vectors over experts, cut to the largest `top` and made to sum to one. What is no linear
    map stays the base's, as embeddings do, and so does a map that no task vector changes. A fused
    projection of queries, keys and values is one linear map.

    Parameters
    ----------
    gate_rank : right singular vectors that route.
    rank : of the experts; 0 keeps them dense.
    top : experts that a token gets.
    """
    return Smile(mixture, gate_rank, rank, top)
