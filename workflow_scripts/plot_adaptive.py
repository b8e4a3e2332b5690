"""Draw what adapters cost, how their adaptation went, and which experts they choose."""

from pathlib import Path

from mergeloom.io.jsonfile import read_json
from mergeloom.report.adaptive.coefficients import coefficients
from mergeloom.report.adaptive.cost import cost
from mergeloom.report.adaptive.curves import curves
from mergeloom.report.adaptive.layers import layers
from mergeloom.report.adaptive.study import label, read_coefficients, read_curve, source_of
from mergeloom.report.adaptive.tables import read_summary
from mergeloom.report.style import save
from rule import job

with job(snakemake) as j:
    tasks, wildcards = j.params.tasks, j.wildcards
    results = [read_json(path) for path in j.input.results]
    names = [label(result["adapter"]["name"], source_of(result)) for result in results]
    found = [read_coefficients(path, tasks) for path in j.input.coefficients]
    own = [result for result in results if not source_of(result)]
    adapted = {
        label(result["adapter"]["name"]): (result, read_curve(path, tasks))
        for result, path in zip(own, j.input.curves, strict=True)
    }
    subject = ", ".join(
        (wildcards.encoder, wildcards.experts, wildcards.benchmark, wildcards.study)
    )
    figures = {
        j.output.cost: cost(read_summary(j.input.summary), subject),
        j.output.curves: curves(adapted, tasks, subject),
        j.output.coefficients: coefficients(dict(zip(names, found, strict=True)), tasks, subject),
        j.output.layers: layers(dict(zip(names, found, strict=True)), tasks, subject),
    }
    for path, figure in figures.items():
        save(figure, path, j.metadata())
        save(figure, Path(path).with_suffix(".svg"), j.metadata())
