"""Merge the task vectors of a benchmark into one, streaming parameter by parameter."""

from mergeloom.merging.engine import merge_files
from rule import job

with job(snakemake) as j:
    merge_files(
        base=j.input.base,
        task_vectors=j.input.task_vectors,
        method=j.params.method,
        parameters=j.params.parameters,
        svd=j.input.svd or None,
        out=j.output.merged,
        family=j.params.family,
        device=j.device,
        metadata=j.metadata(),
    )
