"""Logistic regressions that differ in their penalty, solved at once with L-BFGS in float64."""

import logging
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from mergeloom.similarity.feature_table import FeatureTable

HISTORY: Final = 10  # pairs of steps and changes of gradients
TOLERANCE: Final = 1e-7  # of the largest entry of a gradient
MOST_STEPS: Final = 1000
_ROWS: Final = 4096
_DECREASE, _MOST_HALVINGS = 1e-4, 40

log = logging.getLogger(__name__)


def train_logistic(
    table: FeatureTable, rows: Tensor, penalties: Sequence[float], classes: int
) -> Tensor:
    """Minimise the mean cross-entropy + λ/2 · ‖W‖² for each λ, the bias free of penalty.

    Each problem has its own steps, line search and end; all that are under way share matrix
    products. They begin at zero, so that a problem's result depends on no other. L-BFGS as in
    Nocedal and Wright, Numerical Optimization, algorithm 7.4, with steps that are halved until the
    loss falls enough; the curvature of steps is positive, since the problems are convex. λ is
    1 / (n C) in terms of scikit-learn's `LogisticRegression(C=…)`.

    Parameters
    ----------
    rows : int64 [n], on the CPU – the examples of `table` to train with.
    penalties : M of them, λ.

    Returns
    -------
    Tensor [M, C, d + 1], float64, on the table's device; the last column is the bias. A problem
    whose gradient is still above 1e-7 after 1000 steps ends there, and is logged.
    """
    size = classes * table.columns
    result = torch.zeros(len(penalties), size, dtype=torch.float64, device=table.device)
    running = torch.arange(len(penalties), device=table.device)
    penalty = torch.tensor(penalties, dtype=torch.float64, device=table.device)
    where = result.clone()
    loss, gradient = _loss(table, rows, where, penalty, classes)
    steps: list[tuple[Tensor, Tensor, Tensor]] = []  # s, y, 1 / (s · y), of all that run
    for _ in range(MOST_STEPS):
        ends = gradient.abs().amax(dim=1) <= TOLERANCE
        if ends.any():
            result[running[ends]] = where[ends]
            left = ~ends
            running, where, penalty = running[left], where[left], penalty[left]
            loss, gradient = loss[left], gradient[left]
            steps = [(s[left], y[left], r[left]) for s, y, r in steps]
        if not len(running):
            return result.view(len(penalties), classes, -1)
        direction = _direction(gradient, steps)
        new, new_loss, new_gradient, stuck = _line_search(
            table, rows, where, loss, gradient, direction, penalty, classes
        )
        step, change = new - where, new_gradient - gradient
        curvature = (step * change).sum(dim=1)
        inverse = torch.where(curvature > 0, 1 / curvature.clamp_min(1e-300), 0)
        steps = [*steps[-HISTORY + 1 :], (step, change, inverse)]
        where, loss, gradient = new, new_loss, new_gradient
        # The loss cannot be told from its neighbours': this is the minimum, to rounding.
        gradient = torch.where(stuck[:, None], 0, gradient)
    result[running] = where
    log.warning(
        "L-BFGS: gradients of penalties %s are above %g after %d steps",
        ", ".join(f"{value:g}" for value in penalty.tolist()),
        TOLERANCE,
        MOST_STEPS,
    )
    return result.view(len(penalties), classes, -1)


def bytes_of_problem(classes: int, columns: int) -> int:
    """Memory that one problem takes."""
    return (2 * HISTORY + 10) * classes * columns * 8


def _loss(
    table: FeatureTable, rows: Tensor, where: Tensor, penalty: Tensor, classes: int
) -> tuple[Tensor, Tensor]:
    """Losses [M] and gradients [M, C · (d + 1)] at weights [M, C · (d + 1)]."""
    many = len(where)
    weights = where.view(many * classes, -1)
    loss, gradient = where.new_zeros(many), torch.zeros_like(weights)
    for batch in rows.split(_ROWS):
        features = table.take(batch).double()
        labels = table.labels[batch.to(table.device)].view(-1, 1, 1).expand(-1, many, 1)
        logs = (features @ weights.T).view(len(batch), many, classes).log_softmax(dim=2)
        loss -= logs.gather(2, labels).sum(dim=(0, 2))
        shares = logs.exp_()
        shares.scatter_add_(2, labels, shares.new_full((1, 1, 1), -1.0).expand_as(labels))
        gradient.addmm_(shares.view(len(batch), -1).T, features)
    free = where.view(many, classes, -1).clone()
    free[:, :, -1] = 0
    penalised = free.flatten(1)
    loss = loss / len(rows) + penalty / 2 * penalised.square().sum(dim=1)
    return loss, gradient.view(many, -1) / len(rows) + penalty[:, None] * penalised


def _direction(gradient: Tensor, steps: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """−H g by the two-loop recursion; at first −g at the length of at most 1."""
    if not steps:
        return -gradient / gradient.norm(dim=1, keepdim=True).clamp_min(1)
    found = gradient.clone()
    shares = []
    for step, change, inverse in reversed(steps):
        share = inverse * (step * found).sum(dim=1)
        found -= share[:, None] * change
        shares.append(share)
    step, change, inverse = steps[-1]
    squared = change.square().sum(dim=1)
    scale = torch.where(inverse > 0, 1 / (inverse * squared).clamp_min(1e-300), 1)
    found *= scale[:, None]
    for (step, change, inverse), share in zip(steps, reversed(shares), strict=True):
        found += (share - inverse * (change * found).sum(dim=1))[:, None] * step
    return -found


def _line_search(
    table: FeatureTable,
    rows: Tensor,
    where: Tensor,
    loss: Tensor,
    gradient: Tensor,
    direction: Tensor,
    penalty: Tensor,
    classes: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Halve steps until losses fall enough: new weights, losses, gradients, and who is stuck.

    A problem is stuck when no step lowers its loss; it stays where it is.
    """
    slope = (direction * gradient).sum(dim=1)
    new, new_loss, new_gradient = where.clone(), loss.clone(), gradient.clone()
    length = torch.ones_like(loss)
    trying = torch.arange(len(where), device=where.device)
    for _ in range(_MOST_HALVINGS):
        tried = where[trying] + length[trying, None] * direction[trying]
        its_loss, its_gradient = _loss(table, rows, tried, penalty[trying], classes)
        enough = its_loss <= loss[trying] + _DECREASE * length[trying] * slope[trying]
        there = trying[enough]
        new[there], new_loss[there] = tried[enough], its_loss[enough]
        new_gradient[there] = its_gradient[enough]
        trying = trying[~enough]
        if not len(trying):
            break
        length[trying] /= 2
    stuck = torch.zeros(len(where), dtype=torch.bool, device=where.device)
    stuck[trying] = True
    return new, new_loss, new_gradient, stuck
