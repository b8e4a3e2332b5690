"""Measure fine-tuned models on their training images: accuracy, and the log-trace of the Fisher
information."""

from mergeloom.evaluation.benchmark import Benchmark
from mergeloom.evaluation.conditions import Measures, measure_finetuned
from mergeloom.io.jsonfile import write_json
from rule import job

with job(snakemake) as j:
    benchmark = Benchmark(
        encoder=j.params.encoder,
        tasks=j.params.tasks,
        heads=j.input.heads,
        train=j.input.train,
        device=j.device,
        batch_size=j.params.batch_size,
        precision=j.params.precision,
    )
    measures = Measures(
        benchmark, log_trace=j.params.log_trace, seed=j.seed, first_batch=j.params.first_batch
    )
    shares = j.shares(j.input.checkpoints)
    for experts, checkpoints, out in zip(j.collections, shares, j.output, strict=True):
        content = measure_finetuned(
            measures,
            checkpoints=checkpoints,
            names=dict(j.wildcards.items()) | {"experts": experts},
            provenance=j.provenance_of(experts),
        )
        write_json(out, content)
