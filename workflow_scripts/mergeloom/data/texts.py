"""Splits of a text task as prompts, and as tokens in a file for each encoder."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mergeloom.data.answers import (
    ANY,
    answer_texts,
    answer_values,
    bare,
    check_apart,
    places_of,
)
from mergeloom.data.prompts import fields_of, prompted
from mergeloom.data.split_record import indices_of
from mergeloom.data.text_tables import LABEL, read_table
from mergeloom.data.tokenizer import encode, read_tokenizer
from mergeloom.errors import MergeloomError

log = logging.getLogger(__name__)
ANSWER_LENGTH = 64  # tokens of an answer at most


def answers_of(task: Mapping[str, Any], tables: Sequence[Path]) -> list[str]:
    """A task's answers in the order of labels.

    Parameters
    ----------
    task : its preset.
    tables : all its splits, of which `answers: any` takes what occurs; else they are not read.
    """
    if task["answers"] != ANY:
        return answer_texts(task["answers"])
    return sorted(
        {text for table in tables for text in read_table(table, str(table), (), task)[LABEL]}
    )


def read_prompts(
    table: Path,
    task: Mapping[str, Any],
    answers: Sequence[str],
    record: Path | None = None,
    split: str = "",
) -> tuple[list[str], np.ndarray]:
    """The prompts of a split, and the places of their labels among the answers, int64 [n].

    Parameters
    ----------
    record : which rows of train train and validate (`splits.json`); None where the table is all of
        the split.
    split : of the record.

    Raises
    ------
    MergeloomError – whatever `read_table` and `indices_of` refuse.
    """
    columns = read_table(table, str(table), fields_of(task["prompt"]), task)
    texts = list(prompted(task["prompt"], columns))
    labels = places_of(task["answers"], answers, columns[LABEL], str(table))
    indices = indices_of(record, split) if record else None
    if indices is None:
        return texts, labels
    return [texts[i] for i in indices], labels[indices]


def tokenize_split(
    texts: Sequence[str],
    labels: np.ndarray,
    tokenizer: Path,
    length: int,
    out: Path,
    metadata: Mapping[str, str],
) -> None:
    """Write `tokens` int32 [n, longest], at most `length`, and `labels` int64 [n].

    The header says under `cut` how many texts lose their end, where a prompt may ask its question.
    """
    import torch

    from mergeloom.io.tensors import write_tensors

    tokens, cut = encode(read_tokenizer(tokenizer), texts, length)
    if cut:
        log.warning(
            "%s: %d of %d texts are cut to %d tokens: give the encoder a larger text.length, or "
            "the task a prompt that asks before the text",
            out, cut, len(texts), length,
        )  # fmt: skip
    tensors = {"tokens": tokens, "labels": torch.from_numpy(labels)}
    write_tensors(out, tensors, {**metadata, "cut": str(cut)})


def write_answers(
    task: Mapping[str, Any],
    answers: Sequence[str],
    tokenizer: Path,
    out: Path,
    metadata: Mapping[str, str],
) -> None:
    """Write a task's answers as a model's head.

    `answers` int32 [classes, length], each with </s>, then padded; of numbers, `values` float64
    [classes]; `tokenizer` uint8, the tokenizer's file; in the header, `metric` of the preset.

    Raises
    ------
    MergeloomError – an answer that is too long; answers that are the same as they are read back.
    """
    import torch

    from mergeloom.io.tensors import write_tensors

    read = read_tokenizer(tokenizer)
    tokens, cut = encode(read, answers, ANSWER_LENGTH)
    if cut:
        raise MergeloomError(
            f"{out}: {cut} of {len(answers)} answers have more than {ANSWER_LENGTH} tokens, such "
            f"as {max(answers, key=len)[:60]!r}: shorten them"
        )
    if task["answers"] != ANY:  # those of any task train a model, and score none
        number = isinstance(task["answers"], Mapping)
        said = read.decode_batch(tokens.tolist(), skip_special_tokens=True)
        check_apart(answers, [bare(text, number) for text in said], str(out))
    tensors = {
        "answers": tokens,
        "tokenizer": torch.frombuffer(bytearray(tokenizer.read_bytes()), dtype=torch.uint8),
    }
    values = answer_values(task["answers"])
    if values is not None:
        tensors["values"] = torch.from_numpy(values)
    write_tensors(out, tensors, {**metadata, "metric": task.get("metric", "accuracy")})
