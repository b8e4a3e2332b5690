"""Fine-tune as `finetune_task` does, and keep the weights of more epochs than the last.

Where the collection's preset says how, the log-trace of the Fisher information on training images
is recorded after every epoch.
"""

from pathlib import Path

from mergeloom.training.candidates import Candidates
from mergeloom.training.finetune import finetune
from mergeloom.training.traced import log_trace_column
from rule import job

with job(snakemake) as j:
    title = f"{j.wildcards.task} ({j.wildcards.experts})"
    kept = {selection: Path(j.output[selection]) for selection in j.params.selections}
    finetune(
        encoder=j.params.encoder,
        base=Path(j.input.base),
        head=Path(j.input.head),
        train=Path(j.input.train),
        val=Path(j.input.val),
        recipe=j.params.recipe,
        seed=j.seed,
        device=j.device,
        batch_size=j.params.batch_size,
        out=Path(j.output.last),
        curve=Path(j.output.curve),
        fingerprint=j.fingerprint,
        title=title,
        metadata=j.metadata(),
        measure=log_trace_column(
            j.params.encoder,
            Path(j.input.train),
            j.params.log_trace,
            recipe=j.params.recipe,
            seed=j.params.examples_seed,
            device=j.device,
            batch_size=j.params.batch_size,
        ),
        candidates=Candidates(kept, j.fingerprint, title),
    )
