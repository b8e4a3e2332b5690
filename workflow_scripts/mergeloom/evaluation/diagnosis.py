"""What a merge did to its tasks, as JSON (config/schema/diagnosis.schema.json)."""

from collections.abc import Mapping, Sequence
from typing import Any

from mergeloom.io.jsonfile import read_json

SCHEMA = "mergeloom/diagnosis/1"


def diagnosis(
    *,
    encoder: str,
    experts: str,
    benchmark: str,
    merger: str,
    tasks: Sequence[str],
    measured: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """A diagnosis as it is written to
    `results/{encoder}/{experts}/{benchmark}/diagnosis/{merger}.json`.

    Parameters
    ----------
    measured : what `mergeloom.merging.diagnosis.diagnose` gives.
    """
    return {
        "schema": SCHEMA,
        "encoder": encoder,
        "experts": experts,
        "benchmark": benchmark,
        "merger": merger,
        "tasks": list(tasks),
        **measured,
        "provenance": dict(provenance),
    }


def read_diagnosis(path: str) -> dict[str, Any]:
    """A diagnosis JSON; MergeloomError when it is none."""
    content: dict[str, Any] = read_json(path, SCHEMA)
    return content
