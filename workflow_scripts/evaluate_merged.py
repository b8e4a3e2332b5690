"""Evaluate θ0 + αΔ on all tasks of a benchmark.

α is chosen on the validation splits, or taken from the result of the same model where these are
other images: corrupted ones, or those of another benchmark.
"""

from mergeloom.evaluation.benchmark import Benchmark, evaluate_merged
from mergeloom.evaluation.results import chosen_alpha, read_result
from mergeloom.io.jsonfile import write_json
from rule import job

with job(snakemake) as j:
    names = dict(j.wildcards.items())
    benchmark = Benchmark(
        encoder=j.params.encoder,
        tasks=j.params.tasks,
        heads=j.input.heads,
        val=j.input.get("val"),
        test=j.input.test,
        device=j.device,
        **j.params.evaluation,
    )
    alpha = j.params.alpha
    if alpha["how"] == "result":
        alpha = chosen_alpha(j.input.chosen, names)
    content = evaluate_merged(
        benchmark,
        base=j.input.base,
        merged=j.input.get("merged") or None,  # none: the base itself, zero-shot
        merger=j.params.merger,
        alpha=alpha,
        finetuned=read_result(j.input.finetuned),
        names=names,
        provenance=j.provenance,
        evaluated_on=j.params.get("evaluated_on"),
    )
    write_json(j.output.result, content)
