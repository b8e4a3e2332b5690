"""Where task vectors come from: their own files, or the differences of checkpoints and their base.

A source gives the task vectors of one parameter at a time, stacked over tasks, so whoever goes
through it never holds T models. What it gives is checked: the parameters are those of the base,
and every value is finite.
"""

import hashlib
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import torch
from torch import Tensor

from mergeloom.errors import MergeloomError
from mergeloom.io.tensors import TensorFile, check_finite
from mergeloom.models.naming import Naming, Shape

PathLike = str | os.PathLike[str]
_RUN = 2**18  # elements that are added at a time: a mebibyte stays in the processor's cache
_SAMPLE = 16  # values of every parameter that tell most task vectors from zero


@dataclass(frozen=True)
class Layout:
    """The parameters that files are expected to have, and the file that says so."""

    path: Path
    shapes: Mapping[str, Shape]


class Source(Protocol):
    """T task vectors, given parameter by parameter or run of elements by run of elements."""

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """Shapes of the parameters by name, sorted."""

    @property
    def paths(self) -> Sequence[Path]:
        """The files of the experts."""

    def __len__(self) -> int:
        """Return T."""

    def stack(self, key: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Return the task vectors of elements of a parameter [T, n], float32, on the CPU."""

    def one(self, key: str, task: int) -> Tensor:
        """Return the task vector of one task, flat [n], float32, on the CPU."""

    def total(self, key: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Return their sum over tasks [n], float32, on the CPU."""

    def base(self, key: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Return the same elements of the base [n], float32, on the CPU."""

    def identities(self) -> list[bytes]:
        """Tell the task vectors apart by what is in them, whatever their order and files' names."""

    def idle(self) -> list[Path]:
        """Return the files of task vectors that are zero everywhere."""


class _Files(ABC):
    """T open files that have the parameters of one layout, and the base that they belong to.

    Parameters
    ----------
    paths : T files.
    base : the file of θ_0; without it `base` cannot be asked for.
    layout : the parameters the files must have; without it, those of the first file.

    Raises
    ------
    MergeloomError
        If the parameters of a file are others (names both files and the first five).
    """

    def __init__(
        self,
        paths: Sequence[PathLike],
        base: TensorFile | None = None,
        layout: Layout | None = None,
        ignored: Callable[[str, Shape], bool] = lambda key, shape: False,
    ) -> None:
        if not paths:
            raise MergeloomError("There is nothing to merge: not one task vector was given.")
        with ExitStack() as stack:
            self._files = [stack.enter_context(TensorFile(path)) for path in paths]
            layout = layout or layout_of(self._files[0])
            for file in self._files:
                check_layout(file, layout, ignored)
            self._stack = stack.pop_all()
        self.shapes: Mapping[str, Shape] = dict(sorted(layout.shapes.items()))
        self.paths: Sequence[Path] = [file.path for file in self._files]
        self._base = base

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __len__(self) -> int:
        return len(self._files)

    def base(self, key: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Return elements `start` to `stop` of the flattened base [n], float32, on the CPU.

        Raises
        ------
        MergeloomError
            If a value is NaN or infinite (names file and parameter).
        """
        if self._base is None:
            raise ValueError("these task vectors were opened without their base")
        values = self._base.read_run(key, start, torch.empty(self._count(key, start, stop)))
        if not values.sum().isfinite():
            check_finite(self._base.read(key), self._base.path, key)
        return values

    def stack(self, key: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Return elements `start` to `stop` of the flattened task vectors [T, n], float32, CPU.

        Raises
        ------
        MergeloomError
            If a value is NaN or infinite (names file and parameter).
        """
        deltas = torch.empty(len(self), self._count(key, start, stop))
        origin = self._origin(key, start, stop)
        for file, delta in zip(self._files, deltas, strict=True):
            self._read(file, key, start, delta, origin)
        # Whatever is not finite makes the sum so; only then the culprit is looked for.
        if not deltas.sum().isfinite():
            self._blame(key)
        return deltas

    def one(self, key: str, task: int) -> Tensor:
        """Return the task vector of one task, flat [n], float32, on the CPU.

        Raises
        ------
        MergeloomError
            If a value is NaN or infinite (names file and parameter).
        """
        delta = torch.empty(self._count(key, 0, None))
        self._read(self._files[task], key, 0, delta, self._origin(key, 0, None))
        if not delta.sum().isfinite():
            self._blame(key)
        return delta

    def total(self, key: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Return the sum over tasks of elements `start` to `stop` [n], float32, on the CPU.

        Raises
        ------
        MergeloomError
            If a value is NaN or infinite (names file and parameter).
        """
        count = self._count(key, start, stop)
        total = torch.zeros(count)
        part = torch.empty(min(count, _RUN))
        # A run at a time, so that what is read is added while it is in the processor's cache.
        for first in range(0, count, _RUN):
            run = total[first : first + _RUN]
            here = part[: len(run)]
            origin = self._origin(key, start + first, start + first + len(run))
            for file in self._files:
                if self._is_zero(file, key):
                    continue
                run += self._read(file, key, start + first, here, origin)
            if not run.sum().isfinite():
                self._blame(key)
        return total

    def identities(self) -> list[bytes]:
        """Tell the task vectors apart by what is in them, whatever their order and files' names.

        Equal ones are told apart by which of them it is.
        """

        def digest(task: int) -> bytes:
            hashed = hashlib.sha256()
            for key in self.shapes:
                hashed.update(key.encode())
                hashed.update(self.one(key, task).numpy().data)
            return hashed.digest()

        # Hashing lets other threads run.
        with ThreadPoolExecutor(2) as pool:
            digests = list(pool.map(digest, range(len(self))))
        return [d + bytes([digests[:i].count(d)]) for i, d in enumerate(digests)]

    def idle(self) -> list[Path]:
        """Return the files of task vectors that are zero everywhere."""

        def zero(task: int) -> bool:
            # The first values of each parameter decide for all but such files.
            some = all(
                not self.stack(key, 0, min(_SAMPLE, math.prod(shape)))[task].any()
                for key, shape in self.shapes.items()
            )
            return some and not any(self.one(key, task).any() for key in self.shapes)

        return [path for task, path in enumerate(self.paths) if zero(task)]

    def _count(self, key: str, start: int, stop: int | None) -> int:
        return (math.prod(self.shapes[key]) if stop is None else stop) - start

    @abstractmethod
    def _origin(self, key: str, start: int, stop: int | None) -> Tensor | None: ...

    @abstractmethod
    def _is_zero(self, file: TensorFile, key: str) -> bool: ...

    @abstractmethod
    def _read(
        self, file: TensorFile, key: str, start: int, out: Tensor, origin: Tensor | None
    ) -> Tensor: ...

    def _blame(self, key: str) -> None:
        for file in self._files:
            check_finite(file.read(key).to(torch.float32), file.path, key)


class TaskVectorFiles(_Files):
    """Task vectors read from files that hold nothing else."""

    def _origin(self, key: str, start: int, stop: int | None) -> None:
        return None

    def _is_zero(self, file: TensorFile, key: str) -> bool:
        return file.is_zero(key)

    def _read(
        self, file: TensorFile, key: str, start: int, out: Tensor, origin: Tensor | None
    ) -> Tensor:
        return file.read_run(key, start, out)


class Differences(_Files):
    """Task vectors θ_t - θ_0 computed from checkpoints on the fly, in float32.

    Parameters
    ----------
    base : the file of θ_0.
    checkpoints : T files of θ_t. They need what of the base is trained; frozen parameters may be
        in them or not, and are not looked at.
    naming : says what is trained.

    Raises
    ------
    MergeloomError
        If the parameters of a checkpoint are not those of the base (names both files and the first
        five).
    """

    def __init__(self, base: TensorFile, checkpoints: Sequence[PathLike], naming: Naming) -> None:
        layout = trainable_layout(base, naming)
        super().__init__(
            checkpoints,
            base,
            layout,
            ignored=lambda key, shape: key in base or naming.kind(key, shape) == "frozen",
        )

    def _origin(self, key: str, start: int, stop: int | None) -> Tensor:
        assert self._base is not None
        wide = any(file.dtype(key) == torch.float64 for file in [self._base, *self._files])
        if not wide:
            return self.base(key, start, stop)
        # Rounded before they are subtracted, they would lose what little they differ in.
        count = self._count(key, start, stop)
        return self._base.read_run(key, start, torch.empty(count, dtype=torch.float64))

    def _is_zero(self, file: TensorFile, key: str) -> bool:
        return False

    def _read(
        self, file: TensorFile, key: str, start: int, out: Tensor, origin: Tensor | None
    ) -> Tensor:
        assert origin is not None
        if origin.dtype == out.dtype:
            return file.read_run(key, start, out).sub_(origin)
        values = file.read_run(key, start, torch.empty_like(origin))
        return out.copy_(values.sub_(origin))


def layout_of(file: TensorFile) -> Layout:
    """Return the layout of a file as it is."""
    return Layout(file.path, {key: file.shape(key) for key in file})


def trainable_layout(base: TensorFile, naming: Naming) -> Layout:
    """Return the layout of what is trained of a base model: floating-point, and not frozen.

    Raises
    ------
    MergeloomError
        If that is nothing.
    """
    shapes = {
        key: base.shape(key)
        for key in base
        if base.dtype(key).is_floating_point and naming.kind(key, base.shape(key)) != "frozen"
    }
    if not shapes:
        raise MergeloomError(
            f"{base.path}: has no parameter that this family trains. Its first ones are "
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
