"""Splits of a task: whether they share images, and which training images validate.

Images are told apart by their content: SHA-256 of their size and their decoded RGB pixels, whatever
their file format or compression says.
"""

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mergeloom.data.hold_out import hold_out
from mergeloom.data.layout import SPLITS
from mergeloom.data.parallel import in_order
from mergeloom.data.shards import Sample, decode_image, read_samples
from mergeloom.errors import MergeloomError

SHOWN = 5  # pairs of equal images in a message
LISTED = 100  # and in the file


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
    `images`, `repeated` (how many occur more than once in their split) and `content` (SHA-256 of
    the contents in order) by split; `overlap`, a list of {splits, images, first pairs};
    `validation`: sorted indices into train, or null if there is a split for it; `excluded`: sorted
    indices of those that may not validate, likewise; `training`: null, all that do not validate.

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
    overlaps = [
        overlap
        for a, b in itertools.combinations(contents, 2)
        if (overlap := _overlap(a, b, contents, places))
    ]
    if overlaps and not allow_overlap:
        raise MergeloomError(_leak(title, overlaps, places))
    validation = excluded = None
    if "val" not in contents:
        excluded = not_to_validate(contents["train"], set(contents["test"]))
        _, drawn = hold_out(len(contents["train"]), seed, excluded, title)
        validation = sorted(drawn.tolist())
    return {
        "images": {split: len(found) for split, found in contents.items()},
        "content": {
            s: hashlib.sha256(b"".join(found)).hexdigest() for s, found in contents.items()
        },
        "repeated": {
            split: sum(n for n in Counter(found).values() if n > 1)
            for split, found in contents.items()
        },
        "overlap": overlaps,
        "training": None,
        "validation": validation,
        "excluded": excluded,
    }


def not_to_validate(train: Sequence[bytes], test: set[bytes]) -> list[int]:
    """Indices of the training images that occur more than once in train, or in test; sorted.

    Parameters
    ----------
    train, test : contents.
    """
    count = Counter(train)
    return [i for i, content in enumerate(train) if count[content] > 1 or content in test]


def _samples(shards: Sequence[Path], classes: int) -> Iterator[Sample]:
    return itertools.chain.from_iterable(read_samples(shard, classes) for shard in shards)


def _located(sample: Sample) -> tuple[str, bytes]:
    return sample.where, content_of(sample)


def _overlap(
    a: str, b: str, contents: Mapping[str, Sequence[bytes]], places: Mapping[str, Sequence[str]]
) -> dict[str, Any] | None:
    """The images that two splits share; None if there are none."""
    first: dict[bytes, int] = {}
    for index, content in enumerate(contents[a]):
        first.setdefault(content, index)
    shared = [(first[c], index) for index, c in enumerate(contents[b]) if c in first]
    if not shared:
        return None
    within_b = set(contents[b])
    return {
        "splits": [a, b],
        "images": [sum(content in within_b for content in contents[a]), len(shared)],
        "first": [[places[a][i], places[b][j]] for i, j in shared[:LISTED]],
    }


def _leak(
    title: str, overlaps: Sequence[Mapping[str, Any]], places: Mapping[str, Sequence[str]]
) -> str:
    lines = [f"{title}: splits share images, pixel for pixel."]
    for overlap in overlaps:
        (a, b), (in_a, in_b) = overlap["splits"], overlap["images"]
        pairs = ", ".join(" = ".join(pair) for pair in overlap["first"][:SHOWN])
        lines.append(
            f"{in_a} of the {len(places[a])} images of {a} and {in_b} of the {len(places[b])} of "
            f"{b} are the same, for instance: {pairs}."
        )
    lines.append(
        "A model that has seen the test images is measured on its memory: take another revision "
        "or split of the data set. If these splits are what you want, set `allow_overlap: true` in "
        "the task's preset, or name the task under `allow_overlap` in the configuration."
    )
    return "\n".join(lines)
