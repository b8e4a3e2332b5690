"""A checkpoint of any known format to the file that merging reads."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from mergeloom.errors import MergeloomError
from mergeloom.io.atomic import atomic_path
from mergeloom.io.tensors import TensorFile, TensorWriter
from mergeloom.models.formats.architecture import Vision
from mergeloom.models.formats.encoder import Base, encoder_of, family
from mergeloom.models.formats.probe import check_equal, probe_images, tower_features
from mergeloom.models.formats.sources import Source, open_source

log = logging.getLogger(__name__)


def open_checkpoint(
    path: Path, base: Base | None, architecture: Mapping[str, Any] | None
) -> tuple[Source, Vision]:
    """Open a checkpoint, say what it is, and check it against the base and the architecture.

    Raises
    ------
    MergeloomError
        See `open_source` and `encoder_of`.
    """
    source = open_source(path, base.tensors if base else None)
    vision = encoder_of(source, base, architecture)
    log.info(
        "%s: %s, a vision transformer of width %d, %d layers, patches of %d",
        source.path, source.format, vision.width, vision.layers, vision.patch_size,
    )  # fmt: skip
    return source, vision


def write_checkpoint(
    source: Source, vision: Vision, out: Path, metadata: Mapping[str, str]
) -> None:
    """Write a source as open_clip's `visual.*`, in its own types, tensor by tensor.

    What is written is read back, and gives the source model's image features on two seeded images,
    or nothing is written.

    Raises
    ------
    MergeloomError
        If a value is NaN or infinite, if the features differ by more than 1e-5 of their norm, or if
        the disk is full.
    """
    left_out = sorted([*source.rest, *source.dropped])
    if left_out:
        log.info(
            "%s: left out %d tensors that are not of the image tower: %s%s",
            source.path, len(left_out), ", ".join(left_out[:8]), ", …" if left_out[8:] else "",
        )  # fmt: skip
    layout = {key: (source.dtype(key), source.shape(key)) for key in source.parts}
    with atomic_path(out) as temporary, called(temporary, out):
        with TensorWriter(temporary, layout, metadata) as writer:
            for key in writer.keys:
                writer.write(key, source.read(key))
        check_conversion(source, vision, temporary)


def check_conversion(source: Source, vision: Vision, converted: Path) -> None:
    """Compare image features of a converted file with those of the source model."""
    # Where nothing says the activation, any will do: it is the same on both sides.
    architecture = replace(vision, quick_gelu=bool(vision.quick_gelu)).architecture()
    images = probe_images(vision.image_size)
    with TensorFile(converted) as file:
        weights = {key: file[key] for key in file}
    try:
        check_equal(
            tower_features(family(), architecture, weights, images),
            source.features(architecture, images),
            str(source.path),
        )
    except MergeloomError as error:
        text = str(error)
        named = text if text.startswith(str(source.path)) else f"{source.path}: {text}"
        raise MergeloomError(named) from None


@contextmanager
def called(temporary: Path, name: Path) -> Iterator[None]:
    """Errors about a temporary file name the one that it would have become."""
    try:
        yield
    except MergeloomError as error:
        raise MergeloomError(str(error).replace(str(temporary), str(name))) from error
