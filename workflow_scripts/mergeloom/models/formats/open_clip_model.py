"""Image features by open_clip's own CLIP."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mergeloom.errors import MergeloomError
from mergeloom.models.clip import TOWER, model_config
from mergeloom.models.torchvision_cure import cure_torchvision


def features(
    architecture: Mapping[str, Any], tower: Mapping[str, Tensor], images: Tensor
) -> Tensor:
    """Features [n, d] of images [n, 3, s, s], by `CLIP.encode_image` with a source's weights.

    Parameters
    ----------
    tower : the `visual.*` tensors.

    Raises
    ------
    MergeloomError
        If they do not fit the architecture.
    """
    cure_torchvision()
    import open_clip

    with torch.device("meta"):
        model = open_clip.model.CLIP(**model_config(architecture))
    wide = {key: tensor.to(torch.float32) for key, tensor in tower.items()}
    try:
        result = model.load_state_dict(wide, strict=False, assign=True)
    except RuntimeError as error:
        raise MergeloomError(f"does not fit open_clip's CLIP: {error}") from None
    wrong = [*result.unexpected_keys, *(k for k in result.missing_keys if k.startswith(TOWER))]
    if wrong:
        raise MergeloomError(f"does not fit open_clip's CLIP: {', '.join(sorted(wrong)[:5])}.")
    with torch.no_grad():
        found: Tensor = model.eval().encode_image(images)
    return found


def saved_features(folder: Path, images: Tensor) -> Tensor:
    """Features [n, d] of images [n, 3, s, s], by a folder that open_clip loads, in float32."""
    cure_torchvision()
    import open_clip

    model = open_clip.create_model(f"local-dir:{folder}", precision="fp32")
    with torch.no_grad():
        found: Tensor = model.eval().encode_image(images)
    return found
