"""Fine-tune the image tower of an encoder on one task under its frozen zero-shot head."""

from pathlib import Path

from mergeloom.training.finetune import finetune
from rule import job

with job(snakemake) as j:
    finetune(
        encoder=j.params.encoder,
        base=Path(j.input.base),
        head=Path(j.input.head),
        train=Path(j.input.train),
        val=Path(j.input.val),
        recipe=j.params.recipe,
        seed=j.seed,
        device=j.device,
        batch_size=j.params.batch_size,
        out=Path(j.output.checkpoint),
        curve=Path(j.output.curve),
        fingerprint=j.fingerprint,
        title=f"{j.wildcards.task} ({j.wildcards.experts})",
        metadata=j.metadata(),
    )
