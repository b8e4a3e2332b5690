"""Draw what a merge did to its tasks."""

from mergeloom.evaluation.diagnosis import read_diagnosis
from mergeloom.report.diagnosis import diagnosis
from mergeloom.report.style import save
from rule import job

with job(snakemake) as j:
    figure = diagnosis(read_diagnosis(j.input.diagnosis))
    for path in (j.output.png, j.output.svg):
        save(figure, path, j.metadata())
