"""Parquet tables that carry their provenance."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mergeloom.errors import MergeloomError
from mergeloom.io.atomic import atomic_path


def write_parquet(
    path: Path, columns: Mapping[str, Sequence[Any]], metadata: Mapping[str, str]
) -> None:
    """Write equally long columns as one table, atomically; `metadata` goes into its schema."""
    table = pa.table({name: list(values) for name, values in columns.items()})
    with atomic_path(path) as temporary:
        pq.write_table(table.replace_schema_metadata(dict(metadata)), temporary)


def read_parquet_metadata(path: Path) -> dict[str, str]:
    """The text metadata of a Parquet file."""
    try:
        found = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowInvalid) as error:
        raise MergeloomError(f"{path}: is no Parquet file: {error}") from error
    return {k.decode(): v.decode() for k, v in found.items() if k != b"ARROW:schema"}
