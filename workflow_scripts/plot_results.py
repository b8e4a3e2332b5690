"""Draw what the mergers of a study reached: radar chart, averages, accuracy over alpha."""

from pathlib import Path

from mergeloom.evaluation.results import read_result
from mergeloom.report.alpha_curves import alpha_curves
from mergeloom.report.bars import bars
from mergeloom.report.published import Figure
from mergeloom.report.radar import radar
from mergeloom.report.style import save
from mergeloom.report.tables import summary
from rule import job

with job(snakemake) as j:
    results = [read_result(path) for path in j.input.results]
    published = [Figure(**given) for given in j.params.published]
    frame = summary(results, j.params.tasks, published)
    subject = ", ".join((j.wildcards.encoder, j.wildcards.experts, j.wildcards.benchmark))
    figures = {
        j.output.radar: radar(frame, subject),
        j.output.averages: bars(frame, subject),
        j.output.alpha_curves: alpha_curves(results, j.params.tasks, subject),
    }
    for path, figure in figures.items():
        save(figure, path, j.metadata())
        save(figure, Path(path).with_suffix(".svg"), j.metadata())
