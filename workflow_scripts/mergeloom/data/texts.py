"""Splits of a text task: compared, as prompts, and as tokens in a file for each encoder."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mergeloom.data.answers import ANY, answer_texts, answer_values, places_of
from mergeloom.data.layout import SPLITS
from mergeloom.data.overlaps import compare_splits
from mergeloom.data.prompts import prompted
from mergeloom.data.split_record import indices_of
from mergeloom.data.text_tables import LABEL, read_table
from mergeloom.data.tokenizer import encode, read_tokenizer

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
    return sorted({text for table in tables for text in read_table(table, str(table), task)[LABEL]})


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
    columns = read_table(table, str(table), task)
    texts = list(prompted(task["prompt"], columns))
    labels = places_of(task["answers"], answers, columns[LABEL], str(table))
    indices = indices_of(record, split) if record else None
    if indices is None:
        return texts, labels
    return [texts[i] for i in indices], labels[indices]


def split_texts(
    tables: Mapping[str, Path], task: Mapping[str, Any], seed: int, allow_overlap: bool, title: str
) -> dict[str, Any]:
    """Compare the splits of a text task, and choose those that validate where no split is for them.

    Examples are equal if all texts that the prompt names are, whatever their labels.

    Parameters
    ----------
    tables : of `train`, `test`, and perhaps `val`.

    Returns
    -------
    See `compare_splits`.
    """
    contents, places = {}, {}
    for split in (s for s in SPLITS if s in tables):
        columns = read_table(tables[split], str(tables[split]), task)
        rows = zip(*(texts for field, texts in columns.items() if field != LABEL), strict=True)
        contents[split] = [hashlib.sha256(repr(row).encode()).digest() for row in rows]
        places[split] = [f"{tables[split].name}: row {row}" for row in range(len(contents[split]))]
    kind = ("texts", "word for word")
    return compare_splits(contents, places, kind, seed, allow_overlap, title)


def tokenize_split(
    texts: Sequence[str],
    labels: np.ndarray,
    tokenizer: Path,
    length: int,
    out: Path,
    metadata: Mapping[str, str],
) -> None:
    """Write `tokens` int32 [n, longest], at most `length`, and `labels` int64 [n]."""
    import torch

    from mergeloom.io.tensors import write_tensors

    tokens = encode(read_tokenizer(tokenizer), texts, length)
    write_tensors(out, {"tokens": tokens, "labels": torch.from_numpy(labels)}, metadata)


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
    """
    import torch

    from mergeloom.io.tensors import write_tensors

    tensors = {
        "answers": encode(read_tokenizer(tokenizer), answers, ANSWER_LENGTH),
        "tokenizer": torch.frombuffer(bytearray(tokenizer.read_bytes()), dtype=torch.uint8),
    }
    values = answer_values(task["answers"])
    if values is not None:
        tensors["values"] = torch.from_numpy(values)
    write_tensors(out, tensors, {**metadata, "metric": task.get("metric", "accuracy")})
