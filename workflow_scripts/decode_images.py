"""Decode the shards of a split at an encoder's resolution into one memory-mapped file."""

from pathlib import Path

from mergeloom.data.decoded import decode
from mergeloom.data.shards import read_lines
from rule import job

with job(snakemake) as j:
    decode(
        shards=[Path(path) for path in j.input.shards],
        classes=len(read_lines(Path(j.input.classnames))),
        size=j.params.size,
        out=Path(j.output.images),
        metadata=j.metadata(),
    )
