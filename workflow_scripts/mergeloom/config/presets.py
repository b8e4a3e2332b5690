"""Presets and the configuration: YAML files, each checked against its JSON Schema.

A preset is a named entry of a file (`mergers.yaml`, `recipes.yaml`, ...) or a file of a folder
(`tasks/digits.yaml`). They are searched for in the folders that the configuration lists under
`presets`, so a suite or a test brings its own beside those that ship. Standard library, PyYAML and
jsonschema only: the workflow reads them at start.
"""

import json
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError, best_match, relevance

from mergeloom.errors import MergeloomError

# libyaml's where PyYAML has it: every start of the workflow and of its jobs reads all presets.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

KINDS = (
    "tasks", "encoders", "benchmarks", "mergers", "recipes", "experts", "extractors", "conditions",
    "adapters", "adaptive",
)  # fmt: skip


class _Loader(_LOADER):
    """Refuses a key that stands twice in a mapping, of which YAML readers keep the last."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._checked: set[int] = set()

    def flatten_mapping(self, node: Any) -> None:
        # Once, before what is merged in (`<<: *defaults`) is written into the node: that may have
        # keys that stand here, too, and the node may itself be merged into another.
        if id(node) not in self._checked:
            self._checked.add(id(node))
            seen = set()
            for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        problem=f"the key {key.value!r} stands twice", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        super().flatten_mapping(node)


def read_yaml(path: Path) -> Any:
    """The content of a YAML file, or a MergeloomError that names the file and the line."""
    try:
        return yaml.load(path.read_text(), Loader=_Loader)
    except FileNotFoundError:
        raise MergeloomError(f"{path}: no such file") from None
    except yaml.YAMLError as error:
        raise MergeloomError(f"{path}: not valid YAML: {error}") from None


def check(content: Any, schema: Mapping[str, Any], where: str) -> None:
    """Check `content` against a JSON Schema; an error says what is wrong and what is known."""
    error = best_match(Draft202012Validator(schema).iter_errors(content))
    if error is None:
        return
    error = _narrowed(error)
    place = ".".join(str(part) for part in error.absolute_path)
    place = f"{where}: {place}" if place else where
    if error.validator == "additionalProperties":
        known = sorted(error.schema.get("properties", {}))
        unknown = sorted(set(error.instance) - set(known))
        raise MergeloomError(
            f"{place}: unknown key {', '.join(map(repr, unknown))}; known keys: {', '.join(known)}"
        )
    if error.validator == "uniqueItems":
        repeated = sorted({str(v) for v in error.instance if error.instance.count(v) > 1})
        raise MergeloomError(f"{place}: repeats {', '.join(repeated)}; give each value once")
    if error.validator == "oneOf":
        kinds = "; ".join(_kind(branch) for branch in error.schema["oneOf"])
        raise MergeloomError(f"{place}: is {error.instance!r}, expected exactly one of: {kinds}")
    if error.validator == "type" and _NUMBER.fullmatch(str(error.instance)):
        raise MergeloomError(
            f"{place}: {error.instance} is text in YAML, whose numbers with an exponent have a "
            "point and a sign: 1.0e-4"
        )
    raise MergeloomError(f"{place}: {error.message}")


def _kind(schema: Mapping[str, Any]) -> str:
    """What makes content be of a kind, in a few words."""
    if "required" in schema:
        return "keys " + ", ".join(schema["required"])
    return repr(schema["const"]) if "const" in schema else f"{schema.get('type', 'another')}"


# A number as people write it and YAML 1.1 takes it for text: 1e-4, 5.0e4.
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?[eE][+-]?[0-9]+")


# How much an error says that content is of another kind than a schema describes.
_FOREIGN = {"const": 2, "enum": 2, "not": 2, "type": 2, "additionalProperties": 1}


def _narrowed(error: ValidationError) -> ValidationError:
    """Of an error that content is of none of several kinds, what it lacks of the kind it is of.

    That is the kind that it fits but for what is missing or wrong in it; where two fit alike, the
    error stays as it is.
    """
    while error.validator == "oneOf" and error.context:
        kinds: dict[Any, list[ValidationError]] = {}
        for wrong in error.context:
            kinds.setdefault(wrong.schema_path[0], []).append(wrong)
        ranked = sorted(
            (_strangeness(error.instance, error.schema["oneOf"][kind], errors), kind)
            for kind, errors in kinds.items()
        )
        if len(ranked) > 1 and ranked[0][0] == ranked[1][0]:
            break
        chosen = max(kinds[ranked[0][1]], key=relevance)
        if not chosen.path and _FOREIGN.get(str(chosen.validator), 0) > 1:
            break
        error = chosen
    return error


def _strangeness(
    content: Any, kind: Mapping[str, Any], errors: list[ValidationError]
) -> tuple[int, int]:
    """How far content is from being of a kind: first by what no other value in it would mend."""
    content = content if isinstance(content, Mapping) else {}
    foreign = sum(_FOREIGN.get(str(error.validator), 0) for error in errors if not error.path)
    if "required" in kind and not any(key in content for key in kind["required"]):
        foreign += 2
    return foreign, len(errors)


def schema_named(folder: Path, name: str) -> dict[str, Any]:
    """The JSON Schema `{folder}/{name}.schema.json`; files that it refers to are put in place."""

    def resolve(part: dict[str, Any]) -> dict[str, Any]:
        other = str(part.get("$ref", ""))
        suffix = ".schema.json"
        return schema_named(folder, other.removesuffix(suffix)) if other.endswith(suffix) else part

    text = (folder / f"{name}.schema.json").read_text()
    schema: dict[str, Any] = json.loads(text, object_hook=resolve)
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


# What one is called where that is not the kind without its s.
_ONE = {"conditions": "sweep of conditions", "adaptive": "study of adapters"}


def choose(kind: str, presets: Mapping[str, Any], name: str) -> Any:
    """The preset called `name`, or an error that lists what exists."""
    if name not in presets:
        one = _ONE.get(kind, kind.removesuffix("s"))
        raise MergeloomError(
            f"unknown {one} {name!r}; config has: {', '.join(_listed(presets, name)) or 'none'}"
        )
    return presets[name]


# A sweep makes hundreds of names.
_FEW, _CLOSEST = 6, 3


def _listed(names: Iterable[str], wanted: str) -> list[str]:
    """Names in order; of many with the same beginning, how many, and those most like `wanted`."""
    beginnings: dict[str, list[str]] = {}
    for name in sorted(names):
        beginnings.setdefault(name.partition(".")[0], []).append(name)
    listed = []
    for beginning, found in beginnings.items():
        if len(found) <= _FEW:
            listed += found
            continue
        close = ", ".join(get_close_matches(wanted, found, n=_CLOSEST, cutoff=0.8))
        listed.append(f"{beginning}.… ({len(found)}{close and f', such as {close}'})")
    return listed
