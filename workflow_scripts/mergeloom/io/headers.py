"""Headers of safetensors files, read without torch.

Format: 8 bytes with the length of the header (little-endian), the header as JSON, the payload.
https://huggingface.co/docs/safetensors
"""

import json
import math
import os
from dataclasses import dataclass
from typing import BinaryIO

from mergeloom.errors import MergeloomError

ITEM_SIZES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip


@dataclass(frozen=True)
class Header:
    """What a safetensors file says about itself.

    metadata : the free text fields, `__metadata__` in the file.
    tensors : (dtype as safetensors spells it, shape) of every stored tensor.
    spans : first and last+1 byte of every stored tensor, counted from the start of the file.
    """

    metadata: dict[str, str]
    tensors: dict[str, tuple[str, tuple[int, ...]]]
    spans: dict[str, tuple[int, int]]


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read the header of a safetensors file and check it against the file's size.

    Raises
    ------
    MergeloomError
        If the file is missing, is a pickle or a zip of pickles, is cut short, or is anything else
        than safetensors.
    """
    name = os.fspath(path)
    try:
        with open(path, "rb") as file:
            return _parse(name, file, os.fstat(file.fileno()).st_size)
    except FileNotFoundError as error:
        raise MergeloomError(f"{name}: no such file. Check the path.") from error
    except IsADirectoryError as error:
        raise MergeloomError(f"{name}: is a directory, expected a safetensors file.") from error


def _parse(name: str, file: BinaryIO, size: int) -> Header:
    start = file.read(9)
    # A safetensors header begins with a brace. Its length may begin with the bytes of a pickle, so
    # the brace is looked at first.
    if start[8:] != b"{":
        _refuse(name, start, size)
    length = int.from_bytes(start[:8], "little")
    if 8 + length > size:
        raise MergeloomError(
            f"{name}: is cut short: its header needs {8 + length} bytes, the file has {size}. "
            "Copy or make it again."
        )
    file.seek(8)
    try:
        content = json.loads(file.read(length))
        metadata = content.pop("__metadata__", {})
        tensors = {k: (str(v["dtype"]), tuple(map(int, v["shape"]))) for k, v in content.items()}
        spans = {
            k: (8 + length + int(v["data_offsets"][0]), 8 + length + int(v["data_offsets"][1]))
            for k, v in content.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise MergeloomError(
            f"{name}: its safetensors header is damaged ({error}). Copy or make the file again."
        ) from error
    for key, (dtype, shape) in tensors.items():
        if dtype not in ITEM_SIZES:
            raise MergeloomError(
                f"{name}: tensor {key} has the type {dtype}, which is not known here. "
                f"Convert it to one of {', '.join(sorted(ITEM_SIZES))}."
            )
        seen, expected = spans[key][1] - spans[key][0], math.prod(shape) * ITEM_SIZES[dtype]
        if seen != expected:
            raise MergeloomError(
                f"{name}: tensor {key} takes {seen} bytes, but {dtype} {list(shape)} needs "
                f"{expected}. Copy or make the file again."
            )
    end = max((stop for _, stop in spans.values()), default=8 + length)
    if end > size:
        raise MergeloomError(
            f"{name}: is cut short: its header promises {end} bytes, the file has {size}. "
            "Copy or make it again."
        )
    return Header(metadata, tensors, spans)


def _refuse(name: str, start: bytes, size: int) -> None:
    if start.startswith((b"PK\x03\x04", b"\x80")):
        raise MergeloomError(
            f"{name}: is a pickle (as torch.save writes it), expected safetensors. Pickles can run "
            "code when they are loaded, so none is: save its tensors with "
            "safetensors.torch.save_file after torch.load(..., weights_only=True)."
        )
    if size < 9:
        raise MergeloomError(f"{name}: is cut short: it has {size} bytes. Copy or make it again.")
    raise MergeloomError(f"{name}: is not a safetensors file. It begins with {start[:8]!r}.")
