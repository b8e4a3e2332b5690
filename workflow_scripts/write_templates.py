"""Write the templates of a task's preset beside its shards."""

from pathlib import Path

from mergeloom.data.shards import write_lines
from rule import job

with job(snakemake) as j:
    write_lines(Path(j.output.templates), j.params.templates)
    j.write_sidecar(j.output.templates)
