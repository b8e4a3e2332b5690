"""Mean entropies of predictions for several tasks, in one pass of the tower."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from mergeloom.models.family import Family


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Inputs of several tasks as one tensor; shorter texts are padded with 0, T5's padding."""
    if len({part.shape[1:] for part in parts}) > 1:
        length = max(part.shape[1] for part in parts)
        parts = [pad(part, (0, length - part.shape[1])) for part in parts]
    return torch.cat(list(parts))


def mean_entropies(
    family: Family, tower: Any, heads: Sequence[Any], inputs: Sequence[Tensor]
) -> Tensor:
    """For each task the mean over its inputs of H(softmax(logits)), in nats.

    Parameters
    ----------
    heads, inputs : of each task; the tower is fed all inputs at once, task by task.

    Returns
    -------
    Tensor [tasks], float32.
    """
    together = joined(inputs)
    sizes = [len(part) for part in inputs]
    if all(isinstance(head, Tensor) for head in heads):
        # The heads as one with the classes of all; of each row, those of its own task count.
        logits = family.entropy_logits(tower, torch.cat(list(heads)), together)
        columns = [len(head) for head in heads]
        rows = logits.split(sizes)
        parts = [row.split(columns, dim=1)[k] for k, row in enumerate(rows)]
    else:
        logits = family.entropy_logits(tower, heads[0], together)  # over a vocabulary: of any head
        parts = list(logits.split(sizes))
    return torch.stack([_entropy(part).mean() for part in parts])


def _entropy(logits: Tensor) -> Tensor:
    log_p = logits.float().log_softmax(dim=-1)
    return -(log_p.exp() * log_p).sum(dim=-1)
