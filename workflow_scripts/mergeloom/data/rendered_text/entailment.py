"""What follows from simple facts."""

from mergeloom.data.rendered_text.registry import text_renderer
from mergeloom.data.rendered_text.words import COLOURS, NUMBERS, TASKS, Rng, Words, pick

# What a fact says of its subject {s} with the value {v}: plainly, in other words, and denied.
SAYINGS = {
    "colour": ("the {s} is {v}", "the colour of the {s} is {v}", "the {s} is not {v}"),
    "place": ("{s} is in the {v}", "you can find {s} in the {v}", "{s} is not in the {v}"),
    "count": ("{s} has {v} keys", "the number of keys of {s} is {v}", "{s} does not have {v} keys"),
}
Fact = tuple[str, str, str]


@text_renderer(
    "entailment",
    fields=("premise", "hypothesis"),
    kinds=("entailment", "neutral", "contradiction"),
)
def entailment(kind: str, rng: Rng) -> dict[str, str]:
    """Two facts, and a statement that one of them implies, contradicts, or says nothing of."""
    return facts(kind, TASKS, rng)


def facts(kind: str, words: Words, rng: Rng) -> dict[str, str]:
    """Two facts about different subjects, and a statement about one of these, or about a third.

    A fact is the colour of a thing, the place of a person, or how many keys a person has. The
    statement denies where it says `not`.
    """
    first = _fact(words, rng, but=())
    second = _fact(words, rng, but=first[1:])
    premise = " and ".join(SAYINGS[w][0].format(s=s, v=v) for w, s, v in (first, second))
    what, subject, value = _fact(words, rng, but=(first[1], second[1]))
    denied = bool(rng.integers(2))
    if kind != "neutral":
        what, subject, value = (first, second)[rng.integers(2)]
        if (kind == "entailment") == denied:
            value = pick(rng, _values(what, words), but=(value,))
    form = 2 if denied else rng.integers(2)
    return {"premise": premise, "hypothesis": SAYINGS[what][form].format(s=subject, v=value)}


def _fact(words: Words, rng: Rng, but: tuple[str, ...]) -> Fact:
    what = pick(rng, tuple(SAYINGS))
    subject = pick(rng, words.things if what == "colour" else words.names, but)
    return what, subject, pick(rng, _values(what, words), but)


def _values(what: str, words: Words) -> tuple[str, ...]:
    return {"colour": COLOURS, "place": words.places, "count": NUMBERS}[what]
