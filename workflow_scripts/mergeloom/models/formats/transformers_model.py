"""Image features by transformers' own CLIP classes, and their configuration."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mergeloom.errors import MergeloomError
from mergeloom.models.clip import TOWER
from mergeloom.models.formats.architecture import ACTIVATIONS, Vision, vision_of
from mergeloom.models.formats.lora import Adapter
from mergeloom.models.formats.names import (
    TRANSFORMERS_PROJECTION,
    transformers_names,
)
from mergeloom.models.torchvision_cure import cure_torchvision


def vision_config(vision: Vision) -> Any:
    """transformers' CLIPVisionConfig of a vision transformer."""
    cure_torchvision()
    from transformers import CLIPVisionConfig

    activation = next(name for name, quick in ACTIVATIONS.items() if quick == vision.quick_gelu)
    return CLIPVisionConfig(
        hidden_size=vision.width,
        intermediate_size=vision.hidden,
        projection_dim=vision.features,
        num_hidden_layers=vision.layers,
        num_attention_heads=vision.heads,
        image_size=vision.image_size,
        patch_size=vision.patch_size,
        hidden_act=activation,
    )


def features(
    config: Mapping[str, Any] | None,
    architecture: Mapping[str, Any],
    tower: Mapping[str, Tensor],
    base_projection: Tensor,
    projection: Tensor | None,
    images: Tensor,
) -> Tensor:
    """Features [n, d] of images [n, 3, s, s], by the class that the source was saved from.

    Parameters
    ----------
    config : the source's config.json; the architecture stands in for one that is not there.
    tower : the source's tensors by their names in CLIPVisionModel, without `vision_model.`.
    base_projection : [width, d], of the base, for a source that has none.
    projection : [d, width], the source's own, if it has one.
    """
    cure_torchvision()
    import transformers

    own: Any
    if config is None:
        own = vision_config(vision_of(architecture))
    elif config["model_type"] == "clip":
        whole = transformers.CLIPConfig.from_dict(dict(config))
        own = whole.vision_config
        own.projection_dim = whole.projection_dim
    else:
        own = transformers.CLIPVisionConfig.from_dict(dict(config))
    state = {f"vision_model.{key}": tensor for key, tensor in tower.items()}
    if projection is None:
        model = _load(transformers.CLIPVisionModel, own, state)
        with torch.no_grad():
            pooled: Tensor = model(images).pooler_output
            return pooled @ base_projection.to(torch.float32)
    state[TRANSFORMERS_PROJECTION] = projection
    model = _load(transformers.CLIPVisionModelWithProjection, own, state)
    with torch.no_grad():
        found: Tensor = model(images).image_embeds
    return found


def saved_features(folder: Path, images: Tensor) -> Tensor:
    """Features [n, d] of images [n, 3, s, s], by a folder that transformers loads, in float32."""
    cure_torchvision()
    from transformers import CLIPVisionModelWithProjection

    with _quiet():
        model = CLIPVisionModelWithProjection.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        found: Tensor = model.eval()(images).image_embeds
    return found


def adapted_features(
    architecture: Mapping[str, Any],
    base: Mapping[str, Tensor],
    adapter: Adapter,
    images: Tensor,
) -> Tensor:
    """Features [n, d] of the base with an adapter at work beside its layers, and not folded in."""
    cure_torchvision()
    from transformers import CLIPVisionModelWithProjection

    state = {k: t for key, tensor in base.items() for k, t in rename(key, tensor)}
    for name, tensor in adapter.replaced.items():
        inner = name == TRANSFORMERS_PROJECTION
        state[name if inner else f"vision_model.{name}"] = tensor
    model = _load(CLIPVisionModelWithProjection, vision_config(vision_of(architecture)), state)
    for name, change in adapter.changes.items():
        layer = model.get_submodule(_module(name))

        def beside(_: Any, inputs: Any, output: Tensor, change: Any = change) -> Tensor:
            low = inputs[0] @ change.a.to(torch.float32).T
            return output + change.scale * (low @ change.b.to(torch.float32).T)

        layer.register_forward_hook(beside)
    with torch.no_grad():
        found: Tensor = model(images).image_embeds
    return found


def _module(layer: str) -> str:
    return layer if layer == TRANSFORMERS_PROJECTION.rpartition(".")[0] else f"vision_model.{layer}"


def rename(key: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """transformers' tensors, with their names, of an open_clip one; none of the text tower's."""
    if not key.startswith(TOWER):
        return
    names = transformers_names(key)
    if names == (TRANSFORMERS_PROJECTION,):
        yield names[0], tensor.T
    else:
        yield from zip(names, tensor.chunk(len(names)), strict=True)


def _load(kind: Any, config: Any, state: Mapping[str, Tensor]) -> Any:
    wide = {key: tensor.to(torch.float32).contiguous() for key, tensor in state.items()}
    with _quiet():
        try:
            model, report = kind.from_pretrained(
                None, config=config, state_dict=wide, output_loading_info=True, dtype=torch.float32
            )
        except (RuntimeError, ValueError) as error:
            raise MergeloomError(f"does not fit transformers' {kind.__name__}: {error}") from None
    wrong = [f"{name} {sorted(map(str, report[name]))[:3]}" for name in report if report[name]]
    if wrong:
        raise MergeloomError(f"does not fit transformers' {kind.__name__}: {', '.join(wrong)}.")
    return model.eval()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' bars and reports: what is wrong becomes an error here."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
