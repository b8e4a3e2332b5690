"""Measure what a merge did to its tasks: interference, alignment, angles, ranks, signs."""

from mergeloom.evaluation.diagnosis import diagnosis
from mergeloom.io.jsonfile import write_json
from mergeloom.merging.diagnosis import diagnose
from rule import job

with job(snakemake) as j:
    measured = diagnose(
        task_vectors=j.input.task_vectors,
        merged=j.input.merged,
        svd=j.input.svd,
        family=j.params.family,
        device=j.device,
        workers=j.params.threads,
    )
    content = diagnosis(
        **dict(j.wildcards.items()),
        tasks=j.params.tasks,
        measured=measured,
        provenance=j.provenance,
    )
    write_json(j.output.diagnosis, content)
