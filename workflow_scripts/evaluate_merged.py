"""Evaluate θ0 + αΔ on all tasks of a benchmark.

α is chosen on the validation splits, or taken from the result of the same model where these are
other images: corrupted ones, or those of another benchmark.
"""

from mergeloom.evaluation.benchmark import Benchmark, evaluate_merged
from mergeloom.evaluation.results import chosen_alpha, read_result
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
    shares = [j.shares(j.input.get(name)) for name in ("merged", "chosen", "finetuned")]
    for experts, merged, chosen, finetuned, out in zip(
        j.collections, *shares, j.output, strict=True
    ):
        names = dict(j.wildcards.items()) | {"experts": experts}
        alpha = j.params.alpha
        if alpha["how"] == "result":
            alpha = chosen_alpha(chosen[0], names)
        content = evaluate_merged(
            benchmark,
            base=j.input.base,
            merged=merged[0] if merged else None,  # none: the base itself, zero-shot
            merger=j.params.merger,
            alpha=alpha,
            finetuned=read_result(finetuned[0]),
            names=names,
            provenance=j.provenance_of(experts),
            evaluated_on=j.params.get("evaluated_on"),
        )
        write_json(out, content)
