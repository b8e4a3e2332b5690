"""Draw as many training images of every class as the smallest has, and what of them validates."""

from pathlib import Path

from mergeloom.data.balancing import balance_task
from mergeloom.data.shards import read_labels, read_lines
from mergeloom.io.jsonfile import read_json, write_json
from rule import job

with job(snakemake) as j:
    classes = read_lines(Path(j.input.classnames))
    record = balance_task(
        labels=read_labels([Path(path) for path in j.input.train], len(classes)),
        classnames=classes,
        splits=read_json(j.input.splits[0]) if j.input.splits else None,
        seed=j.seed,
        title=j.wildcards.task,
    )
    write_json(j.output.record, {**record, "provenance": j.provenance})
