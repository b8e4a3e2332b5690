# The tables and figures of a study.

from mergeloom.report.published import lookup as lookup_published

# The figures of a study, and which rule draws them.
RESULT_FIGURES = ("radar", "averages", "alpha_curves")
VECTOR_FIGURES = ("task_vector_cosine", "singular_values")
FIGURES = (*RESULT_FIGURES, *VECTOR_FIGURES)


def merger_results(wildcards):
    """Results of the configured mergers in their order, and of the fine-tuned models."""
    return expand(RESULT, merger=ALL_ROWS, **wildcards)


def published_figures(wildcards):
    """The published figures of this study's mergers, as mappings."""
    known = lookup_published(
        PUBLISHED_FIGURES, wildcards.encoder, wildcards.benchmark, wildcards.experts
    )
    return [
        figure._asdict()
        for merger in ALL_ROWS
        for figure in known.get(merger, {}).values()
    ]


def wandb_logs(wildcards):
    """Markers of W&B runs, when they are asked for."""
    return (
        []
        if config["wandb"]["mode"] == "disabled"
        else of_studies(f"<results>/{STUDY}/wandb.txt")
    )


def figure_of_report(name, label, caption):
    """A figure as PNG, shown in the report."""
    return report(
        f"<results>/{STUDY}/{name}.png",
        caption=f"../config/report/{caption}.rst",
        category="{benchmark}",
        subcategory="{encoder}, {experts}",
        labels={"result": label},
    )
