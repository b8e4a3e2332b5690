"""Precision of the forward pass: autocast for the tower, float32 for everything after it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mergeloom.errors import MergeloomError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_precision(precision: str, device: str) -> str:
    """`auto` is bfloat16 on a GPU that has it, and float32 elsewhere; other names stay."""
    if precision != "auto":
        return precision
    has_bfloat16 = device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if has_bfloat16 else "float32"


def in_precision(
    tower: Callable[[Tensor], Tensor], precision: str, device: str
) -> Callable[[Tensor], Tensor]:
    """The tower, computing under autocast, with float32 features.

    Its weights stay float32; matrix products round them and their inputs to `precision`.

    Raises
    ------
    MergeloomError – an unknown precision.
    """
    if precision == "float32":
        return tower

    def forward(images: Tensor) -> Tensor:
        with computing_in(precision, device):
            features: Any = tower(images)
        return features.float()

    return forward


def computing_in(precision: str, device: str) -> torch.autocast:
    """A context in which matrix products round their inputs to `precision`.

    Raises
    ------
    MergeloomError – an unknown precision.
    """
    if precision not in _DTYPES:
        raise MergeloomError(f"precision is {precision!r}, expected one of {', '.join(_DTYPES)}")
    kind, enabled = torch.device(device).type, precision != "float32"
    return torch.autocast(kind, dtype=_DTYPES[precision] if enabled else None, enabled=enabled)


class NotFinite(MergeloomError):
    """What a model puts out is NaN or infinite."""


def check_loss(loss: Tensor, what: str, precision: str) -> None:
    """Raise NotFinite if a sum of losses is not finite: it was taken of `what`, in plural."""
    if not torch.isfinite(loss):
        narrow = (
            "" if precision == "float32" else f", or evaluation.precision {precision} too narrow"
        )
        raise NotFinite(f"{what} are not finite: a weight is NaN or too large{narrow}")
