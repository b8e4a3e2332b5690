"""The architecture behind a checkpoint: given, of the base, in a config.json, or by its shapes."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mergeloom.errors import MergeloomError
from mergeloom.models.clip import TOWER, model_config
from mergeloom.models.formats.names import PROJECTION
from mergeloom.models.torchvision_cure import cure_torchvision

RECORD = "mergeloom"  # of provenance, in the header of a file
ACTIVATIONS = {"quick_gelu": True, "gelu": False}  # transformers' names
PLAIN = {"image_size", "patch_size", "width", "layers", "head_width", "mlp_ratio"}


@dataclass(frozen=True)
class Vision:
    """CLIP's vision transformer: its sizes, and whether its activation is QuickGELU.

    features : size of the projection's output.
    quick_gelu : None where nothing says it.
    """

    image_size: int
    patch_size: int
    width: int
    layers: int
    heads: int
    hidden: int
    features: int
    quick_gelu: bool | None

    def architecture(self) -> dict[str, Any]:
        """As an encoder's preset has it, but for the text tower, of which nothing is said."""
        return {
            "embed_dim": self.features,
            "vision_cfg": {
                "image_size": self.image_size,
                "patch_size": self.patch_size,
                "width": self.width,
                "layers": self.layers,
                "head_width": self.width // self.heads,
                "mlp_ratio": self.hidden / self.width,
            },
            "text_cfg": {},
            "quick_gelu": bool(self.quick_gelu),
        }


def vision_of(architecture: Mapping[str, Any]) -> Vision:
    """The vision transformer of an architecture.

    Raises
    ------
    MergeloomError
        If its image tower is another kind of network, or has parts that CLIP's own has not.
    """
    config = model_config(architecture)
    vision = config["vision_cfg"]
    other = sorted(set(vision) - PLAIN)
    if other or not isinstance(vision.get("layers", 12), int):
        raise MergeloomError(
            f"its image tower is not CLIP's vision transformer: the architecture sets "
            f"{', '.join(other) or 'layers of several stages'}. Only those of CLIP are converted."
        )
    width = vision.get("width", 768)
    return Vision(
        image_size=vision.get("image_size", 224),
        patch_size=vision.get("patch_size", 16),
        width=width,
        layers=vision.get("layers", 12),
        heads=width // vision.get("head_width", 64),
        hidden=int(width * vision.get("mlp_ratio", 4.0)),
        features=config["embed_dim"],
        quick_gelu=bool(config.get("quick_gelu", False)),
    )


def vision_of_config(config: Mapping[str, Any]) -> Vision:
    """The vision transformer of a transformers config.json (clip, or clip_vision_model).

    Raises
    ------
    MergeloomError
        If it is of another kind of model, or sets what open_clip's CLIP has not.
    """
    cure_torchvision()
    from transformers import CLIPConfig, CLIPVisionConfig

    kind = config.get("model_type")
    vision: Any
    features: Any
    if kind == "clip":
        whole = CLIPConfig.from_dict(dict(config))
        vision, features = whole.vision_config, whole.projection_dim
    elif kind == "clip_vision_model":
        vision = CLIPVisionConfig.from_dict(dict(config))
        features = vision.projection_dim
    else:
        raise MergeloomError(
            f"its config.json has the model_type {kind!r}, expected clip or clip_vision_model."
        )
    if vision.hidden_act not in ACTIVATIONS or vision.layer_norm_eps != 1e-5:
        raise MergeloomError(
            f"its config.json sets hidden_act {vision.hidden_act!r} and layer_norm_eps "
            f"{vision.layer_norm_eps}; open_clip's CLIP has quick_gelu or gelu, and 1e-05."
        )
    return Vision(
        image_size=vision.image_size,
        patch_size=vision.patch_size,
        width=vision.hidden_size,
        layers=vision.num_hidden_layers,
        heads=vision.num_attention_heads,
        hidden=vision.intermediate_size,
        features=features,
        quick_gelu=ACTIVATIONS[vision.hidden_act],
    )


def architecture_of_record(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """The architecture that the workflow wrote into a file's header, if it did."""
    try:
        found = json.loads(metadata[RECORD])["params"]["encoder"]["architecture"]
    except (KeyError, TypeError, ValueError):
        return None
    return dict(found) if isinstance(found, Mapping) else None


def vision_of_shapes(shapes: Mapping[str, tuple[int, ...]]) -> Vision:
    """The one of open_clip's published vision transformers whose tensors have these shapes.

    The shapes do not say the activation, nor the number of heads, which is that of the published
    model.

    Raises
    ------
    MergeloomError
        If there is none, or if two differ in heads.
    """
    cure_torchvision()
    import open_clip

    for needed in ("conv1.weight", "positional_embedding"):
        if TOWER + needed not in shapes:
            raise MergeloomError(f"has no {TOWER}{needed}: it is no vision transformer of CLIP.")
    width, _, patch, _ = shapes[TOWER + "conv1.weight"]
    grid = math.isqrt(shapes[TOWER + "positional_embedding"][0] - 1)
    features = shapes[PROJECTION][1]
    layers = sum(key.endswith("attn.in_proj_weight") for key in shapes)
    hidden = shapes.get(f"{TOWER}transformer.resblocks.0.mlp.c_fc.bias", (0,))[0]
    seen = (width, patch, grid, layers, hidden, features)
    found = set()
    for name in open_clip.list_models():
        config = open_clip.get_model_config(name)
        try:
            known = vision_of({"open_clip": name}) if "width" in config["vision_cfg"] else None
        except MergeloomError:  # no plain CLIP
            continue
        if known and seen == (
            known.width, known.patch_size, known.image_size // known.patch_size, known.layers,
            known.hidden, known.features,
        ):  # fmt: skip
            found.add((known.image_size, known.heads))
    if len(found) != 1:
        raise MergeloomError(
            f"its architecture is {'not clear' if found else 'none of those known'} by its shapes "
            f"(width {width}, {layers} layers, patches of {patch}, {grid} × {grid} of them, "
            f"features of {features}). Name it by --encoder."
        )
    image_size, heads = found.pop()
    return Vision(image_size, patch, width, layers, heads, hidden, features, quick_gelu=None)


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Shapes by name."""
    return {key: tuple(tensor.shape) for key, tensor in tensors.items()}


def check_same(vision: Vision, known: Vision, what: str) -> None:
    """Compare a checkpoint's own config with the encoder that it is to be one of.

    Raises
    ------
    MergeloomError
        Names what differs, first of all QuickGELU.
    """
    if vision.quick_gelu is not None and vision.quick_gelu != known.quick_gelu:
        has = {True: "QuickGELU", False: "GELU"}
        raise MergeloomError(
            f"{what}: was trained with {has[bool(vision.quick_gelu)]}, but the encoder has "
            f"{has[bool(known.quick_gelu)]}: with another activation the weights load and lose "
            "accuracy. Take the architecture that ends in -quickgelu for the one, and the one "
            "that does not for the other."
        )
    for field in ("image_size", "patch_size", "width", "layers", "heads", "hidden", "features"):
        seen, expected = getattr(vision, field), getattr(known, field)
        if seen != expected:
            raise MergeloomError(
                f"{what}: its config has {field} {seen}, the encoder {expected}: it is a "
                "checkpoint of another encoder."
            )
