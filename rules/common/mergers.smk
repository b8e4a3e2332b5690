# What a merger takes, how its alpha is chosen, and which models it gives.

from mergeloom.config.study import (
    corruption_and_severity,
    inputs_of,
    is_task_arithmetic,
    resolve_alpha,
)
from mergeloom.evaluation.results import no_model_of_unseen_tasks
from mergeloom.provenance.code import lookup

# Mergers that let images pass the model while they merge it.
PROPAGATING = [m for m, p in PRESETS["mergers"].items() if "propagated" in inputs_of(p)]


@explained
def alpha_of(wildcards):
    """How alpha is chosen for this merger, encoder and benchmark."""
    merger = preset("mergers", wildcards.merger)
    return resolve_alpha(
        merger, encoder=wildcards.encoder, benchmark=wildcards.benchmark
    )


def gives_one_per_task(wildcards):
    """Whether this merger gives one model per task."""
    method = preset("mergers", wildcards.merger)["method"]
    return bool(lookup("merger", method).options.get("per_task"))


def needs(wildcards, what):
    """Whether the functions of this merger take an input."""
    return what in inputs_of(preset("mergers", wildcards.merger))


def if_needed(what):
    """Input function: a file of this name for every task, for the mergers that take it."""

    def paths(wildcards):
        if not needs(wildcards, what):
            return []
        return expand(
            f"<models>/{{encoder}}/{{experts}}/{{task}}/{what}.safetensors",
            task=tasks_of(wildcards),
            **wildcards,
        )

    return paths


def sum_cache(wildcards):
    """SVD cache of the sum of the task vectors, for the mergers that read it."""
    path = "<models>/{encoder}/{experts}/summed/{benchmark}/svd.safetensors"
    return expand(path, **wildcards) if needs(wildcards, "summed") else []


def merger_seed(wildcards):
    """Seed of a merger that draws random numbers: its own, or the configuration's."""
    if not needs(wildcards, "random"):
        return 0
    return preset("mergers", wildcards.merger).get("seed", config["seed"])


def of_merger(pattern):
    """Input function: the pattern for a merger, and nothing for the base and the experts."""
    return lambda wildcards: (
        []
        if wildcards.merger in (ZEROSHOT, FINETUNED)
        else expand(pattern, **wildcards)[0]
    )


def only(name, input_function):
    """Input function: what another gives, for one merger alone."""
    return lambda wildcards: (
        input_function(wildcards) if wildcards.merger == name else []
    )


@explained
def severity_of(wildcards):
    """Severity of a corruption, checked; its name is by the look-up of its code."""
    return corruption_and_severity(wildcards.corruption + wildcards.severity)[1]


def alpha_elsewhere(wildcards):
    """Alpha of the merger's own result; the base has none to take."""
    if wildcards.merger == ZEROSHOT:
        return {"how": "fixed", "value": 0.0}
    return {"how": "result"}


@explained
def merged_for_all(wildcards):
    """The merged model, which must be one for all tasks; the base is evaluated without."""
    if wildcards.merger == FINETUNED:
        raise MergeloomError(
            f"the fine-tuned models of {wildcards.benchmark} belong to its own tasks; those of "
            f"{wildcards.other} are in {wildcards.encoder}/{wildcards.experts}/{wildcards.other}/"
            f"{FINETUNED}.json"
        )
    if gives_one_per_task(wildcards):
        raise MergeloomError(no_model_of_unseen_tasks(wildcards.merger))
    return of_merger(MERGED)(wildcards)


@explained
def one_merged_model(wildcards):
    """The merged task vector of a merger that gives one model, and not one per task."""
    if wildcards.format not in ("transformers", "open_clip"):
        raise MergeloomError(
            f"unknown format {wildcards.format!r}; models are exported as transformers or open_clip"
        )
    if wildcards.merger in (ZEROSHOT, FINETUNED) or gives_one_per_task(wildcards):
        raise MergeloomError(
            f"merger {wildcards.merger!r} gives no single merged model, so there is none to export; "
            "`mergeloom convert` exports any checkpoint"
        )
    return expand(MERGED, **wildcards)[0]


def each_merged(pattern, selections):
    """Input function: the pattern for a merger, run and selections; nothing for the base."""
    functions = [of_merger(of_one) for of_one in each(pattern, selections)]
    return lambda wildcards: [
        path for path in (f(wildcards) for f in functions) if path
    ]


def if_task_arithmetic(input_function):
    """Input function: what another gives, for the mergers that add task vectors up."""
    return lambda wildcards: (
        input_function(wildcards)
        if is_task_arithmetic(preset("mergers", wildcards.merger))
        else []
    )
