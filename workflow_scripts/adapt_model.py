"""Adapt how task vectors are combined to unlabelled inputs, at test time."""

from pathlib import Path

from mergeloom.adaptive.files import Subject, adapt_files
from mergeloom.evaluation.benchmark import Benchmark
from mergeloom.evaluation.results import read_result
from rule import job

with job(snakemake) as j:
    names = dict(j.wildcards.items())
    of_preset = {k: v for k, v in j.params.adapter["evaluation"].items() if k == "batch_size"}
    benchmark = Benchmark(
        encoder=j.params.encoder,
        tasks=j.params.tasks,
        heads=j.input.heads,
        val=j.input.val,
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
    adapt_files(
        subject,
        benchmark,
        inputs=j.input.examples,
        features=j.input.features,
        val_features=j.input.val_features,
        finetuned=read_result(j.input.finetuned),
        corruption=j.params.get("corruption"),
        seed=j.seed,
        **{name: Path(path) for name, path in j.output.items()},
        fingerprint=j.fingerprint,
        title=f"{names['adapter']} ({names['encoder']}, {names['benchmark']})",
        metadata=j.metadata(),
    )
