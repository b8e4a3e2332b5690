"""Collect the results on corrupted images beside those on clean ones."""

from mergeloom.data.shards import write_lines
from mergeloom.evaluation.results import read_result
from mergeloom.report.corrupted import markdown, summary
from mergeloom.report.tables import write_csv
from rule import job

with job(snakemake) as j:
    results = [read_result(path) for path in (*j.input.clean, *j.input.corrupted)]
    frame = summary(results, j.params.tasks)
    write_csv(j.output.csv, frame)
    write_lines(j.output.markdown, markdown(frame).splitlines())
    j.write_sidecar(j.output.csv)
