"""Compare the splits of a task image by image, and choose its validation images."""

from pathlib import Path

from mergeloom.data.shards import read_lines
from mergeloom.data.splits import split_task
from mergeloom.io.jsonfile import write_json
from rule import job

with job(snakemake) as j:
    classnames = Path(j.input.classnames)
    splits = split_task(
        shards={split: [Path(p) for p in j.input[split]] for split in ("train", "val", "test")},
        classes=len(read_lines(classnames)),
        seed=j.seed,
        allow_overlap=j.params.allow_overlap,
        threads=j.threads,
        title=str(classnames.parent),
    )
    write_json(j.output.splits, {**splits, "provenance": j.provenance})
