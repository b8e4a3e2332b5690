"""Evaluate every fine-tuned model on its own task; the rest is normalised by this."""

from mergeloom.evaluation.benchmark import Benchmark, evaluate_finetuned
from mergeloom.io.jsonfile import write_json
from rule import job

with job(snakemake) as j:
    benchmark = Benchmark(
        encoder=j.params.encoder,
        tasks=j.params.tasks,
        heads=j.input.heads,
        val=j.input.get("val"),
        test=j.input.test,
        device=j.device,
        **j.params.evaluation,
    )
    shares = j.shares(j.input.checkpoints)
    for experts, checkpoints, out in zip(j.collections, shares, j.output, strict=True):
        content = evaluate_finetuned(
            benchmark,
            checkpoints=checkpoints,
            names=dict(j.wildcards.items()) | {"experts": experts},
            provenance=j.provenance_of(experts),
            evaluated_on=j.params.get("evaluated_on"),
        )
        write_json(out, content)
