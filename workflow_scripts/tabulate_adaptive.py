"""Collect the results of a study of adapters, with the static mergers beside them."""

from mergeloom.data.shards import write_lines
from mergeloom.models.family import get_family
from mergeloom.report.adaptive.study import read_models, scored_by
from mergeloom.report.adaptive.tables import summary, tower_size
from mergeloom.report.adaptive.text import markdown
from mergeloom.report.published import Figure
from mergeloom.report.tables import write_csv
from rule import job

with job(snakemake) as j:
    models = read_models(j.input.mergers, j.input.adapters, j.params.tasks)
    published = [Figure(**given) for given in j.params.published]
    tower = tower_size(j.input.base, get_family(j.params.family))
    frame = summary(models, j.params.tasks, published, tower)
    wildcards = j.wildcards
    subject = ", ".join(
        (wildcards.encoder, wildcards.experts, wildcards.benchmark, wildcards.study)
    )
    write_csv(j.output.csv, frame)
    write_lines(j.output.markdown, markdown(frame, subject, scored_by(models)).splitlines())
    j.write_sidecar(j.output.csv)
