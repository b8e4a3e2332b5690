"""Squared norms of the gradients of single examples, without these gradients.

A parameter that is used once in a forward pass has, of each example, a gradient that what goes into
that use and the gradient of what comes out of it determine. Its norm follows from them at less cost
than the gradient itself: arXiv 1510.01799 for rows, arXiv 2110.05679 for sequences of them,
arXiv 2205.10683 for the choice between the two ways below. One forward pass and one backward pass
to activations alone give it of all examples of a batch.
"""

from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import torch
from torch import Tensor, nn

from mergeloom.errors import MergeloomError
from mergeloom.models.module_uses import watch_modules
from mergeloom.models.uses import Change, Watch

_BYTES = 2**26  # of gradients that are held at a time, where they are computed after all


class GhostNorms:
    """Watches a tower, within a `with` block, and gives norms of the gradients of its examples.

    Within the block its parameters do not require gradients, so that none is ever computed.

    Parameters
    ----------
    bare : watches the parameters that belong to no module of a known type.

    Attributes
    ----------
    bytes_per_example : of the outputs of all uses, in the last forward pass that was pulled back.
    """

    def __init__(self, tower: nn.Module, bare: Watch) -> None:
        self.bytes_per_example = 0
        self._tower, self._bare = tower, bare
        self._names = {id(tensor): name for name, tensor in tower.named_parameters()}
        self._used: set[str] = set()
        self._squares = torch.empty(0)
        self._bytes = 0
        self._exit = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for parameter in self._tower.parameters():
                stack.callback(parameter.requires_grad_, parameter.requires_grad)
                parameter.requires_grad_(False)
            for watch in (watch_modules, self._bare):
                for handle in watch(self._tower, self):
                    stack.callback(handle.remove)
            self._exit = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._exit.close()

    def pull_back(self, outputs: Tensor, cotangents: Tensor) -> Tensor:
        """Return ‖∂⟨vᵢ, yᵢ⟩/∂θ‖² of n examples, over all parameters θ.

        Parameters
        ----------
        outputs : Tensor [n, k] – the yᵢ, of one forward pass of the tower since the last call.
        cotangents : Tensor [n, k] – the vᵢ.

        Returns
        -------
        Tensor [n], float64.

        Raises
        ------
        MergeloomError
            Names parameters whose use in the forward pass was not told of, or was told of twice.
        """
        if missed := sorted(set(self._names.values()) - self._used):
            more = f" and {len(missed) - 5} more" if len(missed) > 5 else ""
            raise MergeloomError(
                f"how the model uses {', '.join(missed[:5])}{more} is not known, so gradients of "
                "single examples would lack it. Register a function for the family's bare "
                "parameters (mergeloom.models.uses), or for the type of their module "
                "(mergeloom.models.module_uses)"
            )
        self._squares = torch.zeros(len(outputs), dtype=torch.float64, device=outputs.device)
        self.bytes_per_example = self._bytes // len(outputs)
        self._used.clear()
        self._bytes = 0
        torch.autograd.backward(outputs, cotangents)
        return self._squares

    def linear(
        self,
        weight: Tensor,
        inputs: Tensor,
        outputs: Tensor,
        rows: Change | None = None,
        view: Change | None = None,
    ) -> None:
        """The gradient is Gᵀ X, of inputs X [t, i] and a gradient of outputs G [t, o]."""

        def squares(gradient: Tensor) -> Tensor:
            x, g = (_rows(_changed(*pair)) for pair in ((inputs, rows), (gradient, view)))
            return _squares_of_product(x, g)

        self._tell(weight, outputs, squares, inputs)

    def scaled(self, weight: Tensor, inputs: Tensor, outputs: Tensor, factors: Change) -> None:
        """The gradient is Σ_t G ⊙ factors."""
        shape = weight.shape
        self._tell(weight, outputs, lambda g: _squares_of_sum(g * factors(inputs), shape), inputs)

    def added(self, parameter: Tensor, outputs: Tensor, view: Change | None = None) -> None:
        """The gradient is Σ_t G."""
        shape = parameter.shape
        self._tell(parameter, outputs, lambda g: _squares_of_sum(_changed(g, view), shape))

    def looked_up(self, weight: Tensor, indices: Tensor, outputs: Tensor) -> None:
        """The gradient is Gᵀ X of rows X that are one where their index is, and zero elsewhere."""

        def squares(gradient: Tensor) -> Tensor:
            g, which = _rows(gradient), indices.flatten(1)
            same = which.unsqueeze(2) == which.unsqueeze(1)
            return (g @ g.mT).double().mul_(same).sum((1, 2))

        self._tell(weight, outputs, squares, indices)

    def _tell(
        self,
        parameter: Tensor,
        outputs: Tensor,
        squares: Callable[[Tensor], Tensor],
        inputs: Tensor | None = None,
    ) -> None:
        name = self._names[id(parameter)]
        if name in self._used:
            raise MergeloomError(
                f"{name}: is used twice in a forward pass; the norm of the sum of two gradients is "
                "not known from each of them"
            )
        self._used.add(name)
        self._bytes += outputs.nbytes
        if not outputs.requires_grad:  # no parameter came before: here gradients end
            outputs.requires_grad_()
        version = None if inputs is None else inputs._version

        def add(gradient: Tensor) -> None:
            if inputs is not None and inputs._version != version:
                raise MergeloomError(
                    f"{name}: what its module was fed has since been changed in place, so that its "
                    "gradient is not known"
                )
            self._squares += squares(gradient)

        outputs.register_hook(add)


def _changed(tensor: Tensor, change: Change | None) -> Tensor:
    return tensor if change is None else change(tensor)


def _rows(tensor: Tensor) -> Tensor:
    """[n, ..., d] to [n, t, d]."""
    return tensor.reshape(len(tensor), -1, tensor.shape[-1])


def _squares_of_sum(gradient: Tensor, shape: torch.Size) -> Tensor:
    """‖Σ_t Gᵢ‖² of gradients [n, ..., *shape], float64 [n]."""
    summed = gradient.reshape(len(gradient), -1, shape.numel()).sum(dim=1)
    return _squares(summed)


def _squares_of_product(x: Tensor, g: Tensor) -> Tensor:
    """‖Gᵢᵀ Xᵢ‖² of X [n, t, i] and G [n, t, o], float64 [n]."""
    (t, i), o = x.shape[1:], g.shape[2]
    if t == 1:
        return _squares(x[:, 0]) * _squares(g[:, 0])
    if t * (i + o) <= i * o:
        return ((x @ x.mT).double() * (g @ g.mT)).sum((1, 2))
    step = max(1, _BYTES // (i * o * x.element_size()))
    parts = zip(x.split(step), g.split(step), strict=True)
    return torch.cat([_squares((b.mT @ a).flatten(1)) for a, b in parts])


def _squares(vectors: Tensor) -> Tensor:
    """Squared norms of vectors [n, d], summed in float64 [n]."""
    return torch.linalg.vector_norm(vectors, dim=1, dtype=torch.float64).square()
