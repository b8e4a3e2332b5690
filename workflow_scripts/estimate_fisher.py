"""Estimate the diagonal Fisher information of a fine-tuned model on a few training images."""

from pathlib import Path

from mergeloom.merging.fisher_file import write_fisher
from mergeloom.statistics.examples import draw_examples
from rule import job

with job(snakemake) as j:
    write_fisher(
        encoder=j.params.encoder,
        base=Path(j.input.base),
        task_vector=Path(j.input.task_vector),
        head=Path(j.input.head),
        images=draw_examples(Path(j.input.images), j.params.examples, j.seed),
        device=j.device,
        batch_size=j.params.batch_size,
        out=Path(j.output.fisher),
        metadata=j.metadata(),
    )
