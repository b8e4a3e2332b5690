"""Pretrain a small model of text on the answers of the tasks that its preset names."""

from pathlib import Path

from mergeloom.training.pretrain_text import pretrain_text
from rule import job

with job(snakemake) as j:
    pretrain_text(
        encoder=j.params.encoder,
        tasks=[(Path(t), Path(h)) for t, h in zip(j.input.train, j.input.heads, strict=True)],
        recipe=j.params.recipe,
        seed=j.seed,
        device=j.device,
        out=Path(j.output.base),
        curve=Path(j.output.curve),
        fingerprint=j.fingerprint,
        metadata=j.metadata(),
    )
