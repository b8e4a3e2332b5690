"""Measure a merged model on training images at the alpha of its result, and, where it is the sum of
task vectors, each fine-tuned model moved towards the base by that alpha."""

from mergeloom.evaluation.benchmark import Benchmark
from mergeloom.evaluation.conditions import Measures, measure_merged
from mergeloom.io.jsonfile import write_json
from rule import job

with job(snakemake) as j:
    benchmark = Benchmark(
        encoder=j.params.encoder,
        tasks=j.params.tasks,
        heads=j.input.heads,
        train=j.input.train,
        test=j.input.test or None,
        device=j.device,
        batch_size=j.params.batch_size,
        precision=j.params.precision,
    )
    measures = Measures(
        benchmark, log_trace=j.params.log_trace, seed=j.seed, first_batch=j.params.first_batch
    )
    given = ("merged", "task_vectors", "chosen", "finetuned", "measures")
    shares = [j.shares(j.input[name]) for name in given]
    for experts, merged, task_vectors, [chosen], [finetuned], [of_finetuned], out in zip(
        j.collections, *shares, j.output, strict=True
    ):
        content = measure_merged(
            measures,
            base=j.input.base,
            merged=merged[0] if merged else None,  # none: the base itself, zero-shot
            task_vectors=task_vectors or None,
            chosen=chosen,
            finetuned=finetuned,
            finetuned_measures=of_finetuned,
            names=dict(j.wildcards.items()) | {"experts": experts},
            provenance=j.provenance_of(experts),
        )
        write_json(out, content)
