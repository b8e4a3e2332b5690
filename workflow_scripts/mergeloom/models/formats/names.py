"""Names of the parameters of CLIP's image tower: transformers' and open_clip's.

transformers has q, k and v apart, open_clip stacks them, 3d × d, as torch's MultiheadAttention
does; the projection is transposed. No value is scaled: both multiply q by d_head^-½ on the way.
"""

import re
from collections.abc import Iterable, Mapping

from mergeloom.errors import MergeloomError
from mergeloom.models.clip import TOWER

PROJECTION = TOWER + "proj"
TRANSFORMERS_PROJECTION = "visual_projection.weight"
IGNORED = "embeddings.position_ids"  # an integer buffer that older versions of transformers wrote

_OUTSIDE = {
    "embeddings.class_embedding": "class_embedding",
    "embeddings.patch_embedding.weight": "conv1.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "pre_layrnorm": "ln_pre",  # so spelled
    "post_layernorm": "ln_post",
}
_INSIDE = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_LAYER = re.compile(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.(.+?)[._](weight|bias)")
_ATTENTION = re.compile(r"self_attn\.([qkv])_proj")


def prefix_of(keys: Iterable[str], sign: str) -> str | None:
    """What stands before `sign` in the keys that end with it; None if none does.

    Raises
    ------
    MergeloomError
        If several models are in the file.
    """
    found = sorted({key.removesuffix(sign) for key in keys if _ends(key, sign)})
    if len(found) > 1:
        raise MergeloomError(
            f"holds several image towers: {', '.join(repr(p + sign) for p in found)}. "
            "Save the one that is meant to a file of its own."
        )
    return found[0] if found else None


def _ends(key: str, sign: str) -> bool:
    return key == sign or key.endswith("." + sign)


def open_clip_place(key: str) -> tuple[str, int] | None:
    """Where a parameter of transformers' CLIPVisionModel goes, by its name without `vision_model.`.

    Returns
    -------
    open_clip's name and, of q, k and v, which third of its rows (0, 1, 2), else 0; None for a name
    that CLIPVisionModel does not have.
    """
    if key in _OUTSIDE:
        return TOWER + _OUTSIDE[key], 0
    stem, _, end = key.rpartition(".")
    if stem in _OUTSIDE and end in ("weight", "bias"):
        return f"{TOWER}{_OUTSIDE[stem]}.{end}", 0
    layer = _LAYER.fullmatch(key)
    if not layer:
        return None
    block = f"{TOWER}transformer.resblocks.{layer[1]}."
    if attention := _ATTENTION.fullmatch(layer[2]):
        return f"{block}attn.in_proj_{layer[3]}", "qkv".index(attention[1])
    return (f"{block}{_INSIDE[layer[2]]}.{layer[3]}", 0) if layer[2] in _INSIDE else None


def transformers_names(key: str) -> tuple[str, ...]:
    """transformers' names, with `vision_model.`, of an open_clip parameter; of in_proj q, k, v.

    `vision_model.` is what every version of transformers reads, and what CLIPVisionModel of
    version 5 leaves out when it writes.

    Raises
    ------
    MergeloomError
        If transformers' CLIP has no such parameter.
    """
    if key == PROJECTION:
        return (TRANSFORMERS_PROJECTION,)
    name = key.removeprefix(TOWER)
    if found := _BLOCK.fullmatch(name):
        layer = f"vision_model.encoder.layers.{found[1]}."
        if found[2] == "attn.in_proj":
            return tuple(f"{layer}self_attn.{part}_proj.{found[3]}" for part in "qkv")
        if found[2] in _INWARD:
            return (f"{layer}{_INWARD[found[2]]}.{found[3]}",)
    for candidate, end in ((name, ""), (name.rpartition(".")[0], "." + name.rpartition(".")[2])):
        if candidate in _OUTWARD:
            return (f"vision_model.{_OUTWARD[candidate]}{end}",)
    raise MergeloomError(f"transformers' CLIP has no parameter like {key}.")


def _inverse(names: Mapping[str, str]) -> dict[str, str]:
    return {theirs: ours for ours, theirs in names.items()}


_INWARD, _OUTWARD = _inverse(_INSIDE), _inverse(_OUTSIDE)
