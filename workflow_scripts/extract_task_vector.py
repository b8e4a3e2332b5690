"""Subtract the base from a fine-tuned checkpoint, tensor by tensor."""

from mergeloom.merging.task_vector import write_task_vector
from rule import job

with job(snakemake) as j:
    write_task_vector(
        base=j.input.base,
        checkpoint=j.input.checkpoint,
        out=j.output.task_vector,
        family=j.params.family,
        metadata=j.metadata(),
    )
