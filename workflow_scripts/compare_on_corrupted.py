"""Collect and draw what adapters and static mergers reach on corrupted images."""

from mergeloom.data.shards import write_lines
from mergeloom.io.jsonfile import read_json
from mergeloom.report.adaptive.corrupted import corrupted, markdown, table
from mergeloom.report.adaptive.study import subject
from mergeloom.report.published import Figure
from mergeloom.report.style import save
from mergeloom.report.tables import write_csv
from rule import job

with job(snakemake) as j:
    results = [read_json(path) for path in j.input.results]
    published = [Figure(**given) for given in j.params.published]
    frame = table(results, j.params.tasks, published)
    write_csv(j.output.csv, frame)
    text = markdown(frame, j.params.tasks, subject(j.wildcards))
    write_lines(j.output.markdown, text.splitlines())
    j.write_sidecar(j.output.csv)
    figure = corrupted(frame, subject(j.wildcards))
    save(figure, j.output.png, j.metadata())
    save(figure, j.output.svg, j.metadata())
