"""Grammatical or not: forms of words, agreement, and the order of words."""

from mergeloom.data.rendered_text.registry import Rng, text_renderer
from mergeloom.data.rendered_text.words import MOODS, TASKS, Words, listed, pick

# Verbs with their past, right and wrong; those without an object, and those with one.
ALONE = ("sleep slept sleeped", "run ran runned", "sing sang singed", "swim swam swimmed")
WITH_OBJECT = ("see saw seed", "take took taked", "find found finded", "hold held holded")
MANNERS = listed("quickly often again today")
PREPOSITIONS = listed("near behind beside")
SINGULAR, PLURAL = listed("this that every one"), listed("these those many several")
# From what a word alone shows to what depends on two words apart.
ERRORS = listed("form form twice missing determiner determiner order verb attracted")


@text_renderer("grammar", fields=("sentence",), kinds=("unacceptable", "acceptable"))
def grammar(kind: str, rng: Rng) -> dict[str, str]:
    """A clause that is right, or has one error."""
    return {"sentence": clause(kind == "acceptable", TASKS, rng)}


def clause(right: bool, words: Words, rng: Rng) -> str:
    """A clause; a wrong one has a past or a plural that is none, a determiner twice, no verb, a
    determiner that does not agree with its noun, an adjective behind its noun, or a verb that does
    not agree with its subject (perhaps with a noun between them).
    """
    error = "" if right else pick(rng, ERRORS)
    plural = bool(rng.integers(2))
    subject = _noun_phrase(plural, words.beings, rng, error)
    if error == "attracted" or rng.random() < 0.25:
        between = not plural if error == "attracted" else bool(rng.integers(2))
        subject += [pick(rng, PREPOSITIONS), *_noun_phrase(between, words.things, rng)]
    transitive = bool(rng.integers(2))
    here, past, wrong = listed(pick(rng, WITH_OBJECT if transitive else ALONE))
    agreeing = here + ("" if plural else "s")
    other = here + ("s" if plural else "")
    verb = {
        "form": [wrong],
        "missing": [],
        "verb": [other],
        "attracted": [other],
    }.get(error, [past if rng.random() < 0.4 else agreeing])
    rest = _noun_phrase(False, words.things, rng) if transitive else [pick(rng, MANNERS)]
    return " ".join([*subject, *verb, *rest])


def _noun_phrase(plural: bool, nouns: tuple[str, ...], rng: Rng, error: str = "") -> list[str]:
    noun = pick(rng, nouns) + ("s" if plural else "")
    if error == "determiner":
        determiner = pick(rng, SINGULAR if plural else PLURAL)
    else:
        determiner = pick(rng, ("the", *(PLURAL if plural else SINGULAR)))
    mood = [pick(rng, MOODS)] if error == "order" or rng.random() < 0.3 else []
    match error:
        case "twice":
            return [determiner, determiner, *mood, noun]
        case "order":
            return [determiner, noun, *mood]
    return [determiner, *mood, noun]
