"""Splits of a task: whether they share images, and which training images validate.

Images are told apart by their content: SHA-256 of their size and their decoded RGB pixels, whatever
their file format or compression says.
"""

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mergeloom.data.layout import SPLITS
from mergeloom.data.overlaps import compare_splits
from mergeloom.data.parallel import in_order
from mergeloom.data.shards import Sample, decode_image, read_samples


def content_of(sample: Sample) -> bytes:
    """SHA-256 of an image's size and its pixels as RGB, 32 bytes."""
    image = decode_image(sample)
    digest = hashlib.sha256(f"RGB {image.width} {image.height}\n".encode())
    digest.update(image.tobytes())
    return digest.digest()


def split_task(
    shards: Mapping[str, Sequence[Path]],
    classes: int,
    seed: int,
    allow_overlap: bool,
    threads: int,
    title: str,
) -> dict[str, Any]:
    """Compare the splits of a task, and choose the validation images where no split is for them.

    Validation is then min(10 %, 5000) of train, drawn as by `hold_out` among the images whose
    content occurs once in train and not in test. So no image is ever both trained on and validated
    with.

    Parameters
    ----------
    shards : those of `train`, `test`, and perhaps `val`.
    threads : that decode and hash; the result does not depend on it.
    title : the task, for messages.

    Returns
    -------
    See `compare_splits`.

    Raises
    ------
    MergeloomError – splits that share images, unless allowed, with the numbers and first pairs;
    a train split too small to draw from; whatever `read_samples` and `decode_image` refuse.
    """
    contents: dict[str, list[bytes]] = {}
    places: dict[str, list[str]] = {}
    for split in (s for s in SPLITS if shards.get(s)):
        contents[split], places[split] = [], []
        root = f"{shards[split][0].parent.parent}/"
        for place, content in in_order(_located, _samples(shards[split], classes), threads):
            contents[split].append(content)
            places[split].append(place.removeprefix(root))
    kind = ("images", "pixel for pixel")
    return compare_splits(contents, places, kind, seed, allow_overlap, title)


def _samples(shards: Sequence[Path], classes: int) -> Iterator[Sample]:
    return itertools.chain.from_iterable(read_samples(shard, classes) for shard in shards)


def _located(sample: Sample) -> tuple[str, bytes]:
    return sample.where, content_of(sample)
