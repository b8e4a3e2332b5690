"""The answers of a text task: what its preset says, and which of them a row's label is.

`answers` of a preset is a list by label, numbers in a format (`{number: "{:.1f}", start, stop,
step}`), or `any`: then the labels are the answers' own texts, and the answers those that occur.
"""

import itertools
import numbers
import re
import string
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from mergeloom.errors import MergeloomError

ANY = "any"
Label = int | float | str
OUTER = string.whitespace + string.punctuation


def answer_texts(answers: Any) -> list[str]:
    """The answers in the order of labels.

    Raises
    ------
    MergeloomError – numbers that their format does not tell apart, or of which there are none;
    words that read the same, see `check_apart`.
    """
    if not isinstance(answers, Mapping):
        texts = [] if answers == ANY else list(answers)
        check_apart(texts, [bare(text) for text in texts], "answers")
        return texts
    form, start, stop, step = (answers[key] for key in ("number", "start", "stop", "step"))
    count = int((stop - start) / step + 1 + 1e-9)
    try:
        texts = [_written(form, round(start + i * step, 10)) for i in range(count)]
    except (ValueError, IndexError, KeyError) as error:
        raise MergeloomError(
            f"answers: {form!r} writes no number ({error}); a format is such as '{{:.1f}}', or "
            "'{:.0f}' of whole numbers"
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


def bare(text: str, number: bool = False) -> str:
    """A text as it is compared with an answer: without white space and punctuation around it.

    Parameters
    ----------
    number : whether the answers are numbers, which keep their sign and the point they begin with.
    """
    found = text.strip(OUTER)
    if number and found[:1].isdigit():
        before = re.search(r"[+-]?\.?$", text[: text.index(found)])
        return (before.group() if before else "") + found
    return found


def check_apart(answers: Sequence[str], read: Sequence[str], where: str) -> None:
    """Raise MergeloomError if two answers are the same as they are `read`, or one is nothing."""
    first: dict[str, str] = {}
    for answer, text in zip(answers, read, strict=True):
        if not text or text in first:
            same = f"reads the same as {first[text]!r}" if text else "reads as nothing"
            raise MergeloomError(
                f"{where}: {answer!r} {same}: white space and punctuation around an answer, and "
                "what the tokenizer has no tokens for, do not count. Word the answers so that they "
                "differ in more"
            )
        first[text] = answer


def places_of(
    answers: Any, texts: Sequence[str], labels: Sequence[Label], where: str
) -> np.ndarray:
    """Which of the answers each label is.

    Parameters
    ----------
    texts : the answers in their order.
    labels : of rows: places among the answers or their texts, the latter first; of numbers, the
        numbers, which are rounded as their format does. Numbers may be given as text. True and
        False are the answers of these names, in whatever case, if there are any, else 1 and 0.
    where : of what, for messages.

    Returns
    -------
    int64 [n].

    Raises
    ------
    MergeloomError – a label that is none of the answers; the message names its row.
    """
    place = {text: index for index, text in enumerate(texts)}
    named = {text.casefold(): text for text in texts}
    found = np.empty(len(labels), np.int64)
    for row, label in enumerate(labels):
        key: str | None = None
        value = _number(label)
        if isinstance(answers, Mapping):
            key = None if value is None else _written(answers["number"], value)
        elif isinstance(label, str) and label in place:
            key = label
        elif isinstance(label, bool) and str(label).casefold() in named:
            key = named[str(label).casefold()]
        elif value is not None and value in range(len(texts)):
            key = texts[int(value)]
        if key not in place:
            raise MergeloomError(
                f"{where}: row {row}: label {label!r} is none of the {len(texts)} answers "
                f"({', '.join(map(repr, _ends(texts)))}). A split whose labels are hidden, often "
                "-1, can neither train nor test; else correct `answers` in the preset."
            )
        found[row] = place[key]
    return found


def _written(form: str, value: float) -> str:
    """A number as an answer; one that rounds to zero has no sign.

    Raises
    ------
    ValueError, IndexError, KeyError – the format writes no number.
    """
    text = form.format(float(value))
    return form.format(0.0) if float(text) == 0 else text


def _number(label: object) -> float | None:
    """A label as a number; None if it is none."""
    if not isinstance(label, str | numbers.Real | Decimal):
        return None
    try:
        return float(label)
    except (ValueError, OverflowError):
        return None


def _ends(texts: Sequence[str]) -> list[str]:
    return list(texts) if len(texts) <= 6 else [*texts[:3], "…", texts[-1]]
