"""Draw what training conditions do to accuracy, to alpha and to the Fisher information."""

from pathlib import Path

from mergeloom.evaluation.results import read_result
from mergeloom.report.conditions.accuracy import accuracy
from mergeloom.report.conditions.alpha_curves import alpha_curves, by_condition
from mergeloom.report.conditions.design import design
from mergeloom.report.conditions.log_trace_accuracy import log_trace_accuracy
from mergeloom.report.conditions.log_trace_training import log_trace_training
from mergeloom.report.conditions.study import read_histories, words_of_log_trace
from mergeloom.report.conditions.tidy import over_seeds, read_tidy
from mergeloom.report.style import save
from rule import job

with job(snakemake) as j:
    collections, mergers = j.params.collections, j.params.mergers
    selections = list(dict.fromkeys(collection["selection"] for collection in collections))
    seed = collections[0]["seed"]
    conditions = dict.fromkeys(c["condition"] for c in collections if c["seed"] == seed)
    frame, shown = read_tidy(j.input.table), design(**j.params.design)
    histories = read_histories(list(conditions), j.params.tasks, j.input.training)
    results = by_condition(collections, mergers, map(read_result, j.input.results))
    subject = ", ".join((j.wildcards.encoder, j.wildcards.benchmark, j.wildcards.sweep))
    of_traces = f"{subject}, {words_of_log_trace(j.params.log_trace)}"
    figures = {
        j.output.accuracy: accuracy(over_seeds(frame), shown, selections, mergers, subject),
        j.output.log_trace_training: log_trace_training(
            histories, shown, selections, seed, of_traces
        ),
        j.output.log_trace_accuracy: log_trace_accuracy(frame, shown, mergers[0], of_traces),
        j.output.alpha_curves: alpha_curves(results, shown, selections, mergers, subject),
    }
    for path, figure in figures.items():
        save(figure, path, j.metadata())
        save(figure, Path(path).with_suffix(".svg"), j.metadata())
