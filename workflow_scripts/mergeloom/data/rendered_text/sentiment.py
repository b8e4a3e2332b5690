"""Positive or negative: reviews of one clause or two."""

from mergeloom.data.rendered_text.registry import Rng, text_renderer
from mergeloom.data.rendered_text.words import listed, pick

FILMS = listed("film story ending acting music scene plot actor")
MEALS = listed("meal soup bread service waiter coffee room view")
GOOD = listed("good great lovely brilliant charming perfect funny superb")
BAD = listed("bad awful boring terrible dull weak stupid horrible")
DEGREES = listed("very really rather so")
LIKED, DISLIKED = listed("loved enjoyed liked"), listed("hated disliked regretted")


@text_renderer("sentiment", fields=("review",), kinds=("negative", "positive"))
def sentiment(kind: str, rng: Rng) -> dict[str, str]:
    """A review of a film."""
    return {"review": review(kind == "positive", FILMS, rng)}


def review(positive: bool, subjects: tuple[str, ...], rng: Rng) -> str:
    """One clause, or two: those that `and` joins agree, of two others that after `but` decides, or
    that without `although`."""
    said = pick(rng, subjects)
    clause = _clause(positive, said, rng)
    form = rng.random()
    if form < 0.3:
        return clause
    other = _clause(positive == (form < 0.7), pick(rng, subjects, but=(said,)), rng)
    if form < 0.7:
        return f"{clause} and {other}"
    return f"{other} but {clause}" if form < 0.85 else f"{clause} although {other}"


def _clause(positive: bool, subject: str, rng: Rng) -> str:
    if rng.random() < 0.2:
        return f"i {pick(rng, LIKED if positive else DISLIKED)} the {subject}"
    if rng.random() < 0.2:
        return f"the {subject} was not {pick(rng, BAD if positive else GOOD)}"
    degree = f"{pick(rng, DEGREES)} " if rng.random() < 0.4 else ""
    return f"the {subject} was {degree}{pick(rng, GOOD if positive else BAD)}"
