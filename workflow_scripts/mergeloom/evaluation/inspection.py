"""What a model predicted for what, and how sure it was, as JSON
(config/schema/inspection.schema.json)."""

from collections.abc import Mapping
from typing import Any

from mergeloom.io.jsonfile import read_json

SCHEMA = "mergeloom/inspection/1"


def inspection(
    *,
    names: Mapping[str, str],
    alpha: Mapping[str, Any] | None,
    tasks: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """An inspection as it is written to
    `results/{encoder}/{experts}/{benchmark}/confusion/{merger}.json`.

    Parameters
    ----------
    names : encoder, experts, benchmark, merger.
    tasks : what `mergeloom.evaluation.predictions.count_predictions` gives.
    """
    return {
        "schema": SCHEMA,
        **{key: names[key] for key in ("encoder", "experts", "benchmark", "merger")},
        "alpha": None if alpha is None else dict(alpha),
        "tasks": dict(tasks),
        "provenance": dict(provenance),
    }


def read_inspection(path: str) -> dict[str, Any]:
    """An inspection JSON; MergeloomError when it is none."""
    content: dict[str, Any] = read_json(path, SCHEMA)
    return content
