"""Collect the results of a study in one table."""

from mergeloom.data.shards import write_lines
from mergeloom.evaluation.results import read_result
from mergeloom.report.published import Figure
from mergeloom.report.tables import markdown, summary, write_csv
from rule import job

with job(snakemake) as j:
    published = [Figure(**given) for given in j.params.published]
    frame = summary([read_result(path) for path in j.input.results], j.params.tasks, published)
    write_csv(j.output.csv, frame)
    write_lines(j.output.markdown, markdown(frame).splitlines())
    j.write_sidecar(j.output.csv)
