"""Draw the task vectors of a benchmark: their cosine similarity and their singular values."""

from pathlib import Path

import pandas as pd

from mergeloom.report.heatmap import heatmap
from mergeloom.report.singular_values import read_spectra, singular_values
from mergeloom.report.style import save
from rule import job

with job(snakemake) as j:
    tasks = j.params.tasks
    subject = ", ".join((j.wildcards.encoder, j.wildcards.experts, j.wildcards.benchmark))
    matrix = pd.read_csv(j.input.cosine)[tasks].to_numpy()
    spectra = {task: read_spectra(path) for task, path in zip(tasks, j.input.svd, strict=True)}
    figures = {
        j.output.cosine: heatmap(matrix, tasks, subject),
        j.output.singular_values: singular_values(spectra, subject),
    }
    for path, figure in figures.items():
        save(figure, path, j.metadata())
        save(figure, Path(path).with_suffix(".svg"), j.metadata())
