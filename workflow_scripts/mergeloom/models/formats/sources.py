"""A checkpoint at hand, whatever its format, as open_clip's `visual.*`.

Formats are told by content: by the names of the tensors and, beside them, config.json or
adapter_config.json. Tensors are looked at where they lie and read when they are converted.
"""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mergeloom.errors import MergeloomError
from mergeloom.io.jsonfile import read_json
from mergeloom.io.tensors import check_finite
from mergeloom.models.clip import TOWER
from mergeloom.models.formats import clip_lora, lora, open_clip_model, transformers_model
from mergeloom.models.formats.architecture import RECORD, architecture_of_record
from mergeloom.models.formats.files import (
    ADAPTER,
    CONFIG,
    OPEN_CLIP,
    file_of_weights,
    tensors_of,
)
from mergeloom.models.formats.names import (
    IGNORED,
    PROJECTION,
    TRANSFORMERS_PROJECTION,
    open_clip_place,
    prefix_of,
)
from mergeloom.models.formats.parts import Part

log = logging.getLogger(__name__)
TASK_VECTORS = ("extract_task_vector", "merge_models")  # rules whose files hold differences

Features = Callable[[Mapping[str, Any], Tensor], Tensor]


@dataclass
class Source:
    """A checkpoint as the image tower of open_clip's CLIP.

    Attributes
    ----------
    path : the file with the tensors.
    format : "transformers", "open_clip" or "peft".
    files : what was read, configuration included.
    parts : of every `visual.*` tensor those that it is stacked of.
    rest : the other tensors of an open_clip file: the text tower, or what is left of it.
    dropped : names of tensors that no target has a use for.
    config : of transformers' config.json, where there is one.
    architecture : that open_clip_config.json beside the file or the header names.
    metadata : of the header, where the file is safetensors.
    features : of images [n, 3, s, s], given the architecture, by a model of the source's own
        library; [n, d].
    """

    path: Path
    format: str
    files: list[Path]
    parts: dict[str, list[Part]]
    features: Features
    rest: dict[str, Tensor] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    config: dict[str, Any] | None = None
    architecture: dict[str, Any] | None = None
    metadata: dict[str, str] = field(default_factory=dict)

    def shape(self, key: str) -> tuple[int, ...]:
        """Of one of `parts`."""
        parts = self.parts[key]
        first = parts[0].weight.shape
        return (sum(len(part.weight) for part in parts), *first[1:]) if first else ()

    def dtype(self, key: str) -> torch.dtype:
        """Of one of `parts`."""
        return self.parts[key][0].weight.dtype

    def read(self, key: str) -> Tensor:
        """One of `parts`, in memory of its own.

        Raises
        ------
        MergeloomError
            If a value is NaN or infinite.
        """
        parts = [part.read() for part in self.parts[key]]
        tensor = torch.cat(parts) if len(parts) > 1 else parts[0].contiguous()
        check_finite(tensor, self.path, key)
        return tensor


def open_source(path: Path, base: Mapping[str, Tensor] | None) -> Source:
    """Recognise a file or folder, and map its names.

    Parameters
    ----------
    base : tensors of the base by open_clip's names: adapters are folded into it, and a source
        without a projection takes it from there.

    Raises
    ------
    MergeloomError
        For a file that is damaged or cut short, of a format that is not known, or that cannot be
        converted without a base.
    """
    path = file_of_weights(path)
    tensors, metadata = tensors_of(path)
    try:
        if any("lora_" in key for key in tensors) or (
            path.name.startswith("adapter_model.") and _beside(path, ADAPTER)
        ):
            return _open_adapter(path, tensors, base)
        prefix = prefix_of(tensors, TOWER + "conv1.weight")
        if prefix is not None:
            _refuse_task_vector(metadata)
            return _open_open_clip(path, tensors, metadata, prefix)
        prefix = prefix_of(tensors, "embeddings.patch_embedding.weight")
        if prefix is not None:
            return _open_transformers(path, tensors, metadata, prefix, base)
    except MergeloomError as error:
        raise MergeloomError(f"{path}: {error}") from None
    raise MergeloomError(
        f"{path}: holds no image tower of CLIP under the names of transformers or open_clip. Its "
        f"tensors are {', '.join(sorted(tensors)[:5])}, …"
    )


def _beside(path: Path, name: str) -> dict[str, Any] | None:
    file = path.with_name(name)
    return dict(read_json(file)) if file.is_file() else None


def _refuse_task_vector(metadata: Mapping[str, str]) -> None:
    try:
        rule = json.loads(metadata[RECORD])["rule"]
    except (KeyError, TypeError, ValueError):
        return
    if rule in TASK_VECTORS:
        raise MergeloomError(
            "holds a task vector, the difference to the base, and not a model. Of a merge of the "
            "workflow, ask snakemake for models/ENCODER/EXPERTS/exported/BENCHMARK/MERGER/"
            "transformers or …/open_clip."
        )


def source_of_tower(path: Path, tower: Mapping[str, Tensor]) -> Source:
    """Tensors `visual.*` at hand as a source; `path` is what messages name."""
    return Source(
        path=path,
        format="open_clip",
        files=[path],
        parts={key: [Part(tensor)] for key, tensor in tower.items()},
        features=lambda architecture, images: open_clip_model.features(architecture, tower, images),
    )


def _open_open_clip(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str], prefix: str
) -> Source:
    inner = {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
    source = source_of_tower(path, {k: t for k, t in inner.items() if k.startswith(TOWER)})
    source.rest = {key: tensor for key, tensor in inner.items() if not key.startswith(TOWER)}
    source.dropped = sorted(key for key in tensors if not key.startswith(prefix))
    source.metadata = metadata
    beside = (_beside(path, OPEN_CLIP) or {}).get("model_cfg")
    source.architecture = beside or architecture_of_record(metadata)
    if beside:
        source.files.append(path.with_name(OPEN_CLIP))
    return source


def _open_transformers(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: dict[str, str],
    prefix: str,
    base: Mapping[str, Tensor] | None,
) -> Source:
    config = _beside(path, CONFIG)
    # Beside `vision_model.`, where that is spelled, stands the projection.
    outer = prefix.removesuffix("vision_model.")
    tower = {
        key.removeprefix(prefix): tensor
        for key, tensor in tensors.items()
        if key.startswith(prefix) and not key.endswith(IGNORED)
    }
    projection = tensors.get(outer + TRANSFORMERS_PROJECTION)
    tower.pop(TRANSFORMERS_PROJECTION, None)
    parts: dict[str, list[Part]] = {}
    places = {key: open_clip_place(key) for key in tower}
    unknown = sorted(key for key, place in places.items() if place is None)
    if unknown:
        raise MergeloomError(
            f"has {prefix}{unknown[0]}, which transformers' CLIPVisionModel has not. It is a "
            "checkpoint of another kind of model."
        )
    for key in sorted(tower, key=lambda key: places[key] or ()):  # q before k before v
        place = places[key]
        assert place is not None
        parts.setdefault(place[0], []).append(Part(tower[key]))
    torn = [key for key, some in parts.items() if ".in_proj_" in key and len(some) != 3]
    if torn:
        raise MergeloomError(f"lacks q, k or v of {torn[0]}. The file is not complete.")
    parts[PROJECTION] = [Part(_projection(projection, base))]
    return Source(
        path=path,
        format="transformers",
        files=[path, *([path.with_name(CONFIG)] if config else [])],
        parts=parts,
        features=lambda architecture, images: transformers_model.features(
            config, architecture, tower, parts[PROJECTION][0].weight, projection, images
        ),
        dropped=sorted(
            key
            for key in tensors
            if key != outer + TRANSFORMERS_PROJECTION and key.removeprefix(prefix) not in tower
        ),
        config=config,
        metadata=metadata,
    )


def _projection(own: Tensor | None, base: Mapping[str, Tensor] | None) -> Tensor:
    if own is not None:
        return own.T
    if base is None or PROJECTION not in base:
        raise MergeloomError(
            "has no projection (it is a CLIPVisionModel), which is then the base's: name the base "
            "by --base."
        )
    return base[PROJECTION]


def _open_adapter(
    path: Path, tensors: Mapping[str, Tensor], base: Mapping[str, Tensor] | None
) -> Source:
    config = _beside(path, ADAPTER)
    if config is None:
        raise MergeloomError(
            f"holds a LoRA adapter, but {ADAPTER}, which says its scale, is not beside it. "
            "Put it there."
        )
    if base is None:
        raise MergeloomError("holds a LoRA adapter, which is folded into its base: name --base.")
    adapter = lora.read_adapter(tensors, config)
    return Source(
        path=path,
        format="peft",
        files=[path, path.with_name(ADAPTER)],
        parts=clip_lora.fold(adapter, base),
        features=lambda architecture, images: transformers_model.adapted_features(
            architecture, base, adapter, images
        ),
    )
