"""Tasks as WebDataset shards in the layout of CLIP-benchmark.

    {task}/classnames.txt                           a class name per line, in the order of labels
    {task}/zeroshot_classification_templates.txt    a template per line, `{c}` stands for the name
    {task}/{split}/nshards.txt                      how many shards follow
    {task}/{split}/0.tar, 1.tar, …                  s0000000.cls (the label), s0000000.png (or
    .jpg, …)

Plain `tarfile`: a reader that must name the damaged shard and member, in a job that has no need to
import torch.
"""

import io
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from mergeloom.errors import MergeloomError
from mergeloom.io.atomic import atomic_path

IMAGE_SUFFIXES = ("png", "jpg", "jpeg", "webp")
CLASSNAMES = "classnames.txt"
TEMPLATES = "zeroshot_classification_templates.txt"


def write_lines(path: Path, lines: Sequence[str]) -> None:
    """Write one entry per line, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def read_lines(path: Path) -> list[str]:
    """Entries of a file with one per line; MergeloomError if it is missing or empty."""
    if not path.exists():
        raise MergeloomError(
            f"{path}: no such file; a task folder holds {CLASSNAMES} and {TEMPLATES}"
        )
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not lines:
        raise MergeloomError(f"{path}: is empty, expected one entry per line")
    return lines


def write_shard(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Write one shard, atomically and with equal bytes for equal content.

    Parameters
    ----------
    images : uint8 [n, height, width, 3].
    labels : int64 [n].
    """
    with (
        atomic_path(path) as temporary,
        tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "PNG", compress_level=1)
            for suffix, content in (("cls", str(int(label)).encode()), ("png", buffer.getvalue())):
                member = tarfile.TarInfo(f"s{index:07d}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def shard_paths(split: Path) -> list[Path]:
    """The shards of a split folder in order; MergeloomError if any is missing."""
    counter = split / "nshards.txt"
    if not counter.exists():
        raise MergeloomError(f"{counter}: no such file; expected WebDataset shards in {split}")
    try:
        count = int(counter.read_text())
    except ValueError:
        raise MergeloomError(f"{counter}: expected one whole number") from None
    paths = [split / f"{index}.tar" for index in range(count)]
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise MergeloomError(
            f"{counter} promises {count} shards, missing: {', '.join(missing[:5])}"
        )
    if not paths:
        raise MergeloomError(f"{counter}: promises no shard")
    return paths


def count_samples(path: Path) -> int:
    """Samples of a shard, by its labels; naming what is damaged is left to `read_shard`."""
    if not path.exists():
        raise MergeloomError(f"{path}: no such shard")
    try:
        with tarfile.open(path) as tar:
            return sum(member.name.endswith(".cls") for member in tar)
    except tarfile.TarError:
        return 1


def read_shard(path: Path, classes: int) -> Iterator[tuple[Image.Image, int]]:
    """Images and labels of one shard, in order.

    Parameters
    ----------
    classes : int – labels must be below it.

    Raises
    ------
    MergeloomError – a shard that is missing or cut short, an image that does not decode, a label
    that is no number or outside the class list; the message names the shard and the member.
    """
    if not path.exists():
        raise MergeloomError(f"{path}: no such shard")
    # A tar archive ends in two blocks of zeros; without them its tail is lost, even where the cut
    # fell between two members and everything left reads well.
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(max(0, size - 1024))
        whole = size >= 1024 and size % 512 == 0 and not any(file.read())
    if not whole:
        raise MergeloomError(f"{path}: is cut short ({size} bytes); fetch or make this shard again")
    sample: dict[str, bytes] = {}
    key = ""
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                if not member.isfile():
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                stem = f"{folder}/{stem}" if folder else stem
                if sample and stem != key:
                    yield _sample(path, key, sample, classes)
                    sample = {}
                key = stem
                content = tar.extractfile(member)
                assert content is not None
                sample[suffix.lower()] = content.read()
    except tarfile.TarError as error:
        raise MergeloomError(
            f"{path}: is damaged: {error}; fetch or make this shard again"
        ) from error
    if sample:
        yield _sample(path, key, sample, classes)


def _sample(
    path: Path, key: str, sample: dict[str, bytes], classes: int
) -> tuple[Image.Image, int]:
    where = f"{path}: sample {key}"
    suffix = next((s for s in IMAGE_SUFFIXES if s in sample), None)
    if suffix is None or "cls" not in sample:
        raise MergeloomError(
            f"{where} has {', '.join(sorted(sample))}; expected cls and one of {IMAGE_SUFFIXES}"
        )
    try:
        label = int(sample["cls"])
    except ValueError:
        raise MergeloomError(f"{where}.cls: {sample['cls'][:20]!r} is not a label") from None
    if not 0 <= label < classes:
        raise MergeloomError(
            f"{where}.cls: label {label} is outside the {classes} classes of {CLASSNAMES}"
        )
    try:
        return Image.open(io.BytesIO(sample[suffix])).convert("RGB"), label
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise MergeloomError(f"{where}.{suffix}: the image does not decode: {error}") from error
