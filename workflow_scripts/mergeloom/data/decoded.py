"""Decoded images: a split at an encoder's resolution, as uint8 in one memory-mapped file.

Decoding, resizing and cropping are done once per task, split and size; training and evaluation read
the pixels, and normalise them on the device.
"""

import io
import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from mergeloom.data.parallel import in_order
from mergeloom.data.shards import Sample, count_samples, decode_image, read_samples
from mergeloom.errors import MergeloomError
from mergeloom.io.atomic import atomic_path

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def fit_to_square(image: Image.Image, size: int) -> Image.Image:
    """CLIP's evaluation transform: shorter side to `size` (bicubic), then the centre square."""
    width, height = image.size
    if (width, height) == (size, size):
        return image
    # torchvision's Resize rounds the longer side down; CenterCrop rounds its offset to even.
    short, long = sorted((width, height))
    long = size * long // short
    width, height = (size, long) if width <= height else (long, size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def decode(
    shards: list[Path],
    classes: int,
    size: int,
    out: Path,
    metadata: Mapping[str, str],
    indices: np.ndarray | None = None,
    threads: int = 1,
) -> None:
    """Decode the shards of a split into `out`: `images` uint8 [n, size, size, 3], `labels` int64
    [n].

    A few images per thread are held at a time; the file does not depend on their number.

    Parameters
    ----------
    indices : int64 [n], sorted – the images to decode; None for all.

    Raises
    ------
    MergeloomError – whatever `read_samples` and `decode_image` refuse, a split without images, and
    indices of more images than there are.
    """
    total = sum(count_samples(shard) for shard in shards)
    if indices is not None and indices.max(initial=-1) >= total:
        raise MergeloomError(
            f"{shards[0].parent}: holds {total} images, but image {indices.max()} is to be "
            "decoded; the task's index files in the cache are of other shards: delete them"
        )
    chosen = np.full(total, indices is None)
    if indices is not None:
        chosen[indices] = True
    if not chosen.any():
        raise MergeloomError(f"{shards[0].parent}: holds no images")
    samples = itertools.chain.from_iterable(read_samples(shard, classes) for shard in shards)

    def square(sample: Sample) -> tuple[np.ndarray, int]:
        return np.asarray(fit_to_square(decode_image(sample), size)), int(sample.label)

    squares = in_order(square, itertools.compress(samples, chosen), threads)
    write_images(out, squares, int(chosen.sum()), size, metadata, str(shards[0].parent))


def write_images(
    out: Path,
    samples: Iterable[tuple[np.ndarray, int]],
    count: int,
    size: int,
    metadata: Mapping[str, str],
    where: str,
) -> None:
    """Write `count` images, each uint8 [size, size, 3], and their labels, one at a time.

    Parameters
    ----------
    where : the folder or file that the samples are of, for messages.

    Raises
    ------
    MergeloomError – there are more samples, or fewer.
    """
    shape = (count, size, size, 3)
    labels = np.empty(count, np.int64)
    pixels = math.prod(shape)
    header = {
        "__metadata__": dict(metadata),
        "labels": {"dtype": "I64", "shape": [count], "data_offsets": [0, labels.nbytes]},
        "images": {
            "dtype": "U8",
            "shape": list(shape),
            "data_offsets": [labels.nbytes, labels.nbytes + pixels],
        },
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with atomic_path(out) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.seek(labels.nbytes, io.SEEK_CUR)
        written = 0
        for image, label in samples:
            if written < count:
                file.write(image.tobytes())
                labels[written] = label
            written += 1
        if written != count:
            raise MergeloomError(
                f"{where}: gave {written} images where {count} were counted; fetch or make it again"
            )
        file.seek(8 + len(text))
        file.write(labels.tobytes())


@dataclass(frozen=True)
class Images:
    """A decoded split: `images` uint8 [n, size, size, 3] (memory-mapped), `labels` int64 [n]."""

    images: "Tensor"
    labels: "Tensor"

    def __len__(self) -> int:
        return len(self.labels)


def open_images(path: Path) -> Images:
    """Open a decoded split without reading its pixels."""
    from mergeloom.io.tensors import TensorFile

    file = TensorFile(path)
    return Images(file["images"], file["labels"])


def normalise(images: "Tensor", mean: Sequence[float], std: Sequence[float]) -> "Tensor":
    """uint8 [n, s, s, 3] to float32 [n, 3, s, s] with the encoder's mean and deviation (of 0…1).

    Converted once and then normalised in place. The strides stay those of the pixels (channels
    last), which copies nothing and is the layout that convolutions on a GPU prefer.
    """
    shift, scale = _constants(tuple(mean), tuple(std), images.device)
    return images.permute(0, 3, 1, 2).float().sub_(shift).div_(scale)


@cache
def _constants(
    mean: tuple[float, ...], std: tuple[float, ...], device: "torch.device"
) -> "tuple[Tensor, Tensor]":
    import torch

    # Made outside of inference mode, since training uses them, too.
    with torch.inference_mode(False):
        shift, scale = (torch.tensor(v).mul(255).view(1, 3, 1, 1).to(device) for v in (mean, std))
    return shift, scale
