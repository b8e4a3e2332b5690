"""Tensors in safetensors files: read one by one, written atomically, equal content to equal bytes.

The safetensors library writes the metadata in the order of a hash map that differs from run to
run, so the files are written here: metadata and keys sorted, wide types first (so that every
tensor is aligned), no gaps. Any safetensors reader reads them.

All-zero tensors can be *elided*: they take no payload, and their dtype and shape stand as JSON in
the metadata field `zero_tensors`. `TensorFile` gives them back as zeros.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from safetensors import safe_open
from torch import Tensor

from mergeloom.errors import MergeloomError
from mergeloom.io.atomic import atomic_path
from mergeloom.io.headers import ITEM_SIZES, read_header

ZERO_TENSORS = "zero_tensors"

_DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "U16": torch.uint16, "I16": torch.int16, "F16": torch.float16, "BF16": torch.bfloat16,
    "U32": torch.uint32, "I32": torch.int32, "F32": torch.float32,
    "U64": torch.uint64, "I64": torch.int64, "F64": torch.float64, "C64": torch.complex64,
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}

Layout = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]


class TensorFile:
    """A safetensors file, opened: the header is read, tensors are read when they are asked for.

    `file[key]` is a view of the memory-mapped file: cheap for whoever needs a part of a tensor.
    It must not be written to. `read` copies into memory of its own, so that going through a large
    file does not fill the process's memory with mapped pages.

    Raises
    ------
    MergeloomError
        If the file is missing, cut short, or no safetensors file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        header = read_header(path)
        self.metadata = {k: v for k, v in header.metadata.items() if k != ZERO_TENSORS}
        self._spans = header.spans
        self._zeros = _zero_tensors(header.metadata)
        self._tensors = header.tensors | self._zeros
        self._mapped: safe_open | None = None
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 – close() closes it

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Tensors taken out of it stay valid."""
        self._mapped = None
        self._file.close()

    def keys(self) -> list[str]:
        """Return the names of all tensors, elided ones too, sorted."""
        return sorted(self._tensors)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __contains__(self, key: object) -> bool:
        return key in self._tensors

    def shape(self, key: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return self._entry(key)[1]

    def dtype(self, key: str) -> torch.dtype:
        """Return the type of a tensor."""
        return _DTYPES[self._entry(key)[0]]

    def is_zero(self, key: str) -> bool:
        """Say whether a tensor was elided because all of it is zero."""
        self._entry(key)
        return key in self._zeros

    def __getitem__(self, key: str) -> Tensor:
        if self.is_zero(key):
            return torch.zeros(self.shape(key), dtype=self.dtype(key))
        if self._mapped is None:
            self._mapped = safe_open(self.path, framework="pt")
        return self._mapped.get_tensor(key)

    def read(self, key: str, out: Tensor | None = None) -> Tensor:
        """Read a tensor into memory of its own.

        Parameters
        ----------
        out : Tensor of the tensor's shape, optional – filled and returned; where its dtype differs
            from the file's, the values are converted.
        """
        shape, dtype = self.shape(key), self.dtype(key)
        if out is None:
            out = torch.empty(shape, dtype=dtype)
        elif tuple(out.shape) != shape:
            raise ValueError(f"{key} has shape {shape}, out has {tuple(out.shape)}")
        if key in self._zeros:
            return out.zero_()
        if out.dtype == dtype and out.is_contiguous() and out.is_cpu:
            self._fill(key, out)
            return out
        return out.copy_(self.read(key))

    def read_run(self, key: str, start: int, out: Tensor) -> Tensor:
        """Read a run of elements of the flattened tensor into memory of its own.

        Parameters
        ----------
        start : index of the first element.
        out : Tensor [n], on the CPU, contiguous – filled and returned; where its dtype differs from
            the file's, the values are converted.
        """
        shape, dtype = self.shape(key), self.dtype(key)
        if start < 0 or start + len(out) > math.prod(shape):
            raise ValueError(f"{key} has {math.prod(shape)} elements, not {start}+{len(out)}")
        if key in self._zeros:
            return out.zero_()
        if out.dtype != dtype:
            return out.copy_(self.read_run(key, start, torch.empty(len(out), dtype=dtype)))
        self._fill(key, out, start * dtype.itemsize)
        return out

    def _fill(self, key: str, target: Tensor, offset: int = 0) -> None:
        view = memoryview(_bytes(target))
        position = self._spans[key][0] + offset
        end = position + len(view)
        while position < end:
            count = os.preadv(self._file.fileno(), [view], position)
            if count == 0:
                raise MergeloomError(
                    f"{self.path}: ends within tensor {key}: it was cut short while it was read."
                )
            position, view = position + count, view[count:]

    def _entry(self, key: str) -> tuple[str, tuple[int, ...]]:
        try:
            return self._tensors[key]
        except KeyError:
            raise MergeloomError(
                f"{self.path}: has no tensor {key}. It has {len(self._tensors)}, the first are "
                f"{', '.join(self.keys()[:5])}."
            ) from None


class TensorWriter:
    """Write a safetensors file tensor by tensor, without holding them all.

    A context manager: the file appears when the block ends well, and not at all when it raises.

    Parameters
    ----------
    layout : dtype and shape of every tensor.
    metadata : free text fields.
    elide_zeros : leave out the payload of all-zero tensors. Which ones they are is known only when
        they are written, so `write` must then follow the order of `keys`, and room for the header
        is set aside (the rest of it is spaces, as the format allows).

    Attributes
    ----------
    keys : the tensors' names in the order of the file: wide types first, then by name.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        layout: Layout,
        metadata: Mapping[str, str],
        elide_zeros: bool = False,
    ) -> None:
        if ZERO_TENSORS in metadata:
            raise ValueError(f"{path}: the metadata field {ZERO_TENSORS} is set by the writer")
        self._path = path
        self._tensors = {
            key: (_NAMES[dtype], tuple(shape)) for key, (dtype, shape) in layout.items()
        }
        self.keys = sorted(layout, key=lambda key: (-ITEM_SIZES[self._tensors[key][0]], key))
        self._metadata = dict(metadata)
        self._elide = elide_zeros
        self._zeros: list[str] = []
        self._pending = set(layout)
        self._room = len(_header(self._tensors, self.keys, self._metadata, reserve=elide_zeros))
        self._spans = _spans(self._tensors, self.keys)
        self._end = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            temporary = stack.enter_context(atomic_path(self._path))
            self._file = stack.enter_context(open(temporary, "wb", buffering=0))
            stack.push(self._finish)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def write(self, key: str, tensor: Tensor) -> None:
        """Write one tensor, which must have the layout's dtype and shape."""
        name, shape = self._tensors[key]
        if tensor.dtype != _DTYPES[name] or tuple(tensor.shape) != shape:
            raise ValueError(
                f"{self._path}: {key} is {tensor.dtype} {list(tensor.shape)}, "
                f"announced as {_DTYPES[name]} {list(shape)}"
            )
        if key not in self._pending:
            raise ValueError(f"{self._path}: {key} is written twice")
        if self._elide and key != self.keys[len(self.keys) - len(self._pending)]:
            raise ValueError(f"{self._path}: {key} is out of order")
        self._pending.remove(key)
        tensor = tensor.detach().to("cpu").contiguous()
        # The first values decide for almost all tensors, without a pass over the rest.
        if self._elide and not tensor.view(-1)[:16].any() and not tensor.any():
            self._zeros.append(key)
            return
        start = self._end if self._elide else self._spans[key][0]
        self._pour(memoryview(_bytes(tensor)), self._room + start)
        self._end = max(self._end, start + tensor.nbytes)

    def _finish(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            return
        if self._pending:
            raise ValueError(
                f"{self._path}: {len(self._pending)} tensors were not written, the first are "
                f"{', '.join(sorted(self._pending)[:5])}"
            )
        kept = [key for key in self.keys if key not in set(self._zeros)]
        metadata = self._metadata
        if self._zeros:
            zeros = {key: self._tensors[key] for key in sorted(self._zeros)}
            metadata = metadata | {ZERO_TENSORS: _json(zeros)}
        header = _header(self._tensors, kept, metadata)
        header = (self._room - 8).to_bytes(8, "little") + header[8:].ljust(self._room - 8)
        self._pour(memoryview(header), 0)

    def _pour(self, view: memoryview, position: int) -> None:
        while view:
            count = os.pwrite(self._file.fileno(), view, position)
            position, view = position + count, view[count:]


def write_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    elide_zeros: bool = False,
) -> None:
    """Write tensors atomically; equal tensors and metadata give equal bytes.

    Parameters
    ----------
    metadata : free text fields; the project's own is "mergeloom", its provenance as JSON.
    elide_zeros : all-zero tensors take no room; `TensorFile` gives them back as zeros.
    """
    layout = {key: (tensor.dtype, tuple(tensor.shape)) for key, tensor in tensors.items()}
    with TensorWriter(path, layout, metadata, elide_zeros) as writer:
        for key in writer.keys:
            writer.write(key, tensors[key])


def _zero_tensors(metadata: Mapping[str, str]) -> dict[str, tuple[str, tuple[int, ...]]]:
    entries = json.loads(metadata.get(ZERO_TENSORS, "{}"))
    return {key: (name, tuple(shape)) for key, (name, shape) in entries.items()}


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _json(content: object) -> str:
    return json.dumps(content, separators=(",", ":"))


def _spans(
    tensors: Mapping[str, tuple[str, tuple[int, ...]]], keys: list[str]
) -> dict[str, tuple[int, int]]:
    spans, end = {}, 0
    for key in keys:
        name, shape = tensors[key]
        start, end = end, end + math.prod(shape) * ITEM_SIZES[name]
        spans[key] = (start, end)
    return spans


def _header(
    tensors: Mapping[str, tuple[str, tuple[int, ...]]],
    keys: list[str],
    metadata: Mapping[str, str],
    reserve: bool = False,
) -> bytes:
    """Return the length and the JSON of a header that stores `keys` in this order.

    With `reserve` it is as long as the longest one can be, whichever tensors turn out to be zero.
    """
    fields = dict(metadata)
    if reserve:
        fields[ZERO_TENSORS] = _json(tensors)
    content: dict[str, object] = {}
    if fields:
        content["__metadata__"] = dict(sorted(fields.items()))
    for key, span in _spans(tensors, keys).items():
        name, shape = tensors[key]
        content[key] = {"dtype": name, "shape": shape, "data_offsets": span}
    text = _json(content).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    return len(text).to_bytes(8, "little") + text


def check_finite(tensor: Tensor, path: str | os.PathLike[str], key: str) -> None:
    """Raise if a tensor holds a NaN or an infinite value.

    Raises
    ------
    MergeloomError
        Names the file, the tensor, how many such values there are and where the first one is.
    """
    # One pass that also spots NaN, as minimum and maximum pass it on.
    if tensor.numel() == 0 or torch.isfinite(torch.stack(tensor.aminmax())).all():
        return
    wrong = (~torch.isfinite(tensor)).nonzero()
    raise MergeloomError(
        f"{os.fspath(path)}: tensor {key} has {len(wrong)} values that are NaN or infinite, the "
        f"first at {wrong[0].tolist()}. Its training diverged or the file is damaged: train or "
        "copy it again."
    )
