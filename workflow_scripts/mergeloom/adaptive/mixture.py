"""A tower whose weights are θ0 + Σ_k λ_k τ_k, with other coefficients λ for each group of rows."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mergeloom.errors import MergeloomError
from mergeloom.evaluation.models import place_tower
from mergeloom.evaluation.precision import computing_in
from mergeloom.io.tensors import TensorFile, check_finite
from mergeloom.linalg.mixed import mixed_product
from mergeloom.linalg.spectral import truncated_svd
from mergeloom.merging.caches import check_source
from mergeloom.merging.task_vector import read_factors
from mergeloom.models.family import get_family
from mergeloom.models.supply import Perceptron, Supplier, perceptrons, supply
from mergeloom.models.weights import PER_TASK


class Mixture:
    """θ0 and K task vectors on a device, and a tower that mixes them as it runs.

    Memory is that of θ0 and of the K task vectors; mixed weights are made a tile at a time
    (`mergeloom.linalg.mixed`). λ = 0 is the base, λ = e_k the expert k. What is computed is
    θ0 + c Σ_k τ_k + Σ_k (λ_k − c) τ_k with the constant c of `centre`, so that where all λ are c
    the weights are those of task arithmetic at c, to the bit.

    Parameters
    ----------
    encoder : preset with `family` and `architecture`.
    base : θ0, safetensors.
    task_vectors : a file for each expert, in their order, or one with a Δ per task.
    centre : c.

    Attributes
    ----------
    tower : in evaluation mode; runs within `mixed`.
    size : K.
    keys : the L parameters that some task vector changes, by name; the order of layer-wise
        coefficients.
    base : key -> θ0 + c Σ_k τ_k, the tower's own tensors.
    stacks : key -> Tensor [K, *shape], τ, of `keys`; `low_rank` takes those of matrices out.

    Raises
    ------
    MergeloomError
        Task vectors of other parameters or shapes than the base, with values that are not finite
        (names file and key), or of parameters that cannot be mixed.
    """

    def __init__(
        self,
        encoder: Mapping[str, Any],
        base: str | Path,
        task_vectors: str | Path | Sequence[str | Path],
        device: str,
        centre: float = 0.3,
    ) -> None:
        self.encoder, self.family = encoder, get_family(encoder["family"])
        with TensorFile(base) as file:
            self.tower = place_tower(encoder, file, device)
        self.base: dict[str, Tensor] = dict(self.family.tower_weights(self.tower))
        self._paths: list[str | Path] = (
            [task_vectors] if isinstance(task_vectors, str | Path) else list(task_vectors)
        )
        self.stacks = _read_stacks(self._paths, self.base, device)
        self.keys = sorted(self.stacks)
        self.size = len(next(iter(self.stacks.values())))
        self.centre = centre
        self._places = {key: place for place, key in enumerate(self.keys)}
        self._delegates: dict[str, Supplier] = {}
        self._shared: Tensor | None = None  # minus the centre; None where all of it is zero
        self._own: dict[str, Tensor] = {}
        self._active = False
        with torch.no_grad():
            for key, stack in self.stacks.items():
                self.base[key].add_(stack.sum(dim=0), alpha=centre)
        supply(encoder["family"], self.family, self.tower, self, self.keys)

    @contextmanager
    def mixed(self, coefficients: Tensor) -> Iterator[None]:
        """Run the tower with these coefficients.

        Parameters
        ----------
        coefficients : Tensor [g, K], or [g, K, L] with those of each of `keys`; rows of whatever
            the tower is fed are g groups of as many each, one after the other. Differentiable.

        Raises
        ------
        MergeloomError – coefficients of another number of experts or layers.
        """
        expected = (self.size, len(self.keys))[: coefficients.ndim - 1]
        if coefficients.ndim not in (2, 3) or tuple(coefficients.shape[1:]) != expected:
            raise MergeloomError(
                f"coefficients have shape {list(coefficients.shape)}, expected [groups, "
                f"{self.size}] or [groups, {self.size}, {len(self.keys)}]"
            )
        relative = coefficients - self.centre
        still = not relative.requires_grad and not bool(relative.any())
        self._shared, self._active = None if still else relative, True
        try:
            yield
        finally:
            self._shared, self._active = None, False
            self._own.clear()

    def route(self, keys: Iterable[str], coefficients: Tensor) -> None:
        """Within `mixed`: from here on these parameters have coefficients [g, K] of their own."""
        self._own |= dict.fromkeys(keys, coefficients - self.centre)

    def settle(self, keys: Iterable[str]) -> None:
        """These parameters are θ0 + c Σ_k τ_k for ever; their task vectors are forgotten."""
        for key in keys:
            self.stacks.pop(key, None)
        self.keys = [key for key in self.keys if key in self.stacks]
        self._places = {key: place for place, key in enumerate(self.keys)}

    @property
    def beside(self) -> int:
        """How many numbers it holds beside the base: those of task vectors that are not zero, and
        all of low-rank factors."""
        factors = {id(d): d for d in self._delegates.values() if isinstance(d, LowRank)}
        vectors = sum(int(stack.count_nonzero()) for stack in self.stacks.values())
        return vectors + sum(low_rank.size for low_rank in factors.values())

    def delegate(self, keys: Iterable[str], supplier: Supplier) -> None:
        """These parameters are asked of another supplier."""
        self._delegates |= dict.fromkeys(keys, supplier)

    def perceptrons(self) -> list[Perceptron]:
        """The perceptron of every block of the tower."""
        return perceptrons(self.encoder["family"], self.family, self.tower)

    def coefficients_of(self, key: str) -> Tensor | None:
        """λ − c of a parameter, [g, K]; None where it is not mixed, or all of it is zero."""
        if not self._active:
            raise MergeloomError("the tower of a mixture runs within `mixed` only")
        if key not in self._places:
            return None
        if key in self._own:
            return self._own[key]
        if self._shared is None or self._shared.ndim == 2:
            return self._shared
        return self._shared[:, :, self._places[key]]

    def linear(self, key: str, inputs: Tensor, transposed: bool = False) -> Tensor:
        """Inputs [n, ..., i] times each row's matrix: see `Supplier`."""
        if key in self._delegates:
            return self._delegates[key].linear(key, inputs, transposed)
        base, coefficients = self.base[key], self.coefficients_of(key)
        base = base.T if transposed else base.flatten(1)
        if coefficients is None:
            return functional.linear(inputs, base)
        stack = self.stacks[key]
        stack = stack.mT.contiguous() if transposed else stack.flatten(2)
        groups = inputs.reshape(len(coefficients), -1, inputs.shape[-1])
        outputs = mixed_product(groups, base, stack, coefficients)
        return outputs.view(*inputs.shape[:-1], -1)

    def entries(self, key: str, like: Tensor) -> Tensor:
        """Each row's parameter, to be broadcast: see `Supplier`."""
        if key in self._delegates:
            return self._delegates[key].entries(key, like)
        base, coefficients = self.base[key], self.coefficients_of(key)
        shape = [1] * (like.ndim - 1 - base.ndim) + list(base.shape)
        if coefficients is None:
            return base.view(1, *shape)
        with _exactly(base):
            mixed = torch.addmm(base.reshape(1, -1), coefficients, self.stacks[key].flatten(1))
        return _by_row(mixed, len(like)).view(-1, *shape)

    def looked_up(self, key: str, indices: Tensor) -> Tensor:
        """Lines of each row's table: see `Supplier`."""
        if key in self._delegates:
            return self._delegates[key].looked_up(key, indices)
        base, coefficients = self.base[key], self.coefficients_of(key)
        found = functional.embedding(indices, base)
        if coefficients is None:
            return found
        weights = _by_row(coefficients, len(indices)).expand(len(indices), -1)
        for task, stack in enumerate(self.stacks[key]):
            factors = weights[:, task].view(-1, *[1] * (found.ndim - 1))
            found = found + factors * functional.embedding(indices, stack)
        return found

    @torch.no_grad()
    def low_rank(self, rank: int, svd: Sequence[str | Path] | None = None) -> float:
        """Put in place of every matrix's task vectors their best approximations of this rank.

        Parameters
        ----------
        svd : SVD caches of the task vectors, in their order; computed here if not given.

        Returns
        -------
        float – relative error of the task vectors of all matrices together, in Frobenius norm.

        Raises
        ------
        MergeloomError – a cache of other task vectors, or with fewer singular vectors.
        """
        lost = total = 0.0
        with ExitStack() as opened:
            caches = [opened.enter_context(TensorFile(path)) for path in svd or ()]
            for cache, path in zip(caches, self._paths, strict=bool(caches)):
                check_source(cache, [path])
            for key, stack in list(self.stacks.items()):
                if self.family.kind(key, tuple(self.base[key].shape)) != "matrix":
                    continue
                here = min(rank, *stack.shape[1:])
                if caches:
                    factors = read_factors(caches, key, here)
                    left, right = factors.U, factors.Vt
                    values = torch.stack([cache[f"{key}.S"] for cache in caches])
                else:
                    left, values, right = truncated_svd(stack, here)
                squares = values.double().square()
                lost += float(squares[:, here:].sum())
                total += float(squares.sum())
                parts = (part.to(stack.device) for part in (left, values[:, :here], right))
                self.delegate([key], LowRank(self, *parts))
                del self.stacks[key]
        return math.sqrt(lost / total) if total else 0.0


class LowRank:
    """Supplies a matrix W + Σ_k λ_k U_k diag(S_k) Vt_k without ever multiplying it out.

    Parameters
    ----------
    left, values, right : U [K, o, r], S [K, r], Vt [K, r, i].
    """

    def __init__(self, mixture: Mixture, left: Tensor, values: Tensor, right: Tensor) -> None:
        self._mixture, self._rank = mixture, values.shape[1]
        self._left = left.permute(0, 2, 1).flatten(0, 1).contiguous()  # [K r, o]
        self._right = (values[..., None] * right).flatten(0, 1).contiguous()  # [K r, i]
        self.size = self._left.numel() + self._right.numel()

    def _factors(self, key: str) -> Tensor | None:
        """λ − c of every singular triple, [g, K r]; None where all of it is zero."""
        found = self._mixture.coefficients_of(key)
        return None if found is None else found.repeat_interleave(self._rank, dim=1)

    def linear(self, key: str, inputs: Tensor, transposed: bool = False) -> Tensor:
        """See `Supplier`."""
        base, factors = self._mixture.base[key], self._factors(key)
        outputs = functional.linear(inputs, base.T if transposed else base)
        if factors is None:
            return outputs
        down, up = (self._left, self._right) if transposed else (self._right, self._left)
        return outputs + _scaled(functional.linear(inputs, down), factors) @ up

    def entries(self, key: str, like: Tensor) -> Tensor:
        """See `Supplier`: of a table of positions, say."""
        base, factors = self._mixture.base[key], self._factors(key)
        shape = [1] * (like.ndim - 1 - base.ndim) + list(base.shape)
        if factors is None:
            return base.view(1, *shape)
        with _exactly(base):
            mixed = base + self._left.T @ (factors[..., None] * self._right)
        return _by_row(mixed, len(like)).view(-1, *shape)

    def looked_up(self, key: str, indices: Tensor) -> Tensor:
        """See `Supplier`."""
        base, factors = self._mixture.base[key], self._factors(key)
        found = functional.embedding(indices, base)
        if factors is None:
            return found
        with _exactly(base):
            lines = _scaled(functional.embedding(indices, self._left.T), factors)
            return found + lines @ self._right


def _exactly(base: Tensor) -> torch.autocast:
    """No autocast: gains, biases and tables are never rounded, and so neither are mixed ones."""
    return computing_in("float32", base.device.type)


def _scaled(inner: Tensor, factors: Tensor) -> Tensor:
    """inner [n, ..., K r] times each row's factors, [g, K r]."""
    factors = _by_row(factors, len(inner))
    return inner * factors.view(len(factors), *[1] * (inner.ndim - 2), -1)


def _by_row(values: Tensor, rows: int) -> Tensor:
    """[g, ...] to [rows, ...], each group's for its rows; [1, ...] stays."""
    return values if len(values) == 1 else values.repeat_interleave(rows // len(values), dim=0)


def _read_stacks(
    paths: list[str | Path], base: Mapping[str, Tensor], device: str
) -> dict[str, Tensor]:
    stacks = {}
    with ExitStack() as opened:
        files = [opened.enter_context(TensorFile(path)) for path in paths]
        stacked = PER_TASK in files[0].metadata
        for file in files:
            _check(file, base, stacked)
        for key in files[0]:
            if all(file.is_zero(key) for file in files):
                continue
            if stacked:
                stack = files[0].read(key)
            else:
                stack = torch.empty(len(files), *base[key].shape)
                for file, part in zip(files, stack, strict=True):
                    file.read(key, part)
            for path, part in zip(paths * len(stack) if stacked else paths, stack, strict=True):
                check_finite(part, path, key)
            stacks[key] = stack.to(device)
    if not stacks:
        raise MergeloomError(
            f"{', '.join(map(str, paths))}: no task vector changes anything, so there is nothing "
            "to mix; were the experts trained?"
        )
    return stacks


def _check(file: TensorFile, base: Mapping[str, Tensor], stacked: bool) -> None:
    for key in sorted(base.keys() | set(file)):
        here = file.shape(key)[stacked:] if key in file else "absent"
        there = tuple(base[key].shape) if key in base else "absent"
        if here != there:
            raise MergeloomError(
                f"{file.path}: tensor {key} is {here} there and {there} in the base: the task "
                "vector is of another encoder; make it again"
            )
