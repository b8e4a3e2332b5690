"""The tree of what a file was made from, down to data and base weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.tree import Tree

from mergeloom.errors import MergeloomError
from mergeloom.io.checksums import sha256
from mergeloom.io.headers import read_header
from mergeloom.io.jsonfile import read_json
from mergeloom.io.roots import logical, physical
from mergeloom.provenance.record import KEY, SIDECAR


def trace(path: Path, roots: Mapping[str, str]) -> Tree:
    """The tree of a file: every node a file, its rule and parameters, and below it what it read
    and what was downloaded for it.

    A file that is gone, or is no longer the one that was read, is marked so, and nothing is claimed
    about what lies below it. A file that was shown before is not unfolded twice.

    Raises
    ------
    MergeloomError – when the file does not exist or carries no record.
    """
    if not path.exists():
        raise MergeloomError(f"{path}: no such file")
    if read_record(path) is None:
        raise MergeloomError(f"{path}: carries no record of provenance; mergeloom did not make it")
    name = logical(path, roots)
    tree = Tree(f"[bold]{name}[/bold]")
    _grow(tree, path, roots, shown={name})
    return tree


def _grow(tree: Tree, path: Path, roots: Mapping[str, str], shown: set[str]) -> None:
    content = read_record(path)
    if content is None:
        tree.label = f"{tree.label} [dim](given)[/dim]"
        return
    tree.label = f"{tree.label} [dim]{_summary(content)}[/dim]"
    for name, digest in content["inputs"].items():
        below = physical(name, roots)
        if not below.exists():
            tree.add(f"{name} [red]is gone[/red] [dim]sha256 {digest[:12]}[/dim]")
        elif sha256(below) != digest:
            tree.add(
                f"{name} [red]has changed since it was read[/red] [dim]was {digest[:12]}[/dim]"
            )
        elif name in shown:
            tree.add(f"{name} [dim](see above)[/dim]")
        else:
            shown.add(name)
            _grow(tree.add(f"{name} [dim]{digest[:12]}[/dim]"), below, roots, shown)
    for name, digest in content.get("downloads", {}).items():
        tree.add(f"{escape(name)} [dim](downloaded) sha256 {digest[:12]}[/dim]")


def _summary(content: Mapping[str, Any]) -> str:
    params = ", ".join(f"{key}={_short(value)}" for key, value in sorted(content["params"].items()))
    seed = f", seed {content['seed']}"
    return f"by {content['rule']} ({params}{seed}; code {content['code'][:8]})"


def _short(value: Any) -> str:
    text = str(value).replace("[", r"\[")
    return text if len(text) <= 60 else text[:57] + "..."


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
    elif path.suffix in (".png", ".svg"):
        from mergeloom.report.style import read_metadata

        text = read_metadata(path).get(KEY)
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
