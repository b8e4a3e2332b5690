"""Images in Parquet files, as the `datasets` library writes them, row by row."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mergeloom.data.shards import Sample
from mergeloom.errors import MergeloomError

ROWS = 16  # that are unpacked at a time


def read_table(
    path: Path, name: str, image: str = "image", label: str = "label"
) -> Iterator[Sample]:
    """Encoded images and labels of a Parquet file, in order, a row group in memory at a time.

    Parameters
    ----------
    name : what the file is called in messages.
    image : column of structs with a field `bytes` (what `datasets` writes), or of binaries.
    label : column of integers, booleans, or names.

    Raises
    ------
    MergeloomError – a file that is no Parquet file or is damaged, a column that is missing or of
    another type, a row without image or label.
    """
    with _open(path, name) as file:
        schema = file.schema_arrow
        missing = [column for column in (image, label) if column not in schema.names]
        if missing:
            raise MergeloomError(
                f"{name}: has no column {', '.join(map(repr, missing))}; it has: "
                f"{', '.join(schema.names)}. Name image and label in the preset's `columns`."
            )
        kind, packed = schema.field(image).type, pa.types.is_struct(schema.field(image).type)
        if kind.get_field_index("bytes") < 0 if packed else not _is_bytes(kind):
            raise MergeloomError(
                f"{name}: column {image!r} is {kind}; expected encoded images, as binary or as a "
                "struct with a field `bytes`"
            )
        labels = schema.field(label).type
        if not any(f(labels) for f in (pa.types.is_integer, pa.types.is_boolean, _is_text)):
            raise MergeloomError(
                f"{name}: column {label!r} is {labels}; expected whole numbers or class names"
            )
        row = 0
        try:
            for batch in _batches(file, [image, label]):
                cells = batch.column(image)
                contents = cells.field("bytes") if packed else cells
                for content, number in zip(contents, batch.column(label), strict=True):
                    where = f"{name}: row {row}"
                    if not content.is_valid or not number.is_valid:
                        empty = label if content.is_valid else image
                        raise MergeloomError(f"{where}: column {empty!r} is empty")
                    yield Sample(where, content.as_py(), number.as_py())
                    row += 1
        except (OSError, pa.ArrowException) as error:
            raise _damaged(path, name, error) from error


def class_names(path: Path, name: str, label: str = "label") -> list[str] | None:
    """Names of the labels, in their order, where `datasets` recorded them in the file."""
    with _open(path, name) as file:
        text = (file.schema_arrow.metadata or {}).get(b"huggingface", b"{}")
    try:
        feature: Any = json.loads(text)["info"]["features"][label]
        return [str(n) for n in feature["names"]] if feature["_type"] == "ClassLabel" else None
    except (ValueError, KeyError, TypeError):
        return None


def _batches(file: pq.ParquetFile, columns: list[str]) -> Iterator[pa.RecordBatch]:
    # Asked for all of them at once, it would join rows of several groups.
    for group in range(file.num_row_groups):
        yield from file.iter_batches(ROWS, [group], columns, use_threads=False)


def _open(path: Path, name: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, memory_map=True)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, name, error) from error


def _damaged(path: Path, name: str, error: Exception) -> MergeloomError:
    reason = " ".join(str(error).split())
    return MergeloomError(
        f"{name}: is no Parquet file, or is damaged ({reason}). If it should be one, delete "
        f"{path.resolve()} and run again."
    )


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
