"""Positive or negative: reviews of one clause or two."""

from mergeloom.data.rendered_text.registry import text_renderer
from mergeloom.data.rendered_text.words import Rng, listed, pick

FILMS = listed("film story ending acting music scene plot dialogue actor script humour pace")
MEALS = listed("meal soup bread service waiter coffee dessert room view price staff breakfast")
GOOD = listed("good great lovely brilliant charming perfect funny warm clever superb fine pleasant")
BAD = listed("bad awful boring terrible dull weak cheap cold stupid poor horrible tedious")
DEGREES = listed("very really rather so")
LIKED, DISLIKED = listed("loved enjoyed liked"), listed("hated disliked regretted")


@text_renderer("sentiment", fields=("review",), kinds=("negative", "positive"))
def sentiment(kind: str, rng: Rng) -> dict[str, str]:
    """A review of a film."""
    return {"review": review(kind == "positive", FILMS, rng)}


def review(positive: bool, subjects: tuple[str, ...], rng: Rng) -> str:
    """One clause, or two of which one decides: that after `but`, that without `although`; two that
    `and` joins agree."""
    said = pick(rng, subjects)
    clause = _clause(positive, said, rng)
    other = pick(rng, subjects, but=(said,))
    match rng.integers(5):
        case 0:
            return clause
        case 1:
            return f"{clause} and {_clause(positive, other, rng)}"
        case 2:
            return f"{_clause(not positive, other, rng)} but {clause}"
        case 3:
            return f"although {_clause(not positive, other, rng)} , {clause}"
    return f"{clause} , although {_clause(not positive, other, rng)}"


def _clause(positive: bool, subject: str, rng: Rng) -> str:
    match rng.integers(4):
        case 0:
            return f"i {pick(rng, LIKED if positive else DISLIKED)} the {subject}"
        case 1:
            return f"the {subject} was not {pick(rng, BAD if positive else GOOD)}"
        case 2:
            degree = pick(rng, DEGREES)
            return f"the {subject} was {degree} {pick(rng, GOOD if positive else BAD)}"
    return f"the {subject} was {pick(rng, GOOD if positive else BAD)}"
