"""Linear probes that differ in learning rate and weight decay, trained at once with AdamW.

The weights of M candidates stand below one another, so that their logits, and their gradients, are
one matrix product each: [M · C, d + 1] with a batch. The bias is the weight of a column of ones.
"""

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from mergeloom.linalg.products import times_transpose
from mergeloom.similarity.feature_table import FeatureTable
from mergeloom.similarity.peak_search import Candidate

BETAS: Final = (0.9, 0.999)
EPSILON: Final = 1e-8
# Logits of a batch that are held together, of as many candidates as that is. On a CPU 4 MiB, so
# that they are still in the cache when the gradient is made of them.
_LOGITS, _LOGITS_OF_DEVICES = 2**20, 2**28


def initial_weights(classes: int, columns: int, generator: torch.Generator) -> Tensor:
    """What torch.nn.Linear(columns − 1, classes) begins with: float32 [classes, columns].

    Uniform within ±1/√d, weights first and then the biases, which are the last column.
    """
    width = columns - 1
    bound = 1 / math.sqrt(width)
    weight = torch.empty(classes, width).uniform_(-bound, bound, generator=generator)
    bias = torch.empty(classes, 1).uniform_(-bound, bound, generator=generator)
    return torch.cat([weight, bias], dim=1)


@torch.no_grad()
def train_probes(
    table: FeatureTable,
    rows: Tensor,
    candidates: Sequence[Candidate],
    classes: int,
    seed: int,
    *,
    epochs: int,
    batch_size: int,
) -> Tensor:
    """Train a linear probe per candidate with AdamW (arXiv 1711.05101) and cross-entropy.

    All begin with the same weights and see the same batches: those of a generator that is seeded
    anew for every call, so that a candidate's result depends on no other, but for the rounding of
    float32. Weight decay acts on the bias, too. The learning rate falls along a cosine from its
    base value, by the step, without warm-up: that of step s of S is (1 + cos(π s/S))/2 of it. The
    last batch of an epoch has what is left.

    Parameters
    ----------
    rows : int64 [n], on the CPU – the examples of `table` to train with.
    candidates : M of them.
    seed : of the first weights and the batches.

    Returns
    -------
    Tensor [M, C, d + 1], float32, on the table's device; the last column is the bias.
    """
    generator = torch.Generator().manual_seed(seed)
    begin = initial_weights(classes, table.columns, generator).to(table.device)
    weights = begin.repeat(len(candidates), 1, 1)
    optimizer = _StackedAdamW(weights, candidates)
    logits = _LOGITS if table.device == "cpu" else _LOGITS_OF_DEVICES
    room = max(1, logits // (min(batch_size, len(rows)) * classes))
    together = math.ceil(len(candidates) / math.ceil(len(candidates) / room))
    steps = epochs * math.ceil(len(rows) / batch_size)
    step = 0
    for _ in range(epochs):
        order = rows[torch.randperm(len(rows), generator=generator)]
        for batch in order.split(batch_size):
            features = table.take(batch)
            columns = torch.div(features.T, len(batch), out=features.new_empty(features.T.shape))
            labels = table.labels[batch.to(table.device)]
            share = (1 + math.cos(math.pi * step / steps)) / 2
            step += 1
            for start in range(0, len(candidates), together):
                some = slice(start, start + together)
                gradient = _gradient(weights[some], features, columns, labels)
                optimizer.update(some, gradient, step, share)
    return weights


def bytes_of_candidate(classes: int, columns: int) -> int:
    """Memory that one candidate takes in training, about."""
    return 6 * classes * columns * 4


def _gradient(weights: Tensor, features: Tensor, columns: Tensor, labels: Tensor) -> Tensor:
    """Gradients [M, C, d + 1] of the mean cross-entropy of a batch.

    Parameters
    ----------
    weights : Tensor [M, C, d + 1].
    features, columns : Tensor [b, d + 1], and its transpose divided by b.
    labels : int64 [b].
    """
    many, classes, _ = weights.shape
    logits = times_transpose(weights.flatten(0, 1), features).view(many, classes, -1)
    shares = logits.softmax(dim=1)
    places = labels.expand(many, 1, -1)
    shares.scatter_add_(1, places, shares.new_full((1, 1, 1), -1.0).expand_as(places))
    return times_transpose(shares.flatten(0, 1), columns).view_as(weights)


class _StackedAdamW:
    """AdamW over weights [M, C, d + 1], each candidate with its learning rate and weight decay."""

    def __init__(self, weights: Tensor, candidates: Sequence[Candidate]) -> None:
        self._weights = weights
        self._mean, self._square = torch.zeros_like(weights), torch.zeros_like(weights)
        # In float64, as torch.optim multiplies them before they meet a weight.
        self._rates, self._decays = (
            torch.tensor(values, dtype=torch.float64, device=weights.device).view(-1, 1, 1)
            for values in (
                [float(candidate.learning_rate or 0) for candidate in candidates],
                [candidate.weight_decay for candidate in candidates],
            )
        )

    def update(self, some: slice, gradient: Tensor, step: int, share: float) -> None:
        """Take a step, counted from 1, for some candidates, at a share of their learning rates."""
        first = 1 - BETAS[0] ** step
        second = math.sqrt(1 - BETAS[1] ** step)
        rates = share * self._rates[some]
        weights, mean, square = self._weights[some], self._mean[some], self._square[some]
        mean.lerp_(gradient, 1 - BETAS[0])
        square.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        spread = square.sqrt().div_(second).add_(EPSILON)
        change = torch.div(mean, spread, out=spread).mul_((rates / first).float())
        weights.mul_((1 - rates * self._decays[some]).float()).sub_(change)
