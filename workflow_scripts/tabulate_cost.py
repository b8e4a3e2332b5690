"""Collect what the models of a study of adapters store, train and take."""

from mergeloom.io.jsonfile import read_json
from mergeloom.report.adaptive.tables import cost, read_summary
from mergeloom.report.tables import write_csv
from rule import job

with job(snakemake) as j:
    adapters = [read_json(path) for path in j.input.results]
    times = [
        read_json(adaptation) | read_json(evaluation)
        for adaptation, evaluation in zip(j.input.times_of_adaptation, j.input.times, strict=True)
    ]
    write_csv(j.output.csv, cost(read_summary(j.input.summary), adapters, times))
    j.write_sidecar(j.output.csv)
