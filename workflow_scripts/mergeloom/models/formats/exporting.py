"""A model to a folder that transformers or open_clip loads by itself."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mergeloom.errors import MergeloomError
from mergeloom.io.atomic import atomic_path
from mergeloom.io.tensors import TensorWriter
from mergeloom.models.clip import TOWER, model_config
from mergeloom.models.formats import open_clip_model, transformers_model
from mergeloom.models.formats.architecture import Vision
from mergeloom.models.formats.card import Facts, model_card
from mergeloom.models.formats.encoder import Base, family
from mergeloom.models.formats.importing import called
from mergeloom.models.formats.probe import check_equal, probe_images, tower_features
from mergeloom.models.formats.sources import Source

OPENAI = {
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
}
TRANSFORMERS_FILES = ("config.json", "model.safetensors", "preprocessor_config.json", "README.md")
OPEN_CLIP_FILES = ("open_clip_config.json", "open_clip_model.safetensors", "README.md")


@dataclass(frozen=True)
class Export:
    """A model and what its folder says of it.

    vision : with the activation known.
    image : mean and std of the channels, as the encoder's preset has them.
    metadata : the record of provenance for the header.
    """

    source: Source
    vision: Vision
    facts: Facts
    metadata: Mapping[str, str]
    image: Mapping[str, Any]

    def __post_init__(self) -> None:
        if self.vision.quick_gelu is None:
            raise MergeloomError(
                f"{self.source.path}: its weights do not say whether the activation is QuickGELU, "
                "which the written config must. Name the architecture by --encoder, for OpenAI's "
                "CLIP one that ends in -quickgelu, or a base that mergeloom fetched."
            )


def write_transformers(export: Export, out: Path) -> None:
    """Write a folder for CLIPVisionModel(WithProjection).from_pretrained.

    It appears whole, after transformers has loaded it and given the tower's features.

    Raises
    ------
    MergeloomError
        If transformers' CLIP has no such parameters, a value is not finite, the features differ by
        more than 1e-5 of their norm, or the disk is full.
    """
    source = export.source
    layout: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
    for key in source.parts:
        empty = torch.empty(source.shape(key), dtype=source.dtype(key), device="meta")
        layout |= {n: (t.dtype, tuple(t.shape)) for n, t in transformers_model.rename(key, empty)}
    usage = (
        "from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection\n"
        "model = CLIPVisionModelWithProjection.from_pretrained(FOLDER)\n"
        "processor = CLIPImageProcessor.from_pretrained(FOLDER)"
    )
    with _folder(out) as folder:
        # Versions before 5 refuse a header that does not name the framework.
        header = {**export.metadata, "format": "pt"}
        with TensorWriter(folder / "model.safetensors", layout, header) as writer:
            for key in source.parts:
                for name, tensor in transformers_model.rename(key, source.read(key)):
                    writer.write(name, tensor)
        config = transformers_model.vision_config(export.vision)
        config.architectures = ["CLIPVisionModelWithProjection"]
        config.dtype = source.dtype(next(iter(source.parts)))
        config.save_pretrained(folder)
        _write(folder / "preprocessor_config.json", _preprocessor(export))
        (folder / "README.md").write_text(model_card(export.facts, "transformers", usage))
        images = probe_images(export.vision.image_size)
        _check(export, transformers_model.saved_features(folder, images), images)


def write_open_clip(export: Export, base: Base | None, text: Mapping[str, Any], out: Path) -> None:
    """Write a folder with the state dict of the whole CLIP, for open_clip.create_model.

    It appears whole, after open_clip has loaded it and given the tower's features.

    Parameters
    ----------
    base : the text tower is its, or else the source's own.
    text : `text_cfg` of the architecture.

    Raises
    ------
    MergeloomError
        If neither has a whole text tower, a value is not finite, the features differ by more than
        1e-5 of their norm, or the disk is full.
    """
    source = export.source
    architecture = {**export.vision.architecture(), "text_cfg": dict(text)}
    rest = _text_tower(source, base, architecture)
    layout = {key: (source.dtype(key), source.shape(key)) for key in source.parts}
    layout |= {key: (tensor.dtype, tuple(tensor.shape)) for key, tensor in rest.items()}
    usage = (
        'import open_clip\nmodel = open_clip.create_model("local-dir:FOLDER")\n'
        "# or, of a published architecture:\n"
        'model = open_clip.create_model(NAME, pretrained="FOLDER/open_clip_model.safetensors")'
    )
    with _folder(out) as folder:
        with TensorWriter(
            folder / "open_clip_model.safetensors", layout, export.metadata
        ) as writer:
            for key in source.parts:
                writer.write(key, source.read(key))
            for key, tensor in rest.items():
                writer.write(key, tensor)
        config = {
            "model_cfg": architecture,
            "preprocess_cfg": {
                "mean": list(export.image["mean"]),
                "std": list(export.image["std"]),
                "interpolation": "bicubic",
                "resize_mode": "shortest",
            },
        }
        _write(folder / "open_clip_config.json", config)
        (folder / "README.md").write_text(model_card(export.facts, "open_clip", usage))
        images = probe_images(export.vision.image_size)
        _check(export, open_clip_model.saved_features(folder, images), images)


def text_config(
    architecture: Mapping[str, Any] | None, base: Base | None, source: Source
) -> dict[str, Any]:
    """`text_cfg` of a given architecture, or by the shapes of the text tower's tensors.

    Heads are 64 wide, as in all published CLIPs.

    Raises
    ------
    MergeloomError
        If there is neither.
    """
    if architecture and model_config(architecture)["text_cfg"]:
        return dict(model_config(architecture)["text_cfg"])
    tensors = base.tensors if base else source.rest
    if "token_embedding.weight" not in tensors or "positional_embedding" not in tensors:
        raise MergeloomError(
            f"{source.path}: has no text tower, which an open_clip model needs: name the base by "
            "--base, whose text tower was not tuned."
        )
    size, width = tensors["token_embedding.weight"].shape
    layers = sum(
        key.startswith("transformer.") and key.endswith("attn.in_proj_weight") for key in tensors
    )
    return {
        "context_length": len(tensors["positional_embedding"]),
        "vocab_size": size,
        "width": width,
        "heads": max(width // 64, 1),
        "layers": layers,
    }


def _text_tower(
    source: Source, base: Base | None, architecture: Mapping[str, Any]
) -> dict[str, Tensor]:
    with torch.device("meta"):
        whole = family().build(architecture).state_dict()
    needed = {key: tuple(t.shape) for key, t in whole.items() if not key.startswith(TOWER)}
    tensors, where = (base.tensors, base.path) if base else (source.rest, source.path)
    for key, shape in needed.items():
        if key not in tensors or (tuple(tensors[key].shape) != shape and tensors[key].numel() != 1):
            seen = list(tensors[key].shape) if key in tensors else "absent"
            raise MergeloomError(
                f"{where}: tensor {key} is {seen}, the architecture's text tower has "
                f"{list(shape)}. Name a base with the whole text tower by --base."
            )
    return {key: tensors[key] for key in needed}


def _preprocessor(export: Export) -> dict[str, Any]:
    size = export.vision.image_size
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": size},
        "resample": 3,  # bicubic
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(export.image["mean"]),
        "image_std": list(export.image["std"]),
    }


def _check(export: Export, written: Tensor, images: Tensor) -> None:
    weights = {key: export.source.read(key) for key in export.source.parts}
    architecture = export.vision.architecture()
    own = tower_features(family(), architecture, weights, images)
    check_equal(written, own, str(export.source.path))


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


@contextmanager
def _folder(out: Path) -> Iterator[Path]:
    with atomic_path(out) as temporary, called(temporary, out):
        temporary.mkdir()
        yield temporary
