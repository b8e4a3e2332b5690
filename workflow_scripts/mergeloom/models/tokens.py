"""Token ids of texts, int [n, length], padded at the end."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

PAD, END = 0, 1  # of T5's tokenizers; decoding starts with the former, too


def trimmed(tokens: Tensor) -> Tensor:
    """The same, cut to the longest: [n, longest]."""
    return tokens[:, : int((tokens != PAD).sum(dim=1).max())]


def stacked(parts: Sequence[Tensor]) -> Tensor:
    """Parts [n_i, length_i], one after the other, padded to the longest: [Σ n_i, longest]."""
    longest = max(part.shape[1] for part in parts)
    return torch.cat([pad(part, (0, longest - part.shape[1]), value=PAD) for part in parts])
