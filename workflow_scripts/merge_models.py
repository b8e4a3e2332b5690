"""Merge the task vectors of a benchmark into one, streaming parameter by parameter."""

from mergeloom.merging.engine import merge_files, plan_merge
from rule import job

with job(snakemake) as j:
    merge_files(
        base=j.input.base,
        experts=j.input.task_vectors,
        merge=plan_merge(j.params.method, j.params.parameters, j.params.modifiers),
        out=j.output.merged,
        family=j.params.family,
        device=j.device,
        seed=j.seed,
        svd=j.input.svd or None,
        summed=next(iter(j.input.summed), None),
        fisher=j.input.fisher or None,
        gram=j.input.gram or None,
        metadata=j.metadata(),
    )
