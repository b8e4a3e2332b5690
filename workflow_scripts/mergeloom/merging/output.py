"""What a merge writes: the merged task vector, or the merged model."""

import math
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import torch
from torch import Tensor

from mergeloom.errors import MergeloomError
from mergeloom.io.tensors import TensorFile, TensorWriter
from mergeloom.merging.group import Material
from mergeloom.merging.method import Method
from mergeloom.models.weights import PER_TASK

PathLike = str | os.PathLike[str]
TASK = "task"  # field of a header: which of T merged models this is, counted from 0


class Output(Protocol):
    """A context manager that takes merged task vectors, and leaves files when it ends well."""

    @property
    def keys(self) -> Sequence[str]:
        """The parameters in the order in which they are best given."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def write(self, key: str, merged: Tensor) -> None:
        """Take the merged task vector of a parameter, float32 on the CPU."""


class _Writers:
    """Open writers that end together."""

    def __init__(self, writers: Sequence[TensorWriter], size: int, paths: Sequence[Path]) -> None:
        self._writers, self._size, self._paths = writers, size, paths

    def __enter__(self) -> Self:
        self._new = [path for path in self._paths if not path.exists()]
        with ExitStack() as stack:
            for writer in self._writers:
                stack.enter_context(writer)
            # Now that what a killed merge left has been removed.
            _check_room(self._paths[0], self._size)
            self._begin()
            self._stack = stack.pop_all()
        return self

    def _begin(self) -> None:
        """Write what does not wait for the merge."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._stack.__exit__(kind, error, trace)
        except BaseException:
            # Of several files the first may be in place already when another cannot be.
            for path in self._new:
                path.unlink(missing_ok=True)
            raise


class MergedTaskVector(_Writers):
    """The file of a merged task vector, not yet scaled by alpha, float32.

    Of a method that gives one model per task its tensors are [T, *shape], and the header's field
    `per_task` says T.
    """

    def __init__(
        self,
        out: PathLike | Sequence[PathLike],
        material: Material,
        method: Method,
        metadata: Mapping[str, str],
    ) -> None:
        path = Path(out) if isinstance(out, str | os.PathLike) else Path(*out)
        tasks = len(material.source)
        lead: tuple[int, ...] = ()
        if method.per_task:
            lead, metadata = (tasks,), {**metadata, PER_TASK: str(tasks)}
        layout = {
            key: (torch.float32, (*lead, *shape)) for key, shape in material.source.shapes.items()
        }
        # A method that works across layers does not give them in the file's order.
        writer = TensorWriter(path, layout, metadata, elide_zeros=method.grain != "stack")
        self.keys: Sequence[str] = writer.keys
        super().__init__([writer], _bytes_of(layout), [path])

    def write(self, key: str, merged: Tensor) -> None:
        """Take the merged task vector of a parameter, float32 on the CPU."""
        self._writers[0].write(key, merged.to(torch.float32))


class MergedWeights(_Writers):
    """Files of merged models θ_0 + alpha · Δ, in the base's types, with all that the base has.

    One file, or T of a method that gives one model per task.
    """

    def __init__(
        self,
        out: PathLike | Sequence[PathLike],
        base: TensorFile,
        material: Material,
        method: Method,
        alpha: float,
        metadata: Mapping[str, str],
    ) -> None:
        paths = [Path(out)] if isinstance(out, str | os.PathLike) else [Path(path) for path in out]
        expected = len(material.source) if method.per_task else 1
        if len(paths) != expected:
            raise MergeloomError(
                f"{method.name} gives {expected} models here, but {len(paths)} files are named."
            )
        layout = {key: (base.dtype(key), base.shape(key)) for key in base}
        super().__init__(
            [
                TensorWriter(
                    path, layout, {**metadata, TASK: str(task)} if method.per_task else metadata
                )
                for task, path in enumerate(paths)
            ],
            _bytes_of(layout) * len(paths),
            paths,
        )
        self._base, self._alpha, self._per_task = base, alpha, method.per_task
        self.keys = [key for key in self._writers[0].keys if key in material.source.shapes]
        self._other = [key for key in self._writers[0].keys if key not in material.source.shapes]

    def _begin(self) -> None:
        for key in self._other:
            tensor = self._base.read(key)
            for writer in self._writers:
                writer.write(key, tensor)

    def write(self, key: str, merged: Tensor) -> None:
        """Take the merged task vector of a parameter, float32 on the CPU."""
        start = self._base.read(key)
        deltas = merged if self._per_task else [merged]
        wide = torch.float64 if start.dtype == torch.float64 else torch.float32
        for writer, path, delta in zip(self._writers, self._paths, deltas, strict=True):
            weights = torch.add(start.to(wide), delta, alpha=self._alpha).to(start.dtype)
            _check_range(weights.to(wide), start.dtype, path, key)
            writer.write(key, weights)


def _check_range(weights: Tensor, dtype: torch.dtype, path: Path, key: str) -> None:
    # Whatever is not finite makes the sum so; a sum may also overflow by itself.
    if weights.sum().isfinite() or weights.isfinite().all():
        return
    raise MergeloomError(
        f"{path}: the merged {key} exceeds what {str(dtype).removeprefix('torch.')}, its type in "
        "the base, can hold. Lower alpha, or convert the base to a wider type."
    )


def _bytes_of(layout: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]) -> int:
    return sum(dtype.itemsize * math.prod(shape) for dtype, shape in layout.values())


def _check_room(path: Path, size: int) -> None:
    folder = next(parent for parent in path.absolute().parents if parent.is_dir())
    free = shutil.disk_usage(folder).free
    if size > free:
        raise MergeloomError(
            f"{path}: needs {size / 2**20:.0f} MiB, but its disk has {free / 2**20:.0f} MiB left. "
            "Free some space, or write to another disk."
        )
