"""Gram matrices of what the linear maps of T models are fed, as merge methods get them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from mergeloom.errors import MergeloomError
from mergeloom.io.tensors import TensorFile, check_finite
from mergeloom.models.stages import LinearMap


@dataclass(frozen=True)
class Gram:
    """Gram matrices XᵀX / n of what a linear map is fed in T models, never held all at once.

    dim : of the parameter that inputs meet: 1 of W [out, in], 0 of W [in, out].
    of : function of a task, gives Tensor [in, in], float32.
    """

    dim: int
    of: Callable[[int], Tensor]


class Grams(Protocol):
    """The Gram matrices of T models."""

    def get(self, key: str) -> Gram | None:
        """Return those of a parameter, on the CPU, or None if it is no linear map."""


class GramFiles:
    """The Gram matrices in T files as `write_grams` writes them.

    Raises
    ------
    MergeloomError
        If two files are of different maps.
    """

    def __init__(self, files: Sequence[TensorFile]) -> None:
        self._files = files
        self._maps = {linear.key: linear for linear in map(LinearMap.named, files[0])}
        for file in files[1:]:
            if file.keys() != files[0].keys():
                odd = sorted(set(file.keys()) ^ set(files[0].keys()))[0]
                raise MergeloomError(
                    f"{file.path}: its Gram matrices are of other maps than those of "
                    f"{files[0].path}: only one of them has {odd}. Make both again."
                )

    def get(self, key: str) -> Gram | None:
        """Return those of a parameter, on the CPU, or None if it is no linear map.

        Raises
        ------
        MergeloomError
            When a matrix that is asked for has a value that is not finite.
        """
        linear = self._maps.get(key)
        if linear is None:
            return None
        name = linear.name

        def read(task: int) -> Tensor:
            matrix = self._files[task].read(name)
            check_finite(matrix, self._files[task].path, name)
            return matrix

        return Gram(linear.dim, read)


class MeasuredGrams:
    """The Gram matrices of T models that are at hand."""

    def __init__(self, measured: Sequence[Mapping[LinearMap, Tensor]]) -> None:
        self._measured = measured

    def get(self, key: str) -> Gram | None:
        """Return those of a parameter, on the CPU, or None if it is no linear map."""
        found = next((linear for linear in self._measured[0] if linear.key == key), None)
        if found is None:
            return None
        return Gram(found.dim, lambda task: self._measured[task][found])


class Propagation(Protocol):
    """Examples of T tasks on their way through a model that is merged stage by stage."""

    def measure(
        self, stage: int, task: int, weights: Mapping[str, Tensor]
    ) -> Mapping[LinearMap, Tensor]:
        """Return the Gram matrices within a stage of these weights, on a task's examples."""

    def advance(self, stage: int, weights: Mapping[str, Tensor]) -> None:
        """Let the examples of all tasks pass a stage of these weights, the merged ones."""
