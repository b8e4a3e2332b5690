"""What follows from simple facts."""

from mergeloom.data.rendered_text.registry import Rng, text_renderer
from mergeloom.data.rendered_text.words import COLOURS, NUMBERS, TASKS, Words, pick

# What a fact says of its subject {s} with the value {v}, and how that is denied.
SAYINGS = {
    "colour": ("the {s} is {v}", "the {s} is not {v}"),
    "place": ("{s} is in the {v}", "{s} is not in the {v}"),
    "count": ("{s} has {v} keys", "{s} does not have {v} keys"),
}
# Of what no fact speaks.
UNSAID = ("{s} likes music", "{s} can swim", "{s} is older than me", "{s} knows the way")
# How often a statement denies, as people do it: mostly to contradict.
DENIED = {"entailment": 0.25, "neutral": 0.4, "contradiction": 0.6}
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
    """Two facts about different subjects, and a statement about one of these, or something else.

    A fact is the colour of a thing, the place of a person, or how many keys a person has.
    """
    first = _fact(words, rng, but=())
    second = _fact(words, rng, but=first[1:])
    premise = " and ".join(SAYINGS[w][0].format(s=s, v=v) for w, s, v in (first, second))
    if kind == "neutral" and rng.random() < 0.4:
        return {
            "premise": premise,
            "hypothesis": pick(rng, UNSAID).format(s=pick(rng, words.names)),
        }
    what, subject, value = _fact(words, rng, but=(first[1], second[1]))
    denied = rng.random() < DENIED[kind]
    if kind != "neutral":
        what, subject, value = (first, second)[rng.integers(2)]
        if (kind == "entailment") == denied:
            value = pick(rng, _values(what, words), but=(value,))
    return {"premise": premise, "hypothesis": SAYINGS[what][denied].format(s=subject, v=value)}


def _fact(words: Words, rng: Rng, but: tuple[str, ...]) -> Fact:
    what = pick(rng, tuple(SAYINGS))
    subject = pick(rng, words.things if what == "colour" else words.names, but)
    return what, subject, pick(rng, _values(what, words), but)


def _values(what: str, words: Words) -> tuple[str, ...]:
    return {"colour": COLOURS, "place": words.places, "count": NUMBERS}[what]
