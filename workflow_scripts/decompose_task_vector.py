"""Cache singular values and leading singular vectors of every matrix of a task vector."""

from mergeloom.merging.task_vector import write_svd_cache
from rule import job

with job(snakemake) as j:
    write_svd_cache(
        task_vector=j.input.task_vector,
        out=j.output.svd,
        family=j.params.family,
        fraction=j.params.fraction,
        device=j.device,
        metadata=j.metadata(),
    )
