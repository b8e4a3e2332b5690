"""Evaluate θ0 + αΔ on all tasks of a benchmark, after choosing α on the validation splits."""

from mergeloom.evaluation.benchmark import Benchmark, evaluate_merged
from mergeloom.evaluation.results import read_result
from mergeloom.io.jsonfile import write_json
from rule import job

with job(snakemake) as j:
    benchmark = Benchmark(
        encoder=j.params.encoder,
        tasks=j.params.tasks,
        heads=j.input.heads,
        val=j.input.val,
        test=j.input.test,
        device=j.device,
        batch_size=j.params.batch_size,
    )
    content = evaluate_merged(
        benchmark,
        base=j.input.base,
        merged=j.input.get("merged"),  # none: the base itself, zero-shot
        merger=j.params.merger,
        alpha=j.params.alpha,
        finetuned=read_result(j.input.finetuned),
        names=dict(j.wildcards.items()),
        provenance=j.provenance,
    )
    write_json(j.output.result, content)
