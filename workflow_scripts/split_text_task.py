"""Compare the splits of a text task text by text, and choose its validation examples."""

from pathlib import Path

from mergeloom.data.text_splits import split_texts
from mergeloom.io.jsonfile import write_json
from rule import job

with job(snakemake) as j:
    splits = split_texts(
        tables={split: Path(path) for split, path in j.input.items() if path},
        fields=j.params.task["fields"],
        task=j.params.task,
        seed=j.seed,
        allow_overlap=j.params.allow_overlap,
        title=str(Path(j.input.train).parent),
    )
    write_json(j.output.splits, {**splits, "provenance": j.provenance})
