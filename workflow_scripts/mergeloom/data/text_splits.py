"""Splits of a text task, compared text by text."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mergeloom.data.layout import SPLITS
from mergeloom.data.overlaps import compare_splits
from mergeloom.data.text_tables import read_table


def split_texts(
    tables: Mapping[str, Path],
    fields: Sequence[str],
    task: Mapping[str, Any],
    seed: int,
    allow_overlap: bool,
    title: str,
) -> dict[str, Any]:
    """Compare the splits of a text task, and choose those that validate where no split is for them.

    Examples are equal if all texts that the prompt names are, whatever their labels.

    Parameters
    ----------
    tables : of `train`, `test`, and perhaps `val`.
    fields : the columns that the prompt names.
    task : of its preset `answers`, perhaps `allow_empty`.

    Returns
    -------
    See `compare_splits`.
    """
    contents, places = {}, {}
    for split in (s for s in SPLITS if s in tables):
        columns = read_table(tables[split], str(tables[split]), fields, task)
        rows = zip(*(columns[field] for field in fields), strict=True)
        contents[split] = [hashlib.sha256(repr(row).encode()).digest() for row in rows]
        places[split] = [f"{tables[split].name}: row {row}" for row in range(len(contents[split]))]
    kind = ("texts", "word for word")
    return compare_splits(contents, places, kind, seed, allow_overlap, title)
