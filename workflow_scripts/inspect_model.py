"""Count what a model predicts for what, at the alpha of its result, and how sure it is."""

from pathlib import Path

from mergeloom.data.shards import read_lines
from mergeloom.evaluation.benchmark import Benchmark
from mergeloom.evaluation.inspection import inspection
from mergeloom.evaluation.models import MergedModel, finetuned_models
from mergeloom.evaluation.predictions import count_predictions
from mergeloom.evaluation.results import chosen_alpha
from mergeloom.io.jsonfile import write_json
from rule import job

with job(snakemake) as j:
    encoder, tasks, names = j.params.encoder, j.params.tasks, dict(j.wildcards.items())
    benchmark = Benchmark(
        encoder=encoder,
        tasks=tasks,
        heads=j.input.heads,
        test=j.input.test,
        device=j.device,
        batch_size=j.params.batch_size,
        precision=j.params.precision,
    )
    alpha = chosen_alpha(j.input.chosen, names) if j.input.chosen else None
    if j.input.checkpoints:
        turns = finetuned_models(encoder, j.input.checkpoints, tasks, j.device)
    else:
        model = MergedModel(encoder, j.input.base, j.input.merged or None, j.device)
        turns = model.at(alpha["value"] if alpha else 0.0, tasks)
    paths = zip(tasks, j.input.classnames, strict=True)
    classnames = {task: read_lines(Path(path)) for task, path in paths}
    content = inspection(
        names=names,
        alpha=alpha,
        tasks=count_predictions(benchmark, turns, classnames),
        provenance=j.provenance,
    )
    write_json(j.output.counts, content)
