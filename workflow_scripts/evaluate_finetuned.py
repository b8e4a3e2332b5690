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
    content = evaluate_finetuned(
        benchmark,
        checkpoints=j.input.checkpoints,
        names=dict(j.wildcards.items()),
        provenance=j.provenance,
        evaluated_on=j.params.get("evaluated_on"),
    )
    write_json(j.output.result, content)
