"""WEMoE and E-WEMoE: routers within the forward pass mix the perceptrons of the blocks."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Generator, Tensor, nn

from mergeloom.adaptive.adapter import Adapter, adapter, group_means
from mergeloom.adaptive.mixture import Mixture
from mergeloom.evaluation.precision import computing_in

DEVIATION = 0.01  # of a router's weights before adaptation


class Router(nn.Module):
    """Tokens [..., width] to weights of the experts [..., K]: a perceptron, or constants."""

    def __init__(self, width: int, experts: int, depth: int, init: float, random: Generator):
        super().__init__()

        def normal(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape).normal_(0, DEVIATION, generator=random))

        self.depth = depth
        if depth == 2:
            self.hidden_weight = normal(width, width)
            self.hidden_bias = nn.Parameter(torch.zeros(width))
            self.weight = normal(experts, width)
        self.bias = nn.Parameter(torch.full((experts,), init))

    def forward(self, tokens: Tensor) -> Tensor:
        """Of each token; of constants, [1, ..., K]."""
        if self.depth == 0:
            return self.bias.view(*[1] * (tokens.ndim - 1), -1)
        hidden = nn.functional.linear(tokens, self.hidden_weight, self.hidden_bias).relu()
        return nn.functional.linear(hidden, self.weight, self.bias)


class Routed(Adapter):
    """The perceptron of every block has coefficients of what it is fed; the rest is merged."""

    within = True

    def __init__(
        self, mixture: Mixture, random: Generator, depth: int, init: float, shared: bool
    ) -> None:
        super().__init__(mixture)
        self.together = depth > 0
        self.blocks = mixture.perceptrons()
        routed = {key for block in self.blocks for key in block.keys}
        mixture.settle([key for key in mixture.keys if key not in routed])
        count = 1 if shared else len(self.blocks)
        self.routers = nn.ModuleList(
            Router(block.width, mixture.size, depth, init, random) for block in self.blocks[:count]
        )
        self.register_buffer("merged", torch.full((1, mixture.size), init), persistent=False)
        self._groups = 1
        for index in range(len(self.blocks)):
            self._install(index)

    def _install(self, index: int) -> None:
        block = self.blocks[index]
        router = self.routers[min(index, len(self.routers) - 1)]

        def choose(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            with computing_in("float32", arguments[0].device.type):
                weights = router(arguments[0].float())
            weights = weights.flatten(1, -2).mean(dim=1)  # over the tokens of an input
            if len(weights) > 1:
                weights = group_means(weights, self._groups)
            if self.observer:
                self.observer(block.keys[0], weights.detach())
            self.mixture.route(block.keys, weights)

        block.module.register_forward_pre_hook(choose)

    @contextmanager
    def applied(self, features: Tensor | None, groups: int) -> Iterator[None]:
        """Routers answer for groups of inputs: the mean over their tokens."""
        self._groups = groups
        with self.mixture.mixed(self.get_buffer("merged")):
            yield


@adapter("wemoe", arxiv="2402.00433", low_rank=True, modality="images", limits={"depth": (0, 2)})
def wemoe(
    mixture: Mixture,
    size: int | None,
    random: Generator,
    *,
    depth: int = 2,
    init: float = 0.3,
) -> Adapter:
    """WEMoE: every block's perceptron is mixed by a router of its own, the rest is merged.

    θ_mlp(x) = θ0 + Σ_k w_k(x) τ_k with w(x) the mean over the tokens h that the perceptron is fed
    of r(h) = W2 ReLU(W1 h + b1) + b2; W1 of shape d × d and W2 are drawn from N(0, 0.01²), b1 = 0
    and b2 = `init`. All other parameters are task arithmetic's at `init`. Of images alone: tokens
    of a batch of texts are padding, prefixes and answers, too, and the mean would be of them all.

    Parameters
    ----------
    depth : layers of the routers; with 0 they are constants, AdaMerging's of the perceptrons
        without a clamp.
    init : coefficient before adaptation, and of what is not routed.
    """
    return Routed(mixture, random, depth, init, shared=False)


@adapter("e_wemoe", arxiv="2410.21804", modality="images", limits={"keep": "(0, 1]"})
def e_wemoe(
    mixture: Mixture,
    size: int | None,
    random: Generator,
    *,
    keep: float = 0.1,
    init: float = 0.3,
) -> Adapter:
    """E-WEMoE: WEMoE with pruned task vectors of the perceptrons and one router for all blocks.

    Of every expert and parameter of a perceptron the entries above the quantile 1 - `keep` of the
    magnitudes are kept. The optional encoding of the layer's position, off in the paper, is not
    there. It has no low-rank form: caches of singular vectors are of the whole task vectors.

    Parameters
    ----------
    keep : share of the entries that are kept; 1 keeps all.
    init : coefficient before adaptation, and of what is not routed.
    """
    made = Routed(mixture, random, 2, init, shared=True)
    with torch.no_grad():
        for key in mixture.keys if keep < 1 else ():
            stack = mixture.stacks[key]
            pruned = torch.stack([_largest(vector, keep) for vector in stack])
            # The centre that the mixture starts from is of the task vectors that it has.
            mixture.base[key].add_((pruned - stack).sum(dim=0), alpha=mixture.centre)
            mixture.stacks[key] = pruned
    return made


def _largest(vector: Tensor, keep: float) -> Tensor:
    magnitudes = vector.abs().flatten()
    rank = int((1 - keep) * (len(magnitudes) - 1)) + 1
    return vector * (vector.abs() > magnitudes.kthvalue(rank).values)
