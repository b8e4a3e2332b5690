"""Pickles of whole modules, read without running anything that they ask for.

A pickle names functions and classes, and the usual reader imports and calls them. The one here
looks every name up in a table that holds tensors, storages and plain containers. Classes of modules
and of image transforms become inert records, which are neither imported nor called; their
parameters and buffers are collected into a state dict. Any other name is an error. What a pickle
can do to the objects that it is given (call them, or set their state) is harmless for each of them.

Formats: the zip archive of torch.save, and the stream of torch < 1.6.
"""

import io
import math
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from mergeloom.errors import MergeloomError

MAGIC = 0x1950A86A20F9469CFC6C  # what the stream of torch < 1.6 begins with
# Modules whose classes a pickled ImageEncoder of arXiv 2212.04089's code refers to.
RECORDS = re.compile(
    r"torch\.nn\.modules\.\w+|torch\.nn\.parameter|open_clip\.\w+|clip\.\w+|src\.\w+"
    r"|torchvision\.transforms\.\w+"
)
DTYPES = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}  # fmt: skip


def read_module(path: Path) -> dict[str, Any]:
    """Read a pickle of a module, or of a dict of tensors or modules.

    Returns
    -------
    The module's state dict, where the pickle holds a module; else the dict, with a state dict in
    the place of each module in it. What is neither is left out.

    Raises
    ------
    MergeloomError
        If the pickle refers to anything else (names it), is damaged, or is cut short.
    """
    try:
        content = _load(path)
        return _weights(content)
    except MergeloomError as error:
        raise MergeloomError(f"{path}: {error}") from None
    # A hostile pickle can make the reader fail in any way, and none of them is a bug here.
    except Exception as error:
        raise MergeloomError(
            f"{path}: cannot be read as a pickle of a module ({type(error).__name__}: {error}). "
            "It is damaged or cut short: copy it again."
        ) from error


class _Inert:
    """What a pickle may hold but not change: its state cannot be set."""

    __slots__ = ()

    def __setstate__(self, state: object) -> NoReturn:
        raise pickle.UnpicklingError(f"sets the state of a {type(self).__name__}")


class Record(_Inert):
    """An object of a class that is not imported: whatever it was called with, and its state."""

    __slots__ = ("state",)
    state: dict[Any, Any]

    def __new__(cls, *_: object, **__: object) -> "Record":
        made: Record = object.__new__(cls)
        made.state = {}
        return made

    def __init__(self, *_: object, **__: object) -> None: ...

    def __setstate__(self, state: object) -> None:  # type: ignore[override]
        self.state = state if type(state) is dict else {}


class _Dict(dict[Any, Any]):
    """An OrderedDict whose attributes (`_metadata`) are dropped."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None: ...


class _StorageType(_Inert):
    __slots__ = ("dtype",)

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


class _Held(_Inert):
    """A tensor, which a pickle itself cannot reach."""

    __slots__ = ("tensor",)

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class _Function(_Inert):
    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., object]) -> None:
        self._call = call

    def __call__(self, *arguments: object) -> object:
        return self._call(*arguments)


Size = tuple[int, ...]


def _tensor(storage: _Held, offset: int, size: Size, stride: Size, *_: object) -> _Held:
    flat = storage.tensor
    if math.prod(size) > len(flat):
        raise pickle.UnpicklingError(f"a tensor of shape {size} in a storage of {len(flat)}")
    return _Held(flat.as_strided(tuple(size), tuple(stride), offset))


def _parameter(data: _Held, *_: object) -> _Held:
    return data


def _admitted() -> dict[tuple[str, str], Any]:
    functions: dict[str, Callable[..., object]] = {
        "_rebuild_tensor": _tensor,
        "_rebuild_tensor_v2": _tensor,
        "_rebuild_parameter": _parameter,
        "_rebuild_parameter_with_state": _parameter,
    }
    return {
        ("collections", "OrderedDict"): _Dict,
        ("torch", "Size"): tuple,
        **{(m, n): c for m in ("builtins", "__builtin__")
           for n, c in (("set", set), ("frozenset", frozenset), ("slice", slice))},
        **{("torch._utils", name): _Function(call) for name, call in functions.items()},
        **{("torch", name): _StorageType(dtype) for name, dtype in DTYPES.items()},
    }  # fmt: skip


class _Unpickler(pickle.Unpickler):
    """Admits the table, makes records, and refuses everything else.

    storage : gives the flat tensor of a storage's key, dtype and number of elements.
    """

    def __init__(
        self, file: Any, storage: Callable[[str, torch.dtype, int], Tensor] | None = None
    ) -> None:
        super().__init__(file, encoding="utf-8")
        self._storage = storage
        self._admitted = _admitted()

    def find_class(self, module: str, name: str) -> Any:
        """Look a global up; nothing is ever imported."""
        known = self._admitted.get((module, name))
        if known is not None:
            return known
        if RECORDS.fullmatch(module) and name.isidentifier():
            record = type("Record", (Record,), {"__slots__": ()})
            return self._admitted.setdefault((module, name), record)
        raise MergeloomError(
            f"refers to {module}.{name}, which is no part of a model's weights: loading it in the "
            "usual way could run code. Nothing of it was run. If you trust whoever made the file, "
            "ask for the weights as safetensors, or for a state dict."
        )

    def persistent_load(self, pid: Any) -> Any:
        """Give a storage, or (in old streams) the class of a module without its source."""
        kind = pid[0] if type(pid) is tuple and pid else None
        if kind == "module" and len(pid) == 4:
            return pid[1]
        if kind != "storage" or len(pid) not in (5, 6) or self._storage is None:
            raise pickle.UnpicklingError(f"an unknown kind of storage: {kind!r}")
        _, form, key, _, count = pid[:5]
        if not (isinstance(form, _StorageType) and type(key) is str and type(count) is int):
            raise pickle.UnpicklingError("a storage of unknown type")
        if len(pid) == 6 and pid[5] is not None:
            raise pickle.UnpicklingError("a storage that is a view of another")
        return _Held(self._storage(key, form.dtype, count))


def _load(path: Path) -> Any:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return _load_archive(archive)
    with path.open("rb") as file:
        return _load_stream(file, path.stat().st_size)


def _load_archive(archive: zipfile.ZipFile) -> Any:
    names = set(archive.namelist())
    found = [name for name in names if name.rpartition("/")[2] == "data.pkl"]
    if len(found) != 1 or found[0].count("/") > 1:
        raise MergeloomError("is a zip archive, but none of torch.save: it has no data.pkl.")
    folder = found[0].removesuffix("data.pkl")
    if folder + "constants.pkl" in names:
        raise MergeloomError(
            "is a TorchScript program, not weights. Save the state dict of the loaded model."
        )
    if folder + "byteorder" in names and archive.read(folder + "byteorder") != b"little":
        raise MergeloomError("was written on a big-endian machine. Save it on another one.")
    held: dict[str, Tensor] = {}

    def storage(key: str, dtype: torch.dtype, count: int) -> Tensor:
        if key not in held:
            entry = archive.getinfo(f"{folder}data/{key}")
            size = count * dtype.itemsize
            if entry.file_size != size or entry.compress_type != zipfile.ZIP_STORED:
                raise MergeloomError(
                    f"its storage {key} has {entry.file_size} bytes, expected {size}. "
                    "Copy the file again."
                )
            held[key] = torch.empty(count, dtype=dtype)
            with archive.open(entry) as file:
                _fill(held[key], file, key)
        return _same(held[key], dtype, key)

    return _Unpickler(io.BytesIO(archive.read(found[0])), storage).load()


def _load_stream(file: io.BufferedReader, size: int) -> Any:
    if _Unpickler(file).load() != MAGIC:
        raise MergeloomError("is a pickle, but none of torch.save.")
    for _ in ("protocol", "sizes of the machine"):
        _Unpickler(file).load()
    held: dict[str, Tensor] = {}

    def storage(key: str, dtype: torch.dtype, count: int) -> Tensor:
        if key not in held:
            room = size - sum(tensor.nbytes for tensor in held.values())
            if not 0 <= count * dtype.itemsize <= room:
                raise MergeloomError(
                    f"is cut short: its storage {key} has {count} elements. Copy the file again."
                )
            held[key] = torch.empty(count, dtype=dtype)
        return _same(held[key], dtype, key)

    content = _Unpickler(file, storage).load()
    for key in _Unpickler(file).load():  # the storages follow in this order
        count = int.from_bytes(file.read(8), "little")
        if count != len(held[key]):
            raise MergeloomError(
                f"its storage {key} has {count} elements, expected {len(held[key])}. "
                "Copy the file again."
            )
        _fill(held.pop(key), file, key)
    if held:
        raise MergeloomError(f"is cut short: it lacks the storage {min(held)}. Copy it again.")
    return content


def _same(tensor: Tensor, dtype: torch.dtype, key: str) -> Tensor:
    if tensor.dtype != dtype:
        raise pickle.UnpicklingError(f"storage {key} is of two types")
    return tensor


def _fill(tensor: Tensor, file: Any, key: str) -> None:
    view = tensor.view(torch.uint8).numpy().data
    while view:
        count = file.readinto(view)
        if not count:
            raise MergeloomError(f"is cut short within storage {key}. Copy the file again.")
        view = view[count:]


def _state_dict(module: Record) -> dict[str, Tensor]:
    """Parameters and persistent buffers of a module and of those below it, as torch names them."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    queue = [("", module)]
    while queue:
        prefix, part = queue.pop()
        if id(part) in seen:
            raise MergeloomError(f"its module {prefix or 'itself'} occurs twice.")
        seen.add(id(part))
        skipped = part.state.get("_non_persistent_buffers_set", ())
        for kind in ("_parameters", "_buffers"):
            for name, value in _entries(part, kind):
                if isinstance(value, _Held):
                    found[prefix + name] = value.tensor
                elif value is not None:
                    raise MergeloomError(f"its parameter {prefix}{name} is no tensor.")
                if kind == "_buffers" and name in skipped:
                    found.pop(prefix + name, None)
        for name, value in _entries(part, "_modules"):
            if isinstance(value, Record):
                queue.append((f"{prefix}{name}.", value))
            elif value is not None:
                raise MergeloomError(f"its module {prefix}{name} is no module.")
    return found


def _entries(module: Record, kind: str) -> list[tuple[str, Any]]:
    entries = module.state.get(kind, {})
    if not isinstance(entries, dict) or not all(type(name) is str for name in entries):
        raise MergeloomError(f"holds an object whose {kind} are none.")
    return list(entries.items())


def _weights(content: Any, depth: int = 2) -> dict[str, Any]:
    if isinstance(content, Record):
        return _state_dict(content)
    found: dict[str, Any] = {}
    for key, value in content.items() if isinstance(content, dict) and depth else ():
        if isinstance(value, _Held):
            found[str(key)] = value.tensor
        elif inner := _weights(value, depth - 1):
            found[str(key)] = inner
    return found
