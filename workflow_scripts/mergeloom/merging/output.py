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
from mergeloom.io.atomic import atomic_path
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


class MergedTaskVector:
    """The file of a merged task vector, not yet scaled by alpha, float32.

    Of a method that gives one model per task its tensors are [T, *shape], and the header's field
    `per_task` says T.
    """

    def __init__(
        self, out: PathLike, material: Material, method: Method, metadata: Mapping[str, str]
    ) -> None:
        lead: tuple[int, ...] = ()
        if method.per_task:
            lead = (len(material.source),)
            metadata = {**metadata, PER_TASK: str(*lead)}
        layout = {
            key: (torch.float32, (*lead, *shape)) for key, shape in material.source.shapes.items()
        }
        # A method that works across or along layers does not give them in the file's order.
        in_order = method.grain != "stack" and not method.by_stage
        self._writer = TensorWriter(out, layout, metadata, elide_zeros=in_order)
        self._path, self._size = Path(out), _bytes_of(layout)
        self.keys: Sequence[str] = self._writer.keys

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._writer)
            _check_room(self._path, self._size)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def write(self, key: str, merged: Tensor) -> None:
        """Take the merged task vector of a parameter, float32 on the CPU."""
        self._writer.write(key, merged.to(torch.float32))


class MergedWeights:
    """The file of a merged model θ_0 + alpha · Δ, in the base's types, with all that the base has.

    Of a method that gives one model per task, a folder with a file for each, which appears whole.
    """

    def __init__(
        self,
        out: PathLike,
        base: TensorFile,
        material: Material,
        method: Method,
        alpha: float,
        metadata: Mapping[str, str],
        names: Sequence[str],
    ) -> None:
        self._path, self._base, self._alpha = Path(out), base, alpha
        self._names = list(names) if method.per_task else None
        self._metadata = metadata
        self._layout = {key: (base.dtype(key), base.shape(key)) for key in base}
        self.keys = sorted(material.source.shapes)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            paths, headers = [self._path], [self._metadata]
            if self._names is not None:
                folder = stack.enter_context(atomic_path(self._path))
                folder.mkdir()
                paths = [folder / f"{name}.safetensors" for name in self._names]
                headers = [{**self._metadata, TASK: str(task)} for task in range(len(paths))]
            self._writers = [
                stack.enter_context(TensorWriter(path, self._layout, header))
                for path, header in zip(paths, headers, strict=True)
            ]
            # Now that what a killed merge left has been removed.
            _check_room(self._path, _bytes_of(self._layout) * len(paths))
            for key in self._layout.keys() - set(self.keys):
                tensor = self._base.read(key)
                for writer in self._writers:
                    writer.write(key, tensor)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def write(self, key: str, merged: Tensor) -> None:
        """Take the merged task vector of a parameter, float32 on the CPU."""
        start = self._base.read(key)
        deltas = [merged] if self._names is None else merged
        wide = torch.float64 if start.dtype == torch.float64 else torch.float32
        for writer, delta in zip(self._writers, deltas, strict=True):
            weights = torch.add(start.to(wide), delta, alpha=self._alpha).to(start.dtype)
            _check_range(weights.to(wide), start.dtype, self._path, key)
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
