"""Corrupt the decoded test images of a task."""

from pathlib import Path

from mergeloom.data.corruptions.registry import corrupt
from mergeloom.data.decoded import open_images, write_images
from rule import job

with job(snakemake) as j:
    clean = open_images(Path(j.input.test))
    images = (
        (corrupt(image.numpy(), j.params.corruption, j.params.severity, j.seed, index), int(label))
        for index, (image, label) in enumerate(zip(clean.images, clean.labels, strict=True))
    )
    write_images(
        Path(j.output.images), images, len(clean), j.params.size, j.metadata(), str(j.input.test)
    )
