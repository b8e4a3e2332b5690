"""An adapter in a file: its state, and a sidecar in the header that says what it is of."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mergeloom.adaptive.adapter import Adapter
from mergeloom.adaptive.mixture import Mixture
from mergeloom.errors import MergeloomError
from mergeloom.io.tensors import TensorFile, write_tensors
from mergeloom.models.naming import places

SIDECAR, ADAPTATION = "sidecar", "adaptation"  # fields of the header, JSON
BY_DEPTH = "by_relative_depth"
# Fields of the sidecar that must be the target's, too, with what to do where they are not.
SHARED = {
    "method": "Adapt with this adapter's own preset.",
    "parameters": "Adapt again: the preset has changed, or the state is of another one.",
    "tasks": "Its coefficients are in the order of these tasks: take a benchmark of the same tasks "
    "in the same order.",
    "K": "It has one coefficient for each expert: take as many experts.",
    "vectors": "It was adapted to other task vectors: take an adapter's preset with these.",
    "extractor": "It reads features of that extractor: name it in the adapter's preset.",
    "d": "It reads features of that size: extract them again with the same extractor.",
    "preprocessing": "It reads features of inputs prepared so: extract them again as they were.",
}
OWN = ("encoder", "experts", "benchmark")


@dataclass(frozen=True)
class Stored:
    """An adapter's file, read.

    adaptation : how it was adapted; None where it was not.
    """

    path: Path
    state: dict[str, Tensor]
    sidecar: dict[str, Any]
    adaptation: dict[str, Any] | None


def describe(
    mixture: Mixture,
    *,
    method: str,
    parameters: Mapping[str, Any],
    tasks: Sequence[str],
    vectors: str | None,
    features: Mapping[str, Any] | None,
    names: Mapping[str, str],
) -> dict[str, Any]:
    """The sidecar of an adapter: method and parameters, experts in their order, layers, features.

    Parameters
    ----------
    parameters : all of them.
    features : what made the features (`mergeloom.features.feature_file.describe_features`).
    names : `encoder`, `experts` and `benchmark`; there may be more.
    """
    about = features or {}
    found = {
        "method": method,
        "parameters": dict(parameters),
        "tasks": list(tasks),
        "K": mixture.size,
        "keys": mixture.keys,
        "vectors": vectors,
        "extractor": about.get("extractor"),
        "d": about.get("d"),
        "preprocessing": about.get("preprocessing"),
        **{name: names[name] for name in OWN},
    }
    located = places(mixture.family, {k: tuple(v.shape) for k, v in mixture.base.items()})
    found["places"] = {key: [located[key].depth, located[key].stack] for key in mixture.keys}
    as_read: dict[str, Any] = json.loads(json.dumps(found))
    return as_read


def write_state(
    path: str | Path,
    adapter: Adapter,
    sidecar: Mapping[str, Any],
    adaptation: Mapping[str, Any] | None,
    metadata: Mapping[str, str],
) -> None:
    """Write an adapter with its sidecar."""
    header = {**metadata, SIDECAR: json.dumps(sidecar, sort_keys=True)}
    header[ADAPTATION] = json.dumps(adaptation, sort_keys=True)
    tensors = {name: t.detach().cpu().contiguous() for name, t in adapter.state().items()}
    write_tensors(path, tensors, header)


def read_state(path: str | Path) -> Stored:
    """Read an adapter.

    Raises
    ------
    MergeloomError – the file is missing, or holds no adapter.
    """
    with TensorFile(path) as file:
        if SIDECAR not in file.metadata:
            raise MergeloomError(
                f"{path}: holds no adapter with a sidecar that says what it is of; adapt again"
            )
        return Stored(
            Path(path),
            {key: file.read(key) for key in file},
            json.loads(file.metadata[SIDECAR]),
            json.loads(file.metadata[ADAPTATION]),
        )


def load_state(
    adapter: Adapter, stored: Stored, target: Mapping[str, Any], source: str | None = None
) -> None:
    """Give an adapter a stored state, if it fits.

    Parameters
    ----------
    target : the sidecar that the adapter would have if it were adapted where it is used.
    source : the encoder that the state is of, where that is another one.

    Raises
    ------
    MergeloomError
        A field of the two sidecars differs (names it, and both values), or the state belongs to
        the layers of the encoder that it was adapted on.
    """
    found = stored.sidecar
    for field, remedy in SHARED.items():
        _agree(stored, target, field, remedy)
    if source is None:
        for field in (*OWN, "keys"):
            _agree(stored, target, field, "It was copied or renamed: delete it, and adapt again.")
        adapter.load(stored.state)
        return
    if found["encoder"] != source:
        raise MergeloomError(
            f"{stored.path}: encoder is {found['encoder']!r}, expected {source!r}: it was copied "
            "or renamed; delete it, and adapt again"
        )
    if not adapter.entry.portable:
        raise MergeloomError(
            f"{stored.path}: the state of {found['method']} belongs to the layers of {source}, and "
            f"serves no other encoder; adapt on {target['encoder']}"
        )
    state: Mapping[str, Tensor] = stored.state
    if found["parameters"].get("per") == "layer" and found["keys"] != target["keys"]:
        if found["parameters"].get("transfer") != BY_DEPTH:
            raise MergeloomError(
                f"{stored.path}: keys differ: it has coefficients of {len(found['keys'])} "
                f"parameters of {source}, and {target['encoder']} has {len(target['keys'])}. What "
                "is per layer serves its own encoder, what is per task any; with the parameter "
                f"`transfer: {BY_DEPTH}` layers are mapped by their relative depth."
            )
        state = adapter.relayered(state, by_relative_depth(found, target))
    adapter.load(state)


def _agree(stored: Stored, target: Mapping[str, Any], field: str, remedy: str) -> None:
    seen, wanted = stored.sidecar.get(field), target[field]
    if seen != wanted:
        raise MergeloomError(
            f"{stored.path}: {field} is {_shown(seen)}, but the target "
            f"{target['encoder']}/{target['experts']}/{target['benchmark']} has {_shown(wanted)}. "
            f"{remedy}"
        )


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 300 else f"{text[:300]}…"


def by_relative_depth(source: Mapping[str, Any], target: Mapping[str, Any]) -> list[int]:
    """For each parameter of a target the index of that of a source whose coefficients it takes.

    That is the one of the same place in a block (or, outside blocks, of the same name) at the
    nearest relative depth, the first of two that are as near.

    Parameters
    ----------
    source, target : sidecars.

    Raises
    ------
    MergeloomError – the source has no parameter of a place that the target has.
    """
    entries = [(key, *source["places"][key]) for key in source["keys"]]

    def nearest(key: str) -> int:
        depth, stack = target["places"][key]
        alike = [
            (abs(other_depth - depth), other_depth, index)
            for index, (other, other_depth, other_stack) in enumerate(entries)
            if (other == key if stack is None else other_stack == stack)
        ]
        if not alike:
            raise MergeloomError(
                f"keys differ: {source['encoder']} has no parameter of the place of {key} of "
                f"{target['encoder']}, so there are no coefficients to take over"
            )
        return min(alike)[2]

    return [nearest(key) for key in target["keys"]]
