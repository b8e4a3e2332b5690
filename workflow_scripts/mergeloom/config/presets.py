"""Presets and the configuration: YAML files, each checked against its JSON Schema.

A preset is a named entry of a file (`mergers.yaml`, `recipes.yaml`, ...) or a file of a folder
(`tasks/digits.yaml`). They are searched for in the folders that the configuration lists under
`presets`, so a suite or a test brings its own beside those that ship. Standard library, PyYAML and
jsonschema only: the workflow reads them at start.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from mergeloom.errors import MergeloomError

# libyaml's where PyYAML has it: every start of the workflow and of its jobs reads all presets.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

KINDS = ("tasks", "encoders", "benchmarks", "mergers", "recipes", "experts")


def read_yaml(path: Path) -> Any:
    """The content of a YAML file, or a MergeloomError that names the file and the line."""
    try:
        return yaml.load(path.read_text(), Loader=_LOADER)
    except FileNotFoundError:
        raise MergeloomError(f"{path}: no such file") from None
    except yaml.YAMLError as error:
        raise MergeloomError(f"{path}: not valid YAML: {error}") from None


def check(content: Any, schema: Mapping[str, Any], where: str) -> None:
    """Check `content` against a JSON Schema; an error says what is wrong and what is known."""
    error = best_match(Draft202012Validator(schema).iter_errors(content))
    if error is None:
        return
    place = ".".join(str(part) for part in error.absolute_path)
    place = f"{where}: {place}" if place else where
    if error.validator == "additionalProperties":
        known = sorted(error.schema.get("properties", {}))
        unknown = sorted(set(error.instance) - set(known))
        raise MergeloomError(
            f"{place}: unknown key {', '.join(map(repr, unknown))}; known keys: {', '.join(known)}"
        )
    raise MergeloomError(f"{place}: {error.message}")


def schema_named(folder: Path, name: str) -> dict[str, Any]:
    """The JSON Schema `{folder}/{name}.schema.json`."""
    schema: dict[str, Any] = json.loads((folder / f"{name}.schema.json").read_text())
    return schema


def load_presets(kind: str, folders: list[Path], schema: Mapping[str, Any]) -> dict[str, Any]:
    """All presets of one kind, by name.

    Parameters
    ----------
    kind : str – one of `KINDS`.
    folders : list of Path – where to look for `{kind}.yaml` and `{kind}/*.yaml`.
    schema : JSON Schema of one preset.

    Raises
    ------
    MergeloomError – a preset that its schema refuses, or a name that is defined twice.
    """
    presets: dict[str, Any] = {}
    origin: dict[str, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise MergeloomError(f"presets: {folder} is not a folder")
        entries: list[tuple[str, Any, Path]] = []
        single = folder / f"{kind}.yaml"
        if single.exists():
            content = read_yaml(single) or {}
            if not isinstance(content, dict):
                raise MergeloomError(f"{single}: expected a mapping of names to presets")
            entries += [(name, preset, single) for name, preset in content.items()]
        for path in sorted((folder / kind).glob("*.yaml")):
            entries.append((path.stem, read_yaml(path), path))
        for name, preset, path in entries:
            if name in presets:
                raise MergeloomError(f"{kind}: {name!r} is defined in {origin[name]} and in {path}")
            check(preset, schema, f"{path}: {name}" if path == single else str(path))
            presets[name], origin[name] = preset, path
    return presets


def choose(kind: str, presets: Mapping[str, Any], name: str) -> Any:
    """The preset called `name`, or an error that lists what exists."""
    if name not in presets:
        raise MergeloomError(
            f"unknown {kind.removesuffix('s')} {name!r}; "
            f"config has: {', '.join(sorted(presets)) or 'none'}"
        )
    return presets[name]
