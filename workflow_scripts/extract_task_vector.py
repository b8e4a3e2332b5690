"""Subtract the base from fine-tuned checkpoints, tensor by tensor."""

from mergeloom.merging.task_vector import write_task_vector
from rule import job

with job(snakemake) as j:
    for checkpoint, task_vector in zip(j.input.checkpoints, j.output, strict=True):
        write_task_vector(
            base=j.input.base,
            checkpoint=checkpoint,
            out=task_vector,
            family=j.params.family,
            metadata=j.metadata(of=[j.input.base, checkpoint]),
        )
