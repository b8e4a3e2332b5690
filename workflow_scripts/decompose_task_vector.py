"""Cache the singular values and leading vectors of a task vector's matrices, or of a sum's."""

from mergeloom.merging.task_vector import write_svd_cache
from rule import job

with job(snakemake) as j:
    write_svd_cache(
        task_vectors=list(j.input.task_vectors),
        out=j.output.svd,
        family=j.params.family,
        fraction=j.params.fraction,
        device=j.device,
        metadata=j.metadata(),
    )
