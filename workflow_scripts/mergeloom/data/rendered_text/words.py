"""The words that texts are made of, in two vocabularies: of the tasks, and of the primer.

The primer asks the tasks' questions about people, beings, things and places of its own, so that
none of its examples is one of a task.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mergeloom.data.rendered_text.registry import Rng


def listed(words: str) -> tuple[str, ...]:
    """The words of a text."""
    return tuple(words.split())


@dataclass(frozen=True)
class Words:
    """Whom and what sentences are about; plurals end in `s`."""

    names: tuple[str, ...]
    beings: tuple[str, ...]
    things: tuple[str, ...]
    places: tuple[str, ...]


TASKS = Words(
    names=listed("anna ben carla david emma felix greta hugo"),
    beings=listed("dog cat horse rabbit girl boy teacher doctor"),
    things=listed("ball cup lamp chair table hat coat bag"),
    places=listed("garden kitchen park school market forest"),
)
PRIMER = Words(
    names=listed("nora oscar paula robert"),
    beings=listed("bird goat king queen"),
    things=listed("spoon fork desk mirror"),
    places=listed("harbour village museum tower hotel castle"),
)
COLOURS = listed("red blue green yellow black white")
MOODS = listed("happy sad tired hungry angry calm")
NUMBERS = listed("two three four five six seven")


def pick(rng: Rng, words: Sequence[str], but: Sequence[str] = ()) -> str:
    """One of the words, but for some."""
    left = [word for word in words if word not in but]
    return left[rng.integers(len(left))]
