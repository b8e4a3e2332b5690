"""Log a study's table, its radar chart and its averages to Weights & Biases."""

from mergeloom.data.shards import write_lines
from mergeloom.report.tables import read_csv
from mergeloom.report.wandb_log import log_summary
from rule import job

with job(snakemake) as j:
    name = "-".join((j.wildcards.encoder, j.wildcards.experts, j.wildcards.benchmark))
    mode, project = j.params.wandb["mode"], j.params.wandb["project"]
    log_summary(
        frame=read_csv(j.input.csv),
        radar_png=j.input.radar,
        mode=mode,
        project=project,
        name=name,
        directory=".",
        config=j.provenance,
    )
    write_lines(j.output.marker, [f"{project}/{name}, {mode}"])
