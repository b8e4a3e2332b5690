"""Zero-shot heads as files: `weight` float32 [classes, d], frozen ever after."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mergeloom.errors import MergeloomError
from mergeloom.io.tensors import TensorFile, write_tensors
from mergeloom.models.family import get_family


def build_head(
    *,
    encoder: Mapping[str, Any],
    base: Path,
    classnames: Sequence[str],
    templates: Sequence[str],
    device: str,
    out: Path,
    metadata: Mapping[str, str],
) -> None:
    """Build a task's head from the base's text tower and write it.

    Raises
    ------
    MergeloomError – a base of another architecture, or a head that is not finite.
    """
    family = get_family(encoder["family"])
    with TensorFile(base) as file:
        with torch.random.fork_rng(devices=[]):  # initial weights, overwritten at once
            model = family.build(encoder["architecture"])
        try:
            model.load_state_dict({key: file[key] for key in file})
        except RuntimeError as error:
            raise MergeloomError(
                f"{base}: is not of the encoder's architecture: {error}"
            ) from error
    weight = family.zero_shot_head(model.to(device), encoder["architecture"], classnames, templates)
    if not torch.isfinite(weight).all():
        raise MergeloomError(f"{base}: its text tower gives class embeddings that are not finite")
    write_tensors(out, {"weight": weight}, metadata)
