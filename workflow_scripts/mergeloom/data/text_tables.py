"""Tables of texts and labels: Parquet, CSV or TSV with a header, or a JSON object per line.

A cell of CSV that has a comma, a quote or a line break stands in double quotes. TSV has no quotes,
as GLUE's files have none: a cell ends at the next tab, a row at the end of its line.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from mergeloom.data.answers import ANY, answer_texts, places_of
from mergeloom.errors import MergeloomError
from mergeloom.io.parquet import write_parquet

SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl")
LABEL = "label"
Columns = dict[str, list[Any]]


def read_table(
    path: Path, name: str, fields: Sequence[str], task: Mapping[str, Any], label: str = LABEL
) -> Columns:
    """Columns of texts of a table, and the labels.

    Parameters
    ----------
    name : what the file is called in messages; its suffix says what it is.
    fields : the columns that a task's prompt names.
    task : of its preset `answers`, perhaps `allow_empty`.
    label : column of the labels, which CSV and TSV give as text (see `places_of`).

    Returns
    -------
    The columns of texts, each str [n], and "label" [n]: places among the answers, int; of answers
    that are numbers, the numbers, float; of any answers, the answers, str.

    Raises
    ------
    MergeloomError – a file that cannot be read, a column that is missing or is no text, a row
    without text or label, a label that is none of the answers, a table without rows.
    """
    table = _read(path, name, [*fields, label])
    missing = [column for column in (*fields, label) if column not in table.column_names]
    if missing:
        raise MergeloomError(
            f"{name}: has no column {', '.join(map(repr, missing))}; it has: "
            f"{', '.join(table.column_names)}. The preset's `prompt` names the columns of texts, "
            "and `source.columns.label` that of labels."
        )
    if not len(table):
        raise MergeloomError(f"{name}: has no rows")
    columns = {field: _texts(table, field, name, task) for field in fields}
    labels = table.column(label).to_pylist()
    for row, given in enumerate(labels):
        if given is None or given == "":
            raise MergeloomError(f"{name}: row {row}: column {label!r} is empty")
    return columns | {LABEL: _labels(labels, task["answers"], name)}


def write_table(
    path: Path, columns: Columns, task: Mapping[str, Any], metadata: Mapping[str, str]
) -> None:
    """Write a split with its labels as `read_table` gives them; `columns` may have them as text."""
    labels = _labels(columns[LABEL], task["answers"], str(path))
    write_parquet(path, columns | {LABEL: labels}, metadata)


def _labels(labels: Sequence[Any], answers: Any, name: str) -> list[Any]:
    if answers == ANY:
        for row, label in enumerate(labels):
            if not isinstance(label, str | int | float):
                raise MergeloomError(f"{name}: row {row}: label {label!r} is no text")
        return list(map(str, labels))
    places = places_of(answers, answer_texts(answers), labels, name)
    # As numbers they keep the digits that their format would drop.
    return list(map(float, labels)) if isinstance(answers, Mapping) else places.tolist()


def _texts(table: pa.Table, field: str, name: str, task: Mapping[str, Any]) -> list[str]:
    kind = table.column(field).type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise MergeloomError(f"{name}: column {field!r} is {kind}; expected texts")
    texts: list[str] = table.column(field).to_pylist()
    for row, text in enumerate(texts):
        if text is None or (not text.strip() and not task.get("allow_empty", False)):
            raise MergeloomError(
                f"{name}: row {row}: column {field!r} is empty. Take the row out, or, if a text "
                "may be empty, set `allow_empty: true` in the preset."
            )
    return texts


def _read(path: Path, name: str, columns: Sequence[str]) -> pa.Table:
    suffix = Path(name).suffix
    try:
        if suffix == ".parquet":
            return pyarrow.parquet.read_table(path, memory_map=True)
        if suffix in (".csv", ".tsv"):
            return pyarrow.csv.read_csv(
                path,
                parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True)
                if suffix == ".csv"
                else pyarrow.csv.ParseOptions(delimiter="\t", quote_char=False),
                # A text such as 42 or `null` is a text, and a label "01" or "true" no other one.
                convert_options=pyarrow.csv.ConvertOptions(
                    column_types=dict.fromkeys(columns, pa.string()), strings_can_be_null=False
                ),
            )
        if suffix == ".jsonl":
            return pyarrow.json.read_json(path)
    except FileNotFoundError:
        raise MergeloomError(f"{path}: no such file") from None
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise MergeloomError(
            f"{name}: is no {suffix[1:]} table, or is damaged ({reason}). If it should be one, "
            f"make or fetch {path.resolve()} again."
        ) from error
    raise MergeloomError(f"{name}: is none of {', '.join(SUFFIXES)}, by its name")
