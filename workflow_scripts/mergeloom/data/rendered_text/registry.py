"""Renderers of text by name, and the splits drawn from them.

A renderer writes one example of one kind. Every module of this package may register some; they are
found at the first look-up, so a new file is all that a new renderer needs.
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mergeloom.data.streams import stream
from mergeloom.errors import MergeloomError

Rng = np.random.Generator
Write = Callable[[str, Rng], dict[str, str]]

#: Examples in a row that may repeat one written before, until a kind counts as exhausted.
PATIENCE = 2000


@dataclass(frozen=True)
class TextRenderer:
    """A rule that writes examples of the kinds it knows.

    Attributes
    ----------
    fields : what an example has, each a text.
    kinds : what it writes. A kind is the answer to its examples, unless they have a field `label`.
    """

    name: str
    fields: tuple[str, ...]
    kinds: tuple[str, ...]
    write: Write


_renderers: dict[str, TextRenderer] = {}


def text_renderer(
    name: str, fields: Sequence[str], kinds: Sequence[str]
) -> Callable[[Write], Write]:
    """Register ``write(kind, rng) -> {field: text}`` as the renderer ``name``."""

    def register(write: Write) -> Write:
        _renderers[name] = TextRenderer(name, tuple(fields), tuple(kinds), write)
        return write

    return register


def get_text_renderer(name: str) -> TextRenderer:
    """Return the renderer ``name``; MergeloomError lists those that exist."""
    package = importlib.import_module(__package__)
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{__package__}.{module.name}")
    if name not in _renderers:
        raise MergeloomError(
            f"There is no renderer {name!r} of texts. Renderers: {', '.join(sorted(_renderers))}."
        )
    return _renderers[name]


def render_texts(
    name: str, counts: Mapping[str, int], seed: int
) -> dict[str, dict[str, list[str]]]:
    """Write the splits of a task.

    Every (split, kind) has a random stream of its own, and no example occurs twice in the task,
    whatever its answer. Test is written first, then validation, then training: how many training
    examples are asked for changes none of the others.

    Parameters
    ----------
    name : the renderer.
    counts : examples per split, divided evenly among kinds (the first ones get the remainder).
    seed : the task is a pure function of all arguments.

    Returns
    -------
    {split: {field: texts [n], "label": answers [n]}}, in random order within a split.

    Raises
    ------
    MergeloomError – an unknown renderer, or more examples asked of a kind than the renderer has.
    """
    source = get_text_renderer(name)
    seen: set[tuple[str, ...]] = set()
    order = ["test", "val", "train"]
    splits = {}
    for split in sorted(counts, key=lambda s: (order.index(s) if s in order else -1, s)):
        examples: list[dict[str, str]] = []
        for place, kind in enumerate(source.kinds):
            count, more = divmod(counts[split], len(source.kinds))
            rng = stream(seed, name, split, kind)
            examples += _distinct(source, kind, count + (place < more), rng, seen)
        shuffled = stream(seed, name, split, "").permutation(len(examples))
        splits[split] = {
            field: [examples[i][field] for i in shuffled] for field in (*source.fields, "label")
        }
    return {split: splits[split] for split in counts}


def _distinct(
    source: TextRenderer, kind: str, count: int, rng: Rng, seen: set[tuple[str, ...]]
) -> list[dict[str, str]]:
    """Write ``count`` examples that are not in ``seen``, and add them to it."""
    examples: list[dict[str, str]] = []
    repeats = 0
    while len(examples) < count:
        example = {"label": kind} | source.write(kind, rng)
        content = tuple(example[field] for field in source.fields)
        if content in seen:
            repeats += 1
            if repeats > PATIENCE:
                raise MergeloomError(
                    f"The renderer {source.name!r} found only {len(examples)} of {count} further "
                    f"different examples of {kind!r}: ask for fewer examples (train, val and test "
                    "together)."
                )
            continue
        repeats = 0
        seen.add(content)
        examples.append(example)
    return examples
