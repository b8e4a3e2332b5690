"""Collect Gram matrices of what the linear maps of a fine-tuned model are fed on a few images."""

from pathlib import Path

from mergeloom.merging.gram_file import write_grams
from mergeloom.statistics.examples import draw_examples
from rule import job

with job(snakemake) as j:
    write_grams(
        encoder=j.params.encoder,
        base=Path(j.input.base),
        task_vector=Path(j.input.task_vector),
        images=draw_examples(Path(j.input.images), j.params.examples, j.seed),
        device=j.device,
        batch_size=j.params.batch_size,
        out=Path(j.output.gram),
        metadata=j.metadata(),
    )
