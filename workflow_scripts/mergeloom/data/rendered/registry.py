"""Renderers by name, and the splits drawn from them.

A renderer draws one image of one class. Every module of this package may register some;
they are found at the first look-up, so a new file is all that a new renderer needs.
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mergeloom.data.streams import stream
from mergeloom.errors import MergeloomError

Draw = Callable[[str, np.random.Generator], np.ndarray]

#: Draws in a row that may repeat an image seen before, until a class counts as exhausted.
PATIENCE = 2000


@dataclass(frozen=True)
class Renderer:
    """A rule that draws images of the classes it knows, each uint8 [32, 32, 3]."""

    name: str
    classnames: tuple[str, ...]
    draw: Draw


_renderers: dict[str, Renderer] = {}


def renderer(name: str, classnames: Sequence[str]) -> Callable[[Draw], Draw]:
    """Register ``draw(classname, rng) -> uint8 [32, 32, 3]`` as the renderer ``name``."""

    def register(draw: Draw) -> Draw:
        _renderers[name] = Renderer(name, tuple(classnames), draw)
        return draw

    return register


def get_renderer(name: str) -> Renderer:
    """Return the renderer ``name``; MergeloomError lists those that exist."""
    package = importlib.import_module(__package__)
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{__package__}.{module.name}")
    if name not in _renderers:
        raise MergeloomError(
            f"There is no renderer {name!r}. Renderers: {', '.join(sorted(_renderers))}."
        )
    return _renderers[name]


def render(
    name: str,
    classnames: Sequence[str],
    counts: Mapping[str, int],
    seed: int,
    imbalance: float = 1.0,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Draw the splits of a task.

    Every (split, class) has a random stream of its own, and no image occurs twice in the task,
    byte for byte. Test is drawn first, then validation, then training: how many training images
    are asked for changes no image of the others.

    Parameters
    ----------
    name : the renderer.
    classnames : classes in the order of their labels; each must be known to the renderer.
    counts : images per split, divided evenly among classes (the first ones get the remainder).
    seed : the task is a pure function of all arguments.
    imbalance : how many times fewer training images the last class keeps than the first. Of C
        classes, class c keeps the share imbalance^(-c / (C - 1)), rounded down: the long tail of
        arXiv 1901.05555. Images kept are among those of the balanced task; validation and test
        stay balanced.

    Returns
    -------
    {split: (images uint8 [n, 32, 32, 3], labels int64 [n])}, in random order within a split.

    Raises
    ------
    MergeloomError
        Unknown renderer or class name, a class name given twice, or more images asked of a class
        than the renderer has.
    """
    source = get_renderer(name)
    unknown = [c for c in classnames if c not in source.classnames]
    if unknown or not classnames:
        raise MergeloomError(
            f"The renderer {name!r} cannot draw the classes {unknown}. "
            f"It draws: {', '.join(source.classnames)}."
        )
    if len(set(classnames)) < len(classnames):
        repeated = sorted({c for c in classnames if list(classnames).count(c) > 1})
        raise MergeloomError(f"Class names given twice for the renderer {name!r}: {repeated}.")
    seen: set[bytes] = set()
    order = ["test", "val", "train"]
    splits = {}
    for split in sorted(counts, key=lambda s: (order.index(s) if s in order else -1, s)):
        images, labels = [], []
        for label, classname in enumerate(classnames):
            share = counts[split] // len(classnames) + (label < counts[split] % len(classnames))
            if split == "train":
                share = int(share / imbalance ** (label / max(len(classnames) - 1, 1)))
            rng = stream(seed, name, split, classname)
            images += _distinct(source, classname, share, rng, seen)
            labels += [label] * share
        shuffled = stream(seed, name, split, "").permutation(len(images))
        stack = np.stack(images) if images else np.zeros((0, 32, 32, 3), np.uint8)
        splits[split] = (stack[shuffled], np.array(labels, np.int64)[shuffled])
    return {split: splits[split] for split in counts}


def _distinct(
    source: Renderer, classname: str, count: int, rng: np.random.Generator, seen: set[bytes]
) -> list[np.ndarray]:
    """Draw ``count`` images that are not in ``seen``, and add them to it."""
    images: list[np.ndarray] = []
    repeats = 0
    while len(images) < count:
        image = source.draw(classname, rng)
        content = image.tobytes()
        if content in seen:
            repeats += 1
            if repeats > PATIENCE:
                raise MergeloomError(
                    f"The renderer {source.name!r} found only {len(images)} of {count} further "
                    f"different images of the class {classname!r}: ask for fewer images "
                    f"(train, val and test together)."
                )
            continue
        repeats = 0
        seen.add(content)
        images.append(image)
    return images
