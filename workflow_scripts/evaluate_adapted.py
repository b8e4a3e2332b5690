"""Evaluate an adapted model, on its own encoder and inputs or on others."""

from pathlib import Path

from mergeloom.adaptive.files import Subject, evaluate_files, times_of
from mergeloom.evaluation.benchmark import Benchmark
from mergeloom.evaluation.results import read_result
from mergeloom.io.jsonfile import write_json
from mergeloom.io.parquet import write_parquet
from rule import job

with job(snakemake) as j:
    names = dict(j.wildcards.items())
    of_preset = {k: v for k, v in j.params.adapter["evaluation"].items() if k == "batch_size"}
    benchmark = Benchmark(
        encoder=j.params.encoder,
        tasks=j.params.evaluated_tasks,
        heads=j.input.heads,
        val=j.input.get("val"),
        test=j.input.test,
        device=j.device,
        **{**j.params.evaluation, **of_preset},
    )
    subject = Subject(
        encoder=j.params.encoder,
        base=j.input.base,
        task_vectors=j.input.task_vectors,
        tasks=j.params.tasks,
        preset=j.params.adapter,
        features=next(iter(j.input.features), None),
        names=names,
        seed=j.seed,
        device=j.device,
    )
    found = evaluate_files(
        subject,
        benchmark,
        adapted=j.input.adapted,
        source=names.get("source"),
        features=j.input.features,
        val_features=j.input.get("val_features"),
        finetuned=read_result(j.input.finetuned),
        names=names,
        seed=j.seed,
        provenance=j.provenance,
        evaluated_on=j.params.get("evaluated_on"),
        svd=j.input.svd,
    )
    write_parquet(Path(j.output.coefficients), found.coefficients, j.metadata())
    write_json(j.output.times, times_of(found, j.device))
    write_json(j.output.result, found.result)
