"""Collect what was measured under every training condition: all numbers, their means over seeds,
and the tables for people."""

from mergeloom.data.shards import write_lines
from mergeloom.evaluation.results import read_result
from mergeloom.report.conditions.study import FINETUNED, read_histories, read_study
from mergeloom.report.conditions.tables import Numbers, markdown, mergers_table
from mergeloom.report.conditions.tidy import over_seeds, tidy
from mergeloom.report.tables import write_csv
from rule import job

with job(snakemake) as j:
    tasks, collections, mergers = j.params.tasks, j.params.collections, j.params.mergers
    runs = dict.fromkeys(collection["run"] for collection in collections)
    histories = read_histories(list(runs), tasks, j.input.training)
    study = read_study(collections, tasks, mergers, j.input.results, j.input.measures, histories)
    frame = tidy(study, read_result(j.input.zeroshot[0]), tasks)
    summary = over_seeds(frame)
    subject = ", ".join((j.wildcards.encoder, j.wildcards.benchmark, j.wildcards.sweep))
    settings = study[0].measures[FINETUNED]["log_trace"]
    text = markdown(summary, frame, tasks, mergers, settings, subject)
    write_lines(j.output.markdown, text.splitlines())
    tables = {
        j.output.table: frame,
        j.output.summary: summary,
        j.output.mergers: mergers_table(Numbers(summary), j.wildcards.benchmark, mergers),
    }
    for path, table in tables.items():
        write_csv(path, table)
        j.write_sidecar(path)
