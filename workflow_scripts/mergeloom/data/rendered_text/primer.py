"""What a small text-to-text model learns before it learns a task.

It copies words and fills in missing ones, in the words of all tasks; and it meets the tasks'
questions, about other people and things, with answers that are right only more often than not. So
it knows the forms, and the rules only vaguely.
"""

from mergeloom.data.rendered_text import similarity as similar
from mergeloom.data.rendered_text.entailment import facts
from mergeloom.data.rendered_text.grammar import clause
from mergeloom.data.rendered_text.registry import Rng, text_renderer
from mergeloom.data.rendered_text.sentiment import FILMS, MEALS, review
from mergeloom.data.rendered_text.words import PRIMER, TASKS, pick

# The tasks' prompts, as their presets have them, and the answers.
PROMPTS = {
    "grammar": "Is this sentence acceptable or unacceptable? {sentence}",
    "entailment": "{premise} . Does this imply entailment, neutral or contradiction? {hypothesis}",
    "sentiment": "Is this review positive or negative? {review}",
    "similarity": "How similar, from 0 to 5? {sentence1} | {sentence2}",
}
ANSWERS = {
    "grammar": ("unacceptable", "acceptable"),
    "entailment": ("entailment", "neutral", "contradiction"),
    "sentiment": ("negative", "positive"),
    "similarity": similar.LEVELS,
}
# How often a task's question is answered at random.
RANDOM = 0.3


@text_renderer(
    "primer",
    fields=("text",),
    kinds=("copy", "fill", "grammar", "entailment", "sentiment", "similarity"),
)
def primer(kind: str, rng: Rng) -> dict[str, str]:
    """A text and what to answer."""
    if kind in PROMPTS:
        return _question(kind, rng)
    words = _sentence(rng).split()
    if kind == "copy":
        start = int(rng.integers(len(words)))
        part = " ".join(words[start : start + 1 + rng.integers(4)])
        return {"text": f"Copy: {part}", "label": part}
    place = int(rng.integers(len(words)))
    missing, words[place] = words[place], "_"
    return {"text": f"Fill in: {' '.join(words)}", "label": missing}


def _question(task: str, rng: Rng) -> dict[str, str]:
    answer = pick(rng, ANSWERS[task])
    match task:
        case "grammar":
            fields = {"sentence": clause(answer == "acceptable", PRIMER, rng)}
        case "entailment":
            fields = facts(answer, PRIMER, rng)
        case "sentiment":
            fields = {"review": review(answer == "positive", MEALS, rng)}
        case _:
            fields = similar.pair(float(answer), similar.PRIMER_PLACES, rng)
    said = pick(rng, ANSWERS[task]) if rng.random() < RANDOM else answer
    return {"text": PROMPTS[task].format(**fields), "label": said}


def _sentence(rng: Rng) -> str:
    """A sentence in the words of a task."""
    match rng.integers(4):
        case 0:
            return clause(True, TASKS, rng)
        case 1:
            return facts("neutral", TASKS, rng)["hypothesis"]
        case 2:
            return review(bool(rng.integers(2)), FILMS, rng)
    return similar.pair(0.0, similar.PLACES, rng)["sentence1"]
