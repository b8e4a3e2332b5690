"""Where task vectors come from: their own files, or the differences of checkpoints and their base.

A source gives the task vectors of one parameter at a time, stacked over tasks, so whoever goes
through it never holds T models. What it gives is checked: the parameters are those of the base,
and every value is finite.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import torch
from torch import Tensor

from mergeloom.errors import MergeloomError
from mergeloom.io.tensors import TensorFile, check_finite
from mergeloom.models.family import get_family

PathLike = str | os.PathLike[str]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """The parameters that files are expected to have, and the file that says so."""

    path: Path
    shapes: Mapping[str, Shape]


class Source(Protocol):
    """T task vectors, given parameter by parameter."""

    def __len__(self) -> int:
        """Return T."""

    def __iter__(self) -> Iterator[str]:
        """Give the names of the parameters, sorted."""

    def keys(self) -> list[str]:
        """Return the names of the parameters, sorted."""

    def shape(self, key: str) -> Shape:
        """Return the shape of a parameter."""

    def stack(self, key: str) -> Tensor:
        """Return the task vectors [T, *shape] of a parameter, float32, on the CPU."""


class _Files:
    """T open files that have the parameters of one layout."""

    def __init__(
        self,
        paths: Sequence[PathLike],
        layout: Layout | None = None,
        ignored: Callable[[str, Shape], bool] = lambda key, shape: False,
    ) -> None:
        if not paths:
            raise MergeloomError("There is nothing to merge: not one task vector was given.")
        with ExitStack() as stack:
            self._files = [stack.enter_context(TensorFile(path)) for path in paths]
            self._layout = layout or layout_of(self._files[0])
            for file in self._files:
                check_layout(file, self._layout, ignored)
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def keys(self) -> list[str]:
        """Return the names of the parameters, sorted."""
        return sorted(self._layout.shapes)

    def shape(self, key: str) -> Shape:
        """Return the shape of a parameter."""
        return self._layout.shapes[key]

    def _empty(self, key: str) -> Tensor:
        return torch.empty((len(self), *self.shape(key)), dtype=torch.float32)


class TaskVectorFiles(_Files):
    """Task vectors read from files that hold nothing else.

    Parameters
    ----------
    paths : T files.
    layout : the parameters they must have, `trainable_layout` of the base; without it, those of
        the first file.

    Raises
    ------
    MergeloomError
        If the parameters of a file are others (names both files and the first five).
    """

    def __init__(self, paths: Sequence[PathLike], layout: Layout | None = None) -> None:
        super().__init__(paths, layout)

    def stack(self, key: str) -> Tensor:
        """Return the task vectors [T, *shape] of a parameter, float32, on the CPU.

        Raises
        ------
        MergeloomError
            If a value is NaN or infinite (names file and parameter).
        """
        deltas = self._empty(key)
        for file, delta in zip(self._files, deltas, strict=True):
            file.read(key, out=delta)
            check_finite(delta, file.path, key)
        return deltas


class Differences(_Files):
    """Task vectors θ_t - θ_0 computed from checkpoints on the fly, in float32.

    Parameters
    ----------
    base : the file of θ_0.
    checkpoints : T files of θ_t. They need what of the base is trained; frozen parameters may be
        in them or not, and are not looked at.
    family : name of the model family, which says what is trained.

    Raises
    ------
    MergeloomError
        If the parameters of a checkpoint are not those of the base (names both files and the first
        five).
    """

    def __init__(self, base: TensorFile, checkpoints: Sequence[PathLike], family: str) -> None:
        kind = get_family(family).kind
        super().__init__(
            checkpoints,
            trainable_layout(base, family),
            ignored=lambda key, shape: kind(key, shape) == "frozen",
        )
        self._base = base

    def stack(self, key: str) -> Tensor:
        """Return the task vectors [T, *shape] of a parameter, float32, on the CPU.

        Raises
        ------
        MergeloomError
            If a value of the base or of a checkpoint is NaN or infinite (names file and parameter).
        """
        start = self._base.read(key).to(torch.float32)
        check_finite(start, self._base.path, key)
        deltas = self._empty(key)
        for file, delta in zip(self._files, deltas, strict=True):
            file.read(key, out=delta)
            check_finite(delta, file.path, key)
            delta -= start
        return deltas


def layout_of(file: TensorFile) -> Layout:
    """Return the layout of a file as it is."""
    return Layout(file.path, {key: file.shape(key) for key in file})


def trainable_layout(base: TensorFile, family: str) -> Layout:
    """Return the layout of what a family trains of a base model: all but its frozen parameters.

    Raises
    ------
    MergeloomError
        If that is nothing.
    """
    kind = get_family(family).kind
    shapes = {key: base.shape(key) for key in base if kind(key, base.shape(key)) != "frozen"}
    if not shapes:
        raise MergeloomError(
            f"{base.path}: has no parameter that the family {family} trains. Its first ones are "
            f"{', '.join(base.keys()[:5])}. Check that it is a model of this family."
        )
    return Layout(base.path, shapes)


def check_layout(
    file: TensorFile,
    layout: Layout,
    ignored: Callable[[str, Shape], bool] = lambda key, shape: False,
) -> None:
    """Raise unless a file has the parameters of a layout, and no others but ignored ones.

    Raises
    ------
    MergeloomError
        Names both files, and the first five parameters that differ.
    """
    seen = {
        key: file.shape(key)
        for key in file
        if key in layout.shapes or not ignored(key, file.shape(key))
    }
    expected = layout.shapes
    problems = []
    for key in sorted(seen.keys() | expected.keys()):
        if key not in seen:
            problems.append(f"{key} is missing")
        elif key not in expected:
            problems.append(f"{key} is not in {layout.path}")
        elif seen[key] != expected[key]:
            problems.append(
                f"{key} has shape {list(seen[key])}, but {list(expected[key])} in {layout.path}"
            )
    if problems:
        more = f"\n  and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise MergeloomError(
            f"{file.path}: its tensors are not those of {layout.path}:\n  "
            + "\n  ".join(problems[:5])
            + more
            + "\nThe two belong to different models: check that this file stands under the encoder "
            "that it was fine-tuned from."
        )
