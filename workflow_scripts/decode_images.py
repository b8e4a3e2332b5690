"""Decode the shards of some splits at an encoder's size, each into a memory-mapped file."""

from pathlib import Path

from mergeloom.data.decoded import decode
from mergeloom.data.shards import read_lines
from mergeloom.data.split_record import indices_of
from rule import job

with job(snakemake) as j:
    classes = len(read_lines(Path(j.input.classnames)))
    for split, out in j.output.items():
        decode(
            shards=[Path(path) for path in j.input[split]],
            classes=classes,
            size=j.params.size,
            out=Path(out),
            metadata=j.metadata(),
            indices=indices_of(Path(j.input.splits[0]), split) if j.input.splits else None,
            threads=j.threads,
        )
