"""Which encoder a checkpoint is one of, and whether it is the base's."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from mergeloom.errors import MergeloomError
from mergeloom.io.tensors import TensorFile
from mergeloom.models.clip import TOWER
from mergeloom.models.family import Family, get_family
from mergeloom.models.formats.architecture import (
    Vision,
    architecture_of_record,
    check_same,
    shapes_of,
    vision_of,
    vision_of_config,
    vision_of_shapes,
)
from mergeloom.models.formats.names import PROJECTION
from mergeloom.models.formats.probe import PROBE, agrees, probe_images, tower_features
from mergeloom.models.formats.sources import Source

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Base:
    """A base's tensors by open_clip's names, mapped from its file, and its header."""

    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def read_base(path: Path) -> Base:
    """Open a base.

    Raises
    ------
    MergeloomError
        If it is no safetensors file with open_clip's `visual.*`.
    """
    with TensorFile(path) as file:
        tensors = {key: file[key] for key in file}
        if TOWER + "conv1.weight" not in tensors:
            raise MergeloomError(
                f"{path}: has no {TOWER}conv1.weight. A base holds open_clip's names; "
                "`mergeloom convert` makes one of a transformers folder."
            )
        return Base(path, tensors, file.metadata)


def family() -> Family:
    """The family of every format here."""
    return get_family("clip")


def encoder_of(source: Source, base: Base | None, given: Mapping[str, Any] | None) -> Vision:
    """The vision transformer of a checkpoint: the given one, else what base, config and shapes say.

    Its `quick_gelu` is None where only shapes were at hand.

    Raises
    ------
    MergeloomError
        If the checkpoint has other shapes than the base (names a tensor and both shapes), another
        config than the encoder, or if base and encoder differ in QuickGELU.
    """
    if base is not None:
        _check_shapes(source, base)
    known = given or (base and architecture_of_record(base.metadata))
    known = known or source.architecture
    shapes = {key: source.shape(key) for key in source.parts}
    own = None
    if source.config is not None:
        # The config of a model without projection need not say the size of one.
        own = replace(vision_of_config(source.config), features=shapes[PROJECTION][1])
    vision = vision_of(known) if known else own or vision_of_shapes(shapes)
    if own is not None:
        check_same(own, vision, str(source.path))
    return vision if base is None else _check_base(base, vision)


def _check_shapes(source: Source, base: Base) -> None:
    expected = {k: s for k, s in shapes_of(base.tensors).items() if k.startswith(TOWER)}
    for key in sorted(expected.keys() | source.parts.keys()):
        seen = list(source.shape(key)) if key in source.parts else "absent"
        there = list(expected[key]) if key in expected else "absent"
        if seen != there:
            raise MergeloomError(
                f"{source.path}: tensor {key} has the shape {seen}, but {there} in the base "
                f"{base.path}. It is a checkpoint of another encoder: name the base that it was "
                "fine-tuned from."
            )


def _check_base(base: Base, vision: Vision) -> Vision:
    """Compare the features that the base gives with those that its header holds."""
    if PROBE not in base.metadata:
        return vision
    images = probe_images(vision.image_size)
    weights = {key: t for key, t in base.tensors.items() if key.startswith(TOWER)}
    for quick in (True, False) if vision.quick_gelu is None else (vision.quick_gelu,):
        candidate = replace(vision, quick_gelu=quick)
        features = tower_features(family(), candidate.architecture(), weights, images)
        if agrees(base.metadata, features):
            return candidate
    other = replace(vision, quick_gelu=not vision.quick_gelu)
    if agrees(base.metadata, tower_features(family(), other.architecture(), weights, images)):
        raise MergeloomError(
            f"{base.path}: QuickGELU mismatch: the base's image features are those recorded in its "
            f"header {'with' if other.quick_gelu else 'without'} QuickGELU, and the encoder is "
            f"{'without' if other.quick_gelu else 'with'} it. Take the architecture whose name "
            f"{'ends' if other.quick_gelu else 'does not end'} in -quickgelu."
        )
    raise MergeloomError(
        f"{base.path}: gives other image features than those recorded in its header. The file was "
        "changed, or is of another architecture: fetch it again."
    )
