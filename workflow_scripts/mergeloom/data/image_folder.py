"""Tasks from a folder of images: `{split}/{class}/*`."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from mergeloom.data.layout import SPLITS
from mergeloom.data.shards import IMAGE_SUFFIXES, Sample
from mergeloom.errors import MergeloomError


class ImageFolder:
    """The splits of a folder with `train`, `test` and perhaps `val`, one folder per class in each.

    Parameters
    ----------
    classnames : classes in the order of their labels; None for those of the folders of `train`,
        sorted, with `_` read as a space.

    Attributes
    ----------
    classnames : list of str.

    Raises
    ------
    MergeloomError – a folder that is missing, or whose name is no class, neither as it is nor with
    `_` read as a space.
    """

    def __init__(self, folder: Path, classnames: Sequence[str] | None) -> None:
        self._folder = folder
        classes = {split: _classes(folder / split) for split in splits_of(folder)}
        self.classnames = list(classnames or (_spaced(name) for name in classes["train"]))
        known = {name: label for label, name in enumerate(self.classnames)}
        self._labels: dict[str, dict[str, int]] = {}
        for split, names in classes.items():
            places = {name: known.get(name, known.get(_spaced(name))) for name in names}
            strange = [name for name, place in places.items() if place is None]
            if strange:
                raise MergeloomError(
                    f"{folder / split}: {', '.join(map(repr, strange[:5]))} are not among the "
                    f"{len(known)} classes ({', '.join(self.classnames[:5])}, …); name the folders "
                    "as the preset's `classnames`, or with _ for a space"
                )
            self._labels[split] = {
                name: place for name, place in places.items() if place is not None
            }

    def samples(self, split: str) -> Iterator[Sample]:
        """The images of a split, sorted by class folder and file name.

        Files of other suffixes are passed over; a class folder with none left, or with a folder in
        it, is an error.
        """
        for name, label in self._labels[split].items():
            images = _images(self._folder / split / name)
            if not images:
                raise MergeloomError(
                    f"{self._folder / split / name}: holds no image ({', '.join(IMAGE_SUFFIXES)})"
                )
            for path in images:
                yield Sample(str(path), path.read_bytes(), label)


def splits_of(folder: Path) -> list[str]:
    """The splits of a folder; MergeloomError if train or test is missing."""
    there_is = [split for split in SPLITS if (folder / split).is_dir()]
    missing = [split for split in ("train", "test") if split not in there_is]
    if missing:
        raise MergeloomError(
            f"{folder}: has no folder {' and no folder '.join(missing)}; expected train, test and "
            "perhaps val, with one folder of images per class in each"
        )
    return there_is


def state_of(folder: Path) -> str:
    """Digest of names, sizes and times of all images: another once any is added, removed or edited.

    It reads no image, so that the workflow can ask whenever it plans.
    """
    digest = hashlib.sha256()
    for split in splits_of(folder):
        for name in _classes(folder / split):
            for path in _images(folder / split / name):
                state = path.stat()
                digest.update(f"{split}/{name}/{path.name}\0{state.st_size}\0".encode())
                digest.update(f"{state.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _classes(folder: Path) -> list[str]:
    """Names of the class folders of a split, sorted."""
    with os.scandir(folder) as entries:
        names = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    if not names:
        raise MergeloomError(f"{folder}: holds no folders; expected one folder of images per class")
    return names


def _images(folder: Path) -> list[Path]:
    """The images of a class, sorted by name."""
    with os.scandir(folder) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".")]
    nested = sorted(entry.name for entry in visible if entry.is_dir())
    if nested:
        raise MergeloomError(
            f"{folder / nested[0]}: is a folder within a class; images lie directly in {folder}"
        )
    suffixes = tuple(f".{suffix}" for suffix in IMAGE_SUFFIXES)
    return [
        folder / n for n in sorted(e.name for e in visible if e.name.lower().endswith(suffixes))
    ]


def _spaced(name: str) -> str:
    return name.replace("_", " ")
