"""Build a task's zero-shot head from the text tower and the task's templates."""

from pathlib import Path

from mergeloom.data.shards import read_lines
from mergeloom.evaluation.head import build_head
from rule import job

with job(snakemake) as j:
    build_head(
        encoder=j.params.encoder,
        base=Path(j.input.base),
        classnames=read_lines(Path(j.input.classnames)),
        templates=read_lines(Path(j.input.templates)),
        device=j.device,
        out=Path(j.output.head),
        metadata=j.metadata(),
    )
