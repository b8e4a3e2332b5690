"""How much two sentences say the same, from 0.0 to 5.0."""

from mergeloom.data.rendered_text.registry import Rng, text_renderer
from mergeloom.data.rendered_text.words import listed, pick

# Words of nearly the same meaning, for each of the five places of a sentence.
PLACES = (
    ("big large", "small little", "old ancient", "quick fast"),
    ("dog puppy", "cat kitten", "girl lass", "boy lad"),
    ("sees notices", "takes grabs", "likes loves", "finds discovers"),
    ("cup mug", "box crate", "bag sack", "coat jacket"),
    ("garden yard", "park meadow", "school college", "market shop"),
)
# What the primer compares: of each place two pairs, none of them above.
PRIMER_PLACES = (
    ("pretty handsome", "tiny minute"),
    ("king ruler", "bird parrot"),
    ("buys purchases", "hides conceals"),
    ("candle torch", "basket hamper"),
    ("village hamlet", "castle fortress"),
)
LEVELS = listed("0.0 0.5 1.0 1.5 2.0 2.5 3.0 3.5 4.0 4.5 5.0")


@text_renderer(
    "similarity",
    fields=("sentence1", "sentence2"),
    kinds=("0.0", "0.5", "1.0", "1.5", "2.0", "2.5", "3.0", "3.5", "4.0", "4.5", "5.0"),
)
def similarity(kind: str, rng: Rng) -> dict[str, str]:
    """Two sentences that are as similar as `kind` says."""
    return pair(float(kind), PLACES, rng)


def pair(score: float, places: tuple[tuple[str, ...], ...], rng: Rng) -> dict[str, str]:
    """Two sentences of five words each that count; equal words score 1, nearly equal ones 1/2.

    Parameters
    ----------
    score : a multiple of 1/2 from 0 to 5.
    places : for each of the five, pairs of words that are nearly equal.
    """
    halves = round(2 * score)
    # With h halves there are (halves - h) / 2 equal words, together at most five.
    near = [h for h in range(halves % 2, min(halves, 5) + 1, 2) if h + (halves - h) // 2 <= 5]
    h = near[rng.integers(len(near))]
    relations = ["near"] * h + ["equal"] * ((halves - h) // 2)
    relations += ["other"] * (len(places) - len(relations))
    sentences: tuple[list[str], list[str]] = ([], [])
    for place, index in zip(places, rng.permutation(len(places)), strict=True):
        chosen = pick(rng, place)
        words = [listed(chosen)[i] for i in rng.permutation(2)]
        other = listed(pick(rng, place, but=(chosen,)))[rng.integers(2)]
        second = {"near": words[1], "equal": words[0], "other": other}[relations[index]]
        for sentence, word in zip(sentences, (words[0], second), strict=True):
            sentence.append(word)
    first, second = ("the {} {} {} a {} in the {}".format(*words) for words in sentences)
    return {"sentence1": first, "sentence2": second}
