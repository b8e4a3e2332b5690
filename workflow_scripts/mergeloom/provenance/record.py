"""The record of provenance that every artifact carries: what it was made from, and by what.

A record holds nothing that differs between two equal runs: no time, no user, and no absolute path
but those that the configuration itself names.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from mergeloom import __version__
from mergeloom.io.checksums import sha256
from mergeloom.io.roots import logical
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

    A job that downloads adds the field `downloads`, "repository@commit/file" -> SHA-256.

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
