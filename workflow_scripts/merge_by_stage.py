"""Merge the task vectors of a benchmark stage by stage, while images pass the merged stages."""

from pathlib import Path

from mergeloom.merging.engine import merge_files, plan_merge
from mergeloom.statistics.examples import draw_examples
from mergeloom.statistics.propagation import Propagation
from rule import job

with job(snakemake) as j:
    merge_files(
        base=j.input.base,
        experts=j.input.task_vectors,
        merge=plan_merge(j.params.method, j.params.parameters, j.params.modifiers),
        out=j.output.merged,
        family=j.params.encoder["family"],
        device=j.device,
        propagation=Propagation(
            encoder=j.params.encoder,
            base=Path(j.input.base),
            images=[draw_examples(Path(p), j.params.examples, j.seed) for p in j.input.images],
            device=j.device,
            batch_size=j.params.batch_size,
        ),
        metadata=j.metadata(),
    )
