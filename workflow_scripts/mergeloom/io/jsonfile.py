"""JSON files: equal content, equal bytes."""

import json
import os
from typing import Any

from mergeloom.errors import MergeloomError
from mergeloom.io.atomic import atomic_path


def write_json(path: str | os.PathLike[str], obj: Any) -> None:
    """Write `obj` atomically, with sorted keys, indented by 2, and a newline at the end.

    Raises
    ------
    MergeloomError
        If `obj` holds a NaN or an infinite number, which JSON has no word for.
    """
    try:
        text = json.dumps(obj, sort_keys=True, indent=2, allow_nan=False, ensure_ascii=False)
    except ValueError as error:
        raise MergeloomError(
            f"{os.fspath(path)}: cannot be written, since a value in it is NaN or infinite "
            f"({error}). Look for a loss or a metric that diverged."
        ) from error
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: str | os.PathLike[str], schema: str | None = None) -> Any:
    """Read a JSON file.

    Parameters
    ----------
    schema : what its field `schema` must be.

    Raises
    ------
    MergeloomError
        If the file is missing, is not JSON (the message names the line), or is of another schema.
    """
    name = os.fspath(path)
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except FileNotFoundError as error:
        raise MergeloomError(
            f"{name}: no such file. Check the path, or build it with `snakemake {name}`."
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise MergeloomError(
            f"{name}: is not JSON ({error}). Delete it, and make it again."
        ) from error
    found = content.get("schema") if isinstance(content, dict) else None
    if schema and found != schema:
        raise MergeloomError(f"{name}: schema is {found!r}, expected {schema!r}")
    return content
