"""The splits of a text task, from a data set of the hub or from files at hand."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mergeloom.data.text_tables import LABEL, Columns, read_table
from mergeloom.errors import MergeloomError


def read_tables(
    tables: Sequence[tuple[str, Path]], task: Mapping[str, Any], split: str, title: str
) -> Columns:
    """The tables of a split, one after the other; see `read_table`.

    Parameters
    ----------
    tables : each behind what it is called in messages.
    task : `fields` that its prompt names; of its preset `source`, `answers`, perhaps `allow_empty`.
    title : what the data are called in messages.

    Raises
    ------
    MergeloomError – whatever `read_table` refuses, and another number of rows than the preset's
    `counts` say.
    """
    source = task["source"]
    label = source.get("columns", {}).get("label", LABEL)
    columns: Columns = {}
    for name, path in tables:
        for field, cells in read_table(path, name, task["fields"], task, label).items():
            columns.setdefault(field, []).extend(cells)
    rows, wanted = len(columns[LABEL]), source.get("counts", {}).get(split)
    if wanted not in (None, rows):
        raise MergeloomError(
            f"{title}, {split}: has {rows} rows, but the preset's `counts` say {wanted}. Correct "
            "them, or `revision` or `files`."
        )
    return columns
