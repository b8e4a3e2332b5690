"""Pretrain both towers of a small CLIP with the contrastive loss on distorted, captioned images."""

from pathlib import Path

from mergeloom.training.pretrain import pretrain
from rule import job

with job(snakemake) as j:
    paths = zip(j.input.images, j.input.classnames, j.input.templates, strict=True)
    pretrain(
        encoder=j.params.encoder,
        tasks=[(Path(images), Path(names), Path(templates)) for images, names, templates in paths],
        recipe=j.params.recipe,
        distortion=j.params.encoder["weights"]["pretrain"]["distortion"],
        seed=j.seed,
        device=j.device,
        out=Path(j.output.base),
        curve=Path(j.output.curve),
        fingerprint=j.fingerprint,
        metadata=j.metadata(),
    )
