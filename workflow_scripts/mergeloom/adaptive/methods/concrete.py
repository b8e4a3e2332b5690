"""Concrete subspace learning: one mask over all task vectors, trained at test time."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from mergeloom.adaptive.adapter import Adapter, adapter, layers_of, size_of_base
from mergeloom.adaptive.mixture import Mixture
from mergeloom.evaluation.precision import computing_in
from mergeloom.training.loop import generator

EVALUATED = 2**40  # the number of the draw that the mask is fixed by; no step has it


class Masked:
    """Supplies θ0 + m ⊙ Σ_k λ_k τ_k, the same for all rows."""

    def __init__(self, owner: "Concrete", key: str, index: int) -> None:
        self._owner, self._index = owner, index
        self._base, self._stack = owner.mixture.base[key], owner.mixture.stacks[key]

    def _weights(self) -> Tensor:
        coefficients = self._owner.values_of(self._index)
        with computing_in("float32", self._base.device.type):
            step = torch.tensordot(coefficients, self._stack, dims=1)
            return self._base + self._owner.mask(self._index) * step

    def linear(self, key: str, inputs: Tensor, transposed: bool = False) -> Tensor:
        """See `mergeloom.models.supply`."""
        weights = self._weights()
        return functional.linear(inputs, weights.T if transposed else weights.flatten(1))

    def entries(self, key: str, like: Tensor) -> Tensor:
        """See `mergeloom.models.supply`."""
        weights = self._weights()
        return weights.view(*[1] * (like.ndim - weights.ndim), *weights.shape)

    def looked_up(self, key: str, indices: Tensor) -> Tensor:
        """See `mergeloom.models.supply`."""
        return functional.embedding(indices, self._weights())


class Concrete(Adapter):
    """Logits x of a mask, and coefficients per task or layer, which may be trained after it.

    learns : whether coefficients are trained: the first `mask_steps` steps then learn the mask for
        coefficients that take one step of their own, and later ones the coefficients under it.
    """

    def __init__(
        self,
        mixture: Mixture,
        random: Generator,
        per: str,
        coefficient: float,
        temperature: float,
        learns: bool,
        mask_steps: int = 0,
        inner_lr: float = 0.0,
    ) -> None:
        super().__init__(mixture)
        self.temperature, self.learns = temperature, learns
        self.mask_steps, self.inner_lr = mask_steps, inner_lr
        self.logits = nn.ParameterList(
            nn.Parameter(torch.zeros_like(mixture.base[key])) for key in mixture.keys
        )
        values = torch.full(layers_of(mixture, per), coefficient)
        self.values = nn.Parameter(values, requires_grad=learns)
        self.register_buffer("zeros", torch.zeros(1, mixture.size), persistent=False)
        self._seed = int(torch.randint(2**62, (), generator=random))
        self._draw = EVALUATED
        self._noise: dict[int, Tensor] | None = None  # of a draw that is used twice
        self._stepped: Tensor | None = None  # coefficients that stand in for `values`
        self._frozen: dict[int, Tensor] = {}  # masks that are no part of the graph
        for index, key in enumerate(mixture.keys):
            mixture.delegate([key], Masked(self, key, index))

    def coefficients(self, features: Tensor | None, groups: int) -> Tensor:
        """[1, K] or [1, K, L], of the masked task vectors."""
        return self.values[None]

    def values_of(self, index: int) -> Tensor:
        """λ [K] of the parameter of this index among `mixture.keys`."""
        values = self.values if self._stepped is None else self._stepped
        return values if values.ndim == 1 else values[:, index]

    def mask(self, index: int) -> Tensor:
        """m = σ((logit u + x) / T), divided by its mean, of a parameter [*shape]."""
        if index in self._frozen:
            return self._frozen[index]
        mask = ((self._drawn(index) + self.logits[index]) / self.temperature).sigmoid()
        mask = mask / mask.mean()
        return mask

    def _drawn(self, index: int) -> Tensor:
        """logit u of the current draw."""
        if self._noise is not None and index in self._noise:
            return self._noise[index]
        logits = self.logits[index]
        random = generator(self._seed, self._draw, index)
        noise = torch.rand(logits.shape, generator=random).clamp_(1e-6, 1 - 1e-6).logit_()
        noise = noise.to(logits.device)
        if self._noise is not None:
            self._noise[index] = noise
        return noise

    def _freeze(self) -> None:
        """Fix the mask that is evaluated, and under which coefficients are trained."""
        if not self._frozen:
            # What is made in inference mode could not stand in a graph later.
            with torch.inference_mode(False), torch.no_grad():
                self._frozen = {index: self.mask(index) for index in range(len(self.logits))}

    @contextmanager
    def applied(self, features: Tensor | None, groups: int) -> Iterator[None]:
        """One masked model for all inputs; the mask is that of the current draw."""
        if self._draw == EVALUATED:
            self._freeze()
        with self.mixture.mixed(self.get_buffer("zeros")):
            yield

    def gradients(self, step: int, entropy: Callable[[], Tensor]) -> Tensor:
        """Of the mask, under a draw of this step; of the coefficients, under the fixed mask."""
        if self.learns and step >= self.mask_steps:
            loss = entropy()
            [self.values.grad] = torch.autograd.grad(loss, [self.values])
            return loss.detach()
        self._frozen.clear()
        self._draw = step
        try:
            if self.learns:
                self._noise = {}
                [slope] = torch.autograd.grad(entropy(), [self.values])
                # The first step of Adam, whose moments are those of this one gradient.
                step_of = self.inner_lr * slope / (slope.abs() + 1e-8)
                self._stepped = self.values.detach() - step_of
            loss = entropy()
            for logits, slope in zip(
                self.logits, torch.autograd.grad(loss, list(self.logits)), strict=True
            ):
                logits.grad = slope
        finally:
            self._draw, self._stepped, self._noise = EVALUATED, None, None
        return loss.detach()

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take up mask and coefficients."""
        self._frozen.clear()
        super().load(state)

    @property
    def stored(self) -> int:
        """One merged model."""
        return size_of_base(self.mixture)


@adapter("concrete_task_arithmetic", arxiv="2312.06173", limits={"temperature": "(0, inf)"})
def concrete_task_arithmetic(
    mixture: Mixture,
    size: int | None,
    random: Generator,
    *,
    coefficient: float = 0.3,
    temperature: float = 0.5,
) -> Adapter:
    """Concrete task arithmetic: mask the sum of task vectors by a mask learned on entropy.

    θ = θ0 + λ m ⊙ Σ_k τ_k with m = σ((logit u + x) / T), u uniform in (0, 1), divided by its mean
    over a parameter; x, of the shape of θ, starts at 0 and is trained, u drawn anew for each step.
    What is evaluated has the mask of one further draw, the same for a seed: the paper's final mask
    is a random one, too, so that results differ from seed to seed.

    Parameters
    ----------
    coefficient : λ.
    temperature : T of the relaxed Bernoulli variables.
    """
    return Concrete(mixture, random, "task", coefficient, temperature, learns=False)


@adapter(
    "concrete_adamerging",
    arxiv="2312.06173",
    limits={
        "per": ("task", "layer"), "temperature": "(0, inf)", "mask_steps": "[1, inf)",
        "inner_lr": "[0, inf)",
    },
)  # fmt: skip
def concrete_adamerging(
    mixture: Mixture,
    size: int | None,
    random: Generator,
    *,
    per: str = "layer",
    coefficient: float = 0.3,
    temperature: float = 0.5,
    mask_steps: int = 1000,
    inner_lr: float = 1.0,
) -> Adapter:
    """Concrete AdaMerging: learn a mask for adapted coefficients, then coefficients under it.

    The first `mask_steps` steps train the mask of `concrete_task_arithmetic`: each takes
    coefficients from `coefficient` by one step of Adam on them, and the gradient of x at what they
    became, on the same inputs and draw. The others train the coefficients under one fixed mask, as
    AdaMerging does without a clamp.

    Parameters
    ----------
    per : coefficients per "task" or "layer".
    coefficient : before adaptation.
    temperature : T of the relaxed Bernoulli variables.
    mask_steps : of those of the adaptation, that train the mask.
    inner_lr : of the one step of the coefficients.
    """
    return Concrete(mixture, random, per, coefficient, temperature, True, mask_steps, inner_lr)
