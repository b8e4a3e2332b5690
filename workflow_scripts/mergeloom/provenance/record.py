"""The record of provenance that every artifact carries: what it was made from, and by what.

A record holds nothing that differs between two equal runs: no time, no absolute path, no user.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mergeloom import __version__
from mergeloom.config.roots import logical
from mergeloom.errors import MergeloomError
from mergeloom.io.checksums import sha256
from mergeloom.io.headers import read_header
from mergeloom.io.jsonfile import read_json
from mergeloom.provenance.environment import installed_versions

KEY = "mergeloom"  # of the record in a file's metadata
SIDECAR = ".provenance.json"  # beside a file (or in a folder) that cannot carry a record itself


def record(
    *,
    rule: str,
    inputs: list[str],
    params: Mapping[str, Any],
    code: str,
    packages: tuple[str, ...],
    device: str,
    seed: int,
    roots: Mapping[str, str],
) -> dict[str, Any]:
    """The record of a job.

    Parameters
    ----------
    inputs : files that the job reads; each is recorded by logical name and SHA-256.
    params : configuration values that the job uses.
    code : digest of the code that the job can run (`mergeloom.provenance.code`).
    packages : whose installed versions affect the numbers.
    """
    return {
        "rule": rule,
        "inputs": {logical(path, roots): sha256(path) for path in sorted(set(inputs))},
        "params": dict(params),
        "code": code,
        "versions": {"mergeloom": __version__, **installed_versions(packages)},
        "device": device,
        "seed": seed,
    }


def as_metadata(content: Mapping[str, Any]) -> dict[str, str]:
    """The record as the text metadata of a safetensors or Parquet file or of a figure."""
    return {KEY: json.dumps(content, sort_keys=True, ensure_ascii=False)}


def fingerprint(content: Mapping[str, Any]) -> str:
    """SHA-256 of a record: equal for two runs that must end in the same bytes."""
    return hashlib.sha256(as_metadata(content)[KEY].encode()).hexdigest()


def read_record(path: Path) -> dict[str, Any] | None:
    """The record that a file carries, or that lies beside it; None if there is none."""
    text: str | None = None
    if path.suffix == ".safetensors":
        text = read_header(path).metadata.get(KEY)
    elif path.suffix == ".parquet":
        from mergeloom.io.parquet import read_parquet_metadata

        text = read_parquet_metadata(path).get(KEY)
    elif path.suffix == ".json":
        content = read_json(path)
        if isinstance(content, dict) and "provenance" in content:
            found: dict[str, Any] = content["provenance"]
            return found
    elif path.suffix == ".png":
        from PIL import Image

        with Image.open(path) as image:
            text = image.info.get("Description")
    elif path.suffix == ".svg":
        import xml.etree.ElementTree as ElementTree

        namespace = "{http://purl.org/dc/elements/1.1/}"
        element = ElementTree.parse(path).find(f".//{namespace}description")
        text = element.text if element is not None else None
    if text is None:
        for beside in (
            path.with_name(path.name + SIDECAR),
            *(p / SIDECAR for p in path.parents[:2]),
        ):
            if beside.exists():
                beside_record: dict[str, Any] = read_json(beside)
                return beside_record
        return None
    try:
        parsed: dict[str, Any] = json.loads(text)
    except json.JSONDecodeError as error:
        raise MergeloomError(f"{path}: its record of provenance is damaged: {error}") from error
    return parsed
