# Sweeps of training conditions: their collections, inputs, figures and targets.

from mergeloom.config.conditions import collections, design


@explained
def collections_of(wildcards):
    """The collections of experts of a sweep, in the order of condition, selection and seed."""
    return collections(wildcards.sweep, PRESETS)


@explained
def design_of(wildcards):
    """What the conditions of a sweep change of its recipe."""
    return design(wildcards.sweep, PRESETS)


def of_sweep(pattern, finetuned=True):
    """Input function: the pattern for the mergers of a sweep, and the fine-tuned models before them,
    of every collection in turn."""

    def paths(wildcards):
        mergers = preset("conditions", wildcards.sweep)["mergers"]
        return [
            path
            for collection in collections_of(wildcards)
            for path in expand(
                pattern,
                encoder=wildcards.encoder,
                experts=collection.experts,
                benchmark=wildcards.benchmark,
                merger=[FINETUNED, *mergers] if finetuned else mergers,
            )
        ]

    return paths


def curves_of_sweep(of_all_seeds):
    """Input function: the training curves of every run of a sweep in turn, task by task."""

    def paths(wildcards):
        found = collections_of(wildcards)
        seeds = {c.seed for c in found} if of_all_seeds else {found[0].seed}
        return expand(
            "<models>/{encoder}/{run}/{task}/training.parquet",
            encoder=wildcards.encoder,
            run=dict.fromkeys(c.run for c in found if c.seed in seeds),
            task=preset("benchmarks", wildcards.benchmark),
        )

    return paths


def zeroshot_of_sweep(wildcards):
    """The zero-shot result, which is the same beside all collections: that beside the first."""
    experts = collections_of(wildcards)[0].experts
    return expand(RESULT, experts=experts, merger=ZEROSHOT, **wildcards)


SWEEP = "conditions/{encoder}/{benchmark}/{sweep}"
SWEEP_FIGURES = ("accuracy", "log_trace_training", "log_trace_accuracy", "alpha_curves")


def files_of_sweep(sweep):
    """Tables and figures of a sweep on the encoder and benchmark of its preset."""
    given = preset("conditions", sweep)
    return expand(
        f"<results>/{SWEEP}/{{file}}",
        sweep=sweep,
        encoder=given["encoder"],
        benchmark=given["benchmark"],
        file=[
            "conditions.csv",
            "summary.md",
            "mergers.csv",
            *(f"{f}.png" for f in SWEEP_FIGURES),
        ],
    )


def figure_of_sweep(name, label):
    """A figure of a sweep of conditions as PNG, shown in the report."""
    return report(
        f"<results>/{SWEEP}/{name}.png",
        caption=f"../config/report/conditions_{name}.rst",
        category="conditions",
        subcategory="{encoder}, {benchmark}, {sweep}",
        labels={"result": label},
    )
