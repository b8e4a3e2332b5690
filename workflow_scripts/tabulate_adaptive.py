"""Collect the results of a study of adapters, with the static mergers beside them."""

from mergeloom.data.shards import write_lines
from mergeloom.models.family import get_family
from mergeloom.report.adaptive.study import read_models, scored_by, subject
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
    write_csv(j.output.csv, frame)
    text = markdown(frame, subject(j.wildcards), scored_by(models))
    write_lines(j.output.markdown, text.splitlines())
    j.write_sidecar(j.output.csv)
