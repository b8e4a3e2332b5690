"""Draw what adapters cost, how their adaptation went, and which experts they choose."""

from pathlib import Path

from mergeloom.report.adaptive.figures import draw
from mergeloom.report.adaptive.study import subject
from mergeloom.report.style import save
from rule import job

with job(snakemake) as j:
    figures = draw(
        j.input.summary,
        j.input.results,
        j.input.coefficients,
        j.input.curves,
        j.params.tasks,
        subject(j.wildcards),
    )
    for name, figure in figures.items():
        path = Path(getattr(j.output, name))
        save(figure, path, j.metadata())
        save(figure, path.with_suffix(".svg"), j.metadata())
