"""Optimisers by name. A recipe's weight_decay is theirs in the manner of each."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from mergeloom.errors import MergeloomError
from mergeloom.models.duality import dual_scale, polar_of_map
from mergeloom.training.registry import Trained, optimizer


@optimizer("adamw")
def adamw(
    trained: Trained,
    lr: float,
    weight_decay: float,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
) -> Optimizer:
    """AdamW (arXiv 1711.05101): weights decay by lr · weight_decay, apart from the gradient."""
    return torch.optim.AdamW(
        list(trained.parameters.values()),
        lr=lr,
        betas=betas,
        weight_decay=weight_decay,
        fused=trained.fused,
    )


@optimizer("adam")
def adam(
    trained: Trained,
    lr: float,
    weight_decay: float,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
) -> Optimizer:
    """Adam (arXiv 1412.6980): weight_decay · θ is added to the gradient."""
    return torch.optim.Adam(
        list(trained.parameters.values()),
        lr=lr,
        betas=betas,
        weight_decay=weight_decay,
        fused=trained.fused,
    )


@optimizer("sgd")
def sgd(trained: Trained, lr: float, weight_decay: float, *, momentum: float = 0.0) -> Optimizer:
    """Stochastic gradient descent; weight_decay · θ is added to the gradient."""
    return torch.optim.SGD(
        list(trained.parameters.values()), lr=lr, momentum=momentum, weight_decay=weight_decay
    )


@optimizer("muon")
def muon(
    trained: Trained,
    lr: float,
    weight_decay: float,
    *,
    momentum: float = 0.95,
    rest_lr: float = 3e-5,
    betas: tuple[float, float] = (0.9, 0.95),
) -> Optimizer:
    """Muon (K. Jordan 2024, https://kellerjordan.github.io/posts/muon/) on the model's matrices.

    Its step is the gradient's momentum with all singular values brought to about 1, by torch's
    Newton–Schulz iteration in bfloat16, times lr √max(1, rows/columns). What is no matrix, and
    embeddings before the first block, are AdamW's with `rest_lr` and `betas`; both decay weights
    as AdamW does.

    Raises
    ------
    MergeloomError – nothing that is trained is known to be a matrix.
    """
    matrices = [
        name
        for name, place in trained.places.items()
        if place.kind == "matrix" and place.key not in place.embeddings
    ]
    _require("muon", matrices)
    rest = {n: p for n, p in trained.parameters.items() if n not in matrices}
    return Together(
        torch.optim.Muon(
            [trained.parameters[name] for name in matrices],
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
        ),
        adamw(Trained(rest, trained.places, trained.fused), rest_lr, weight_decay, betas=betas),
    )


@optimizer("dualized_adamw")
def dualized_adamw(
    trained: Trained,
    lr: float,
    weight_decay: float,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    masses: str = "uniform",
) -> Optimizer:
    """AdamW on dualised gradients.

    Before each step the gradient of every linear map becomes its modular dual (see
    `mergeloom.models.duality`; arXiv 2410.21265), others stay as they are. Polar
    factors of a whole tower at every step are work for a GPU: on a CPU a step of ViT-B-32 takes
    minutes.

    Raises
    ------
    MergeloomError – nothing that is trained is known to be a linear map.
    """
    return _dualized(
        "dualized_adamw", adamw(trained, lr, weight_decay, betas=betas), trained, masses
    )


@optimizer("dualized_sgd")
def dualized_sgd(
    trained: Trained,
    lr: float,
    weight_decay: float,
    *,
    momentum: float = 0.0,
    masses: str = "uniform",
) -> Optimizer:
    """Stochastic gradient descent on dualised gradients; see `dualized_adamw`."""
    return _dualized(
        "dualized_sgd", sgd(trained, lr, weight_decay, momentum=momentum), trained, masses
    )


class Together(Optimizer):
    """Optimisers of different parameters as one, with the parameter groups and state of all."""

    def __init__(self, *members: Optimizer) -> None:
        super().__init__([group for member in members for group in member.param_groups], {})
        self.members = members
        for member in members:
            member.state = self.state

    def step(self) -> None:  # type: ignore[override]
        """One step of each."""
        for member in self.members:
            member.step()


def _dualized(name: str, base: Optimizer, trained: Trained, masses: str) -> Optimizer:
    scales: list[tuple[Tensor, float]] = []
    for key, place in trained.places.items():
        scale = dual_scale(place, masses)
        if scale is not None:
            scales.append((trained.parameters[key], scale))
    _require(name, scales)

    def dualize(*_: object) -> None:
        for parameter, scale in scales:
            if parameter.grad is not None:
                parameter.grad.copy_(scale * polar_of_map(parameter.grad))

    # A hook of the step itself: with float16, gradients are unscaled and finite by then.
    base.register_step_pre_hook(dualize)
    return base


def _require(name: str, found: list[Any]) -> None:
    if not found:
        raise MergeloomError(
            f"optimizer {name!r} is for models whose matrices are known, which are the image "
            "towers that are fine-tuned; take adamw, adam or sgd here"
        )
