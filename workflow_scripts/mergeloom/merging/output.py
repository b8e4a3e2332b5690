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

    def __init__(self, writers: Sequence[TensorWriter], size: int, path: Path) -> None:
        self._writers = writers
        self._size, self._path = size, path

    def __enter__(self) -> Self:
        _check_room(self._path, self._size)
        with ExitStack() as stack:
            for writer in self._writers:
                stack.enter_context(writer)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)


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
        super().__init__([writer], _bytes_of(layout), path)

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
            [TensorWriter(path, layout, metadata) for path in paths],
            _bytes_of(layout) * len(paths),
            paths[0],
        )
        self._base, self._alpha, self._per_task = base, alpha, method.per_task
        self.keys = [key for key in self._writers[0].keys if key in material.source.shapes]
        self._other = [key for key in self._writers[0].keys if key not in material.source.shapes]

    def __enter__(self) -> Self:
        super().__enter__()
        for key in self._other:
            for writer in self._writers:
                writer.write(key, self._base.read(key))
        return self

    def write(self, key: str, merged: Tensor) -> None:
        """Take the merged task vector of a parameter, float32 on the CPU."""
        start = self._base.read(key)
        deltas = merged if self._per_task else [merged]
        for writer, delta in zip(self._writers, deltas, strict=True):
            weights = torch.add(start.to(torch.float32), delta, alpha=self._alpha)
            writer.write(key, weights.to(start.dtype))


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
