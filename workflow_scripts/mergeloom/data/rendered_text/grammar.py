"""Grammatical or not: agreement, and the order of words."""

from mergeloom.data.rendered_text.registry import text_renderer
from mergeloom.data.rendered_text.words import MOODS, TASKS, Rng, Words, listed, pick

ALONE = listed("sleep run sing swim jump dance wait fall")
WITH_OBJECT = listed("see like take find need hold want bring")
MANNERS = listed("quickly slowly often again today loudly")
PREPOSITIONS = listed("near behind with beside")
SINGULAR, PLURAL = listed("this that every one"), listed("these those many several")
ERRORS = listed("verb attracted determiner adjective order missing")


@text_renderer("grammar", fields=("sentence",), kinds=("unacceptable", "acceptable"))
def grammar(kind: str, rng: Rng) -> dict[str, str]:
    """A clause that is right, or has one error."""
    return {"sentence": clause(kind == "acceptable", TASKS, rng)}


def clause(right: bool, words: Words, rng: Rng) -> str:
    """A clause; a wrong one has a verb that does not agree with its subject (perhaps with a noun
    between them), a determiner that does not agree with its noun, words out of order, or no verb.
    """
    error = "" if right else pick(rng, ERRORS)
    plural = bool(rng.integers(2))
    subject = _noun_phrase(plural, words.beings, rng, error)
    if error == "attracted" or rng.random() < 0.4:
        between = not plural if error == "attracted" else bool(rng.integers(2))
        subject += [pick(rng, PREPOSITIONS), *_noun_phrase(between, words.things, rng)]
    verb, *rest = _verb_phrase(plural != (error in ("verb", "attracted")), words, rng)
    match error:
        case "missing":
            return " ".join([*subject, *rest])
        case "order":
            return " ".join([*subject[:1], verb, *subject[1:], *rest])
    return " ".join([*subject, verb, *rest])


def _noun_phrase(plural: bool, nouns: tuple[str, ...], rng: Rng, error: str = "") -> list[str]:
    noun = pick(rng, nouns) + ("s" if plural else "")
    if error == "determiner":
        determiner = pick(rng, SINGULAR if plural else PLURAL)
    else:
        determiner = pick(rng, ("the", *(PLURAL if plural else SINGULAR)))
    if error == "adjective":
        return [determiner, noun, pick(rng, MOODS)]
    return [determiner, *([pick(rng, MOODS)] if rng.random() < 0.4 else []), noun]


def _verb_phrase(plural: bool, words: Words, rng: Rng) -> list[str]:
    ending = "" if plural else "s"
    match rng.integers(3):
        case 0:
            return [pick(rng, ALONE) + ending, pick(rng, MANNERS)]
        case 1:
            thing = _noun_phrase(bool(rng.integers(2)), words.things, rng)
            return [pick(rng, WITH_OBJECT) + ending, *thing]
    return ["are" if plural else "is", "in", "the", pick(rng, words.places)]
