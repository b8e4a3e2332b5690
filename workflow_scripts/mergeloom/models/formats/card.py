"""The model card of an exported model: what was merged, with what, from what."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mergeloom.io.checksums import sha256
from mergeloom.io.headers import read_header
from mergeloom.models.formats.architecture import RECORD


@dataclass(frozen=True)
class Expert:
    """A fine-tuned model that went into a merge.

    origin : the files that it was imported from, as repository@commit/file, if it was downloaded.
    """

    name: str
    sha256: str
    origin: str = ""


@dataclass(frozen=True)
class Facts:
    """What is known of a model.

    method : None for a model that was converted and not merged.
    base : name and SHA-256.
    source : name and SHA-256 of the converted file.
    """

    title: str
    method: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    modifiers: Sequence[Mapping[str, Any]] = ()
    alpha: str = ""
    experts: Sequence[Expert] = ()
    base: tuple[str, str] | None = None
    source: tuple[str, str] | None = None


def facts_of_merge(metadata: Mapping[str, str]) -> Facts | None:
    """What the header of a model that `mergeloom merge` wrote says; None of any other file."""
    try:
        record = json.loads(metadata[RECORD])
        params, inputs = record["params"], record["inputs"]
        return Facts(
            title=f"{params['method']} merge of {len(params['experts'])} models",
            method=params["method"],
            parameters=params["parameters"],
            modifiers=params["modifiers"],
            alpha=f"{params['alpha']:g}",
            experts=[Expert(name, inputs[name]) for name in params["experts"]],
            base=(params["base"], inputs[params["base"]]),
        )
    except (KeyError, TypeError, ValueError):
        return None


def expert(name: str, checkpoint: Path) -> Expert:
    """An expert by its checkpoint, whose header says where it was downloaded."""
    record = json.loads(read_header(checkpoint).metadata.get(RECORD, "{}"))
    downloads = sorted(record.get("downloads", {}))
    return Expert(name, sha256(checkpoint), ", ".join(f"`{file}`" for file in downloads))


def model_card(facts: Facts, library: str, usage: str) -> str:
    """The card as Markdown, with the hub's fields above it.

    Parameters
    ----------
    library : "transformers" or "open_clip", the hub's `library_name`.
    usage : Python that loads the model.
    """
    tags = ["clip", *(["merge", "model-merging"] if facts.method else [])]
    head = ["---", f"library_name: {library}", "tags:", *(f"- {tag}" for tag in tags), "---"]
    body = [f"# {facts.title}", ""]
    if facts.method:
        body += [
            "The image tower of a CLIP, merged from models that were fine-tuned on one task each.",
            "",
            f"- method: `{facts.method}`",
            f"- parameters: {_settings(facts.parameters)}",
            *(f"- modifier: `{name}`, {_settings(given or {})}"
              for entry in facts.modifiers for name, given in entry.items()),
            f"- alpha: {facts.alpha}",
        ]  # fmt: skip
    else:
        body.append("The image tower of a CLIP, converted.")
    for what, file in (("base", facts.base), ("source", facts.source)):
        body += [f"- {what}: {file[0]}, SHA-256 `{file[1]}`"] if file else []
    if facts.experts:
        body += ["", "| expert | SHA-256 | from |", "|---|---|---|"]
        body += [f"| {e.name} | `{e.sha256}` | {e.origin} |" for e in facts.experts]
    body += ["", "```python", usage.strip(), "```", ""]
    body += ["Made by mergeloom; the header of the weights holds the whole record.", ""]
    return "\n".join([*head, "", *body])


def _settings(parameters: Mapping[str, Any]) -> str:
    if not parameters:
        return "none"
    return ", ".join(f"`{name}={json.dumps(value)}`" for name, value in sorted(parameters.items()))
