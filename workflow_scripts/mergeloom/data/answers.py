"""The answers of a text task: what its preset says, and which of them a row's label is.

`answers` of a preset is a list by label, numbers in a format (`{number: "{:.1f}", start, stop,
step}`), or `any`: then the labels are the answers' own texts, and the answers those that occur.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mergeloom.errors import MergeloomError

ANY = "any"
Label = int | float | str


def answer_texts(answers: Any) -> list[str]:
    """The answers in the order of labels.

    Raises
    ------
    MergeloomError – numbers that their format does not tell apart, or of which there are none.
    """
    if not isinstance(answers, Mapping):
        return [] if answers == ANY else list(answers)
    form, start, stop, step = (answers[key] for key in ("number", "start", "stop", "step"))
    count = int((stop - start) / step + 1 + 1e-9)
    try:
        texts = [form.format(round(start + i * step, 10)) for i in range(count)]
        [float(text) for text in texts]
    except (ValueError, IndexError, KeyError) as error:
        raise MergeloomError(
            f"answers: {form!r} writes no number ({error}); a format is such as '{{:.1f}}'"
        ) from None
    if not texts:
        raise MergeloomError(f"answers: no number between {start} and {stop}")
    for before, after in itertools.pairwise(texts):
        if before == after:
            raise MergeloomError(
                f"answers: {form!r} writes {before} for two numbers {step} apart: give it more "
                "digits, or take a larger step"
            )
    return texts


def answer_values(answers: Any) -> np.ndarray | None:
    """The numbers that the answers are, float64 [classes]; None where they are words."""
    if not isinstance(answers, Mapping):
        return None
    return np.array([float(text) for text in answer_texts(answers)])


def places_of(
    answers: Any, texts: Sequence[str], labels: Sequence[Label], where: str
) -> np.ndarray:
    """Which of the answers each label is.

    Parameters
    ----------
    texts : the answers in their order.
    labels : of rows: places among the answers or their texts, the latter first; of numbers, the
        numbers, which are rounded as their format does. Numbers may be given as text.
    where : of what, for messages.

    Returns
    -------
    int64 [n].

    Raises
    ------
    MergeloomError – a label that is none of the answers; the message names its row.
    """
    place: dict[Label | None, int] = {text: index for index, text in enumerate(texts)}
    found = np.empty(len(labels), np.int64)
    for row, label in enumerate(labels):
        key = label
        if isinstance(answers, Mapping):
            key = _written(answers["number"], label)
        elif label not in place and (index := _whole(label)) in range(len(texts)):
            key = texts[index]
        if key not in place:
            raise MergeloomError(
                f"{where}: row {row}: label {label!r} is none of the {len(texts)} answers "
                f"({', '.join(map(repr, _ends(texts)))}). A split whose labels are hidden, often "
                "-1, can neither train nor test; else correct `answers` in the preset."
            )
        found[row] = place[key]
    return found


def _written(form: str, label: Label) -> Label:
    try:
        return form.format(float(label))
    except ValueError:
        return label


def _whole(label: Label) -> int:
    """A label as a place among the answers; -1 if it is none."""
    try:
        return int(label) if float(label) == int(float(label)) else -1
    except ValueError:
        return -1


def _ends(texts: Sequence[str]) -> list[str]:
    return list(texts) if len(texts) <= 6 else [*texts[:3], "…", texts[-1]]
