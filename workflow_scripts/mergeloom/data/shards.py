"""Tasks as WebDataset shards in the layout of CLIP-benchmark, written and read a sample at a time.

    {task}/classnames.txt                           a class name per line, in the order of labels
    {task}/zeroshot_classification_templates.txt    a template per line, `{c}` stands for the name
    {task}/{split}/nshards.txt                      how many shards follow
    {task}/{split}/0.tar, 1.tar, …                  s0000000.cls (the label), s0000000.png (or
    .jpg, …)

Plain `tarfile`: a reader that must name the damaged shard and member, in a job that has no need to
import torch.
"""

import io
import itertools
import struct
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from mergeloom.data.layout import SHARD_SIZE
from mergeloom.errors import MergeloomError
from mergeloom.io.atomic import atomic_path

IMAGE_SUFFIXES = ("png", "jpg", "jpeg", "webp", "bmp", "gif", "ppm", "pgm", "tif", "tiff")
CLASSNAMES = "classnames.txt"
TEMPLATES = "zeroshot_classification_templates.txt"
# What Pillow calls a format, and the suffix of its files here.
SUFFIX_OF = {"PNG": "png", "JPEG": "jpg", "MPO": "jpg", "WEBP": "webp", "BMP": "bmp", "GIF": "gif",
             "PPM": "ppm", "TIFF": "tif"}  # fmt: skip
# What Pillow raises on bytes that are no image, or a damaged one, or one too large to be meant so.
BAD_IMAGE = (
    UnidentifiedImageError,
    Image.DecompressionBombError,
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    struct.error,
)


class Sample(NamedTuple):
    """An encoded image and its label.

    `where` is the place it was read from, for messages; a label may be a name until it has been
    numbered.
    """

    where: str
    image: bytes
    label: int | str


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
            _add(tar, index, "png", buffer.getvalue(), int(label))


def _add(tar: tarfile.TarFile, index: int, suffix: str, image: bytes, label: int) -> None:
    for kind, content in (("cls", str(label).encode()), (suffix, image)):
        member = tarfile.TarInfo(f"s{index:07d}.{kind}")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))


def write_task(
    folder: Path,
    splits: Mapping[str, Iterable[Sample]],
    *,
    shards: Mapping[str, int],
    counts: Mapping[str, int],
    classnames: Sequence[str],
    title: str,
) -> None:
    """Write a task's shards and class names, its samples with their image bytes as they come.

    All shards appear together when everything has been read, or none does. The last shard of a
    split takes what the others, of `SHARD_SIZE` samples, leave.

    Parameters
    ----------
    splits : samples by split, with numbered labels; each is read once, one sample at a time.
    shards : how many shards by split.
    counts : how many samples a split must have, if known.
    title : what the samples are of, for messages.

    Raises
    ------
    MergeloomError – another number of samples than `counts` says, an image of no known format, or
    a split without images.
    """
    with ExitStack() as whole:
        for split, samples in splits.items():
            left, seen = iter(samples), 0
            for place in range(shards[split]):
                last = place == shards[split] - 1
                temporary = whole.enter_context(atomic_path(folder / split / f"{place}.tar"))
                with tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
                    for sample in itertools.islice(left, None if last else SHARD_SIZE):
                        assert isinstance(sample.label, int)
                        _add(tar, seen, _suffix(sample), sample.image, sample.label)
                        seen += 1
            if seen != counts.get(split, seen):
                raise MergeloomError(
                    f"{title}, {split}: has {seen} images, but the preset's `counts` say "
                    f"{counts[split]}. Is it the right revision, and are `files` all of them? If "
                    "so, correct `counts`."
                )
            if not seen:
                raise MergeloomError(f"{title}, {split}: holds no images")
    for split, count in shards.items():
        write_lines(folder / split / "nshards.txt", [str(count)])
    write_lines(folder / CLASSNAMES, classnames)


def _suffix(sample: Sample) -> str:
    try:
        with Image.open(io.BytesIO(sample.image)) as image:
            known = SUFFIX_OF.get(image.format or "")
    except BAD_IMAGE as error:
        raise MergeloomError(f"{sample.where}: is no image: {error}") from error
    if known is None:
        raise MergeloomError(
            f"{sample.where}: is a {image.format} image; expected one of {', '.join(SUFFIX_OF)}"
        )
    return known


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
            return sum(member.name.lower().endswith(".cls") for member in tar)
    except tarfile.TarError:
        return 1


def read_shard(path: Path, classes: int) -> Iterator[tuple[Image.Image, int]]:
    """Images and labels of one shard, in order; see `read_samples` and `decode_image`."""
    for sample in read_samples(path, classes):
        yield decode_image(sample), int(sample.label)


def read_labels(shards: Iterable[Path], classes: int) -> np.ndarray:
    """Labels of a split in the order of its shards, int64 [n]; no image is decoded."""
    samples = itertools.chain.from_iterable(read_samples(shard, classes) for shard in shards)
    return np.fromiter((sample.label for sample in samples), np.int64)


def read_samples(
    path: Path,
    classes: int | None,
    images: Sequence[str] = IMAGE_SUFFIXES,
    label: str = "cls",
    name: str | None = None,
) -> Iterator[Sample]:
    """Encoded images and labels of one shard, in order.

    Parameters
    ----------
    classes : int – labels must be below it; None if they are numbers of something else.
    images, label : suffixes of the members that hold them.
    name : what the shard is called in messages, if not by its path.

    Raises
    ------
    MergeloomError – a shard that is missing or cut short, a sample without image or label, a label
    that is no number or outside the class list; the message names the shard and the member.
    """
    name = name or str(path)
    if not path.exists():
        raise MergeloomError(f"{name}: no such shard")
    # A tar archive ends in two blocks of zeros; without them its tail is lost, even where the cut
    # fell between two members and everything left reads well.
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(max(0, size - 1024))
        whole = size >= 1024 and size % 512 == 0 and not any(file.read())
    if not whole:
        raise MergeloomError(f"{name}: is cut short ({size} bytes); fetch or make this shard again")
    members: dict[str, bytes] = {}
    key = ""
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                if not member.isfile():
                    continue
                folder, _, last = member.name.rpartition("/")
                stem, _, suffix = last.partition(".")
                stem = f"{folder}/{stem}" if folder else stem
                if members and stem != key:
                    yield _sample(name, key, members, classes, images, label)
                    members = {}
                key = stem
                content = tar.extractfile(member)
                assert content is not None
                members[suffix.lower()] = content.read()
    except tarfile.TarError as error:
        raise MergeloomError(
            f"{name}: is damaged: {error}; fetch or make this shard again"
        ) from error
    if members:
        yield _sample(name, key, members, classes, images, label)


def _sample(
    name: str,
    key: str,
    members: dict[str, bytes],
    classes: int | None,
    images: Sequence[str],
    label: str,
) -> Sample:
    where = f"{name}: sample {key}"
    suffix = next((s for s in images if s in members), None)
    if suffix is None or label not in members:
        raise MergeloomError(
            f"{where} has {', '.join(sorted(members))}; expected {label} and one of {images}"
        )
    text = members[label]
    try:
        number = int(text)
    except ValueError:
        raise MergeloomError(f"{where}.{label}: {text[:20]!r} is not a label") from None
    if classes is not None and not 0 <= number < classes:
        raise MergeloomError(
            f"{where}.{label}: label {number} is outside the {classes} classes of {CLASSNAMES}"
        )
    return Sample(f"{where}.{suffix}", members[suffix], number)


def decode_image(sample: Sample) -> Image.Image:
    """The pixels of a sample, RGB; MergeloomError that names it if it does not decode."""
    try:
        return Image.open(io.BytesIO(sample.image)).convert("RGB")
    except BAD_IMAGE as error:
        raise MergeloomError(f"{sample.where}: the image does not decode: {error}") from error
