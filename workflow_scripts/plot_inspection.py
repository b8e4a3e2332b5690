"""Draw confusion matrices and reliability diagrams of a model."""

from mergeloom.evaluation.inspection import read_inspection
from mergeloom.report.calibration import calibration
from mergeloom.report.confusion import confusion
from mergeloom.report.style import save
from rule import job

with job(snakemake) as j:
    content = read_inspection(j.input.counts)
    figures = [confusion(content), calibration(content)]
    pngs = [j.output.confusion, j.output.calibration]
    for figure, png, svg in zip(figures, pngs, j.output.svg, strict=True):
        save(figure, png, j.metadata())
        save(figure, svg, j.metadata())
