"""Cosine similarity of the task vectors of a benchmark, as a labelled matrix."""

import pandas as pd

from mergeloom.merging.diagnosis import cosine_matrix
from mergeloom.report.tables import write_csv
from rule import job

with job(snakemake) as j:
    matrix = cosine_matrix(j.input.task_vectors, j.params.family)
    frame = pd.DataFrame(matrix, columns=j.params.tasks)
    frame.insert(0, "task", j.params.tasks)
    write_csv(j.output.csv, frame)
    j.write_sidecar(j.output.csv)
