"""Draw loss and accuracy over the epochs of every fine-tuning of a benchmark."""

import pandas as pd

from mergeloom.report.learning_curves import learning_curves
from mergeloom.report.style import save
from rule import job

with job(snakemake) as j:
    subject = ", ".join((j.wildcards.encoder, j.wildcards.experts, j.wildcards.benchmark))
    curves = zip(j.params.tasks, j.input.curves, strict=True)
    figure = learning_curves({task: pd.read_parquet(path) for task, path in curves}, subject)
    save(figure, j.output.curves, j.metadata())
    save(figure, j.output.svg, j.metadata())
