# Tables and figures of a study of adapters. Times are measured, so they stand in a table of their own.


rule tabulate_adaptive:
    input:
        mergers=mergers_of_entry,
        adapters=of_adapters(".json"),
        base="<models>/{encoder}/base.safetensors",
    output:
        csv=f"<results>/{ADAPTIVE_STUDY}/summary.csv",
        markdown=shown_of_adaptive("summary.md", "summary", "tables"),
        record=f"<results>/{ADAPTIVE_STUDY}/summary.csv.provenance.json",
    log:
        f"<logs>/results/{ADAPTIVE_STUDY}/summary.log",
    benchmark:
        f"<benchmarks>/results/{ADAPTIVE_STUDY}/summary.jsonl"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory,
    params:
        tasks=tasks_of,
        family=lambda wildcards: preset("encoders", wildcards.encoder)["family"],
        published=published_of_adaptive,
        code=code("tabulate_adaptive.py", family="{encoder}"),
        env=env(PICTURES),
    message:
        "Summary of the adapters {wildcards.study} on {wildcards.benchmark} ({wildcards.encoder}, {wildcards.experts})"
    script:
        "../workflow_scripts/tabulate_adaptive.py"


rule tabulate_cost:
    input:
        summary=f"<results>/{ADAPTIVE_STUDY}/summary.csv",
        results=of_adapters(".json"),
        times=of_adapters(".times.json"),
        times_of_adaptation=states_of_adapters(".times.json"),
    output:
        csv=shown_of_adaptive("cost.csv", "cost_table", "cost"),
        record=f"<results>/{ADAPTIVE_STUDY}/cost.csv.provenance.json",
    log:
        f"<logs>/results/{ADAPTIVE_STUDY}/cost.log",
    benchmark:
        f"<benchmarks>/results/{ADAPTIVE_STUDY}/cost.jsonl"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory,
    params:
        code=code("tabulate_cost.py"),
        env=env(PICTURES),
    message:
        "Cost of the adapters {wildcards.study} on {wildcards.benchmark} ({wildcards.encoder}, {wildcards.experts})"
    script:
        "../workflow_scripts/tabulate_cost.py"


rule plot_adaptive:
    input:
        summary=f"<results>/{ADAPTIVE_STUDY}/summary.csv",
        results=of_adapters(".json"),
        coefficients=of_adapters(".coefficients.parquet"),
        curves=curves_of_adapters,
    output:
        cost=shown_of_adaptive("cost.png", "cost", "accuracy against cost"),
        curves=shown_of_adaptive("curves.png", "curves", "curves of adaptation"),
        coefficients=shown_of_adaptive(
            "coefficients.png", "coefficients", "coefficients"
        ),
        layers=shown_of_adaptive("layers.png", "layers", "coefficients by depth"),
        svg=expand(
            f"<results>/{ADAPTIVE_STUDY}/{{figure}}.svg",
            figure=ADAPTIVE_FIGURES,
            allow_missing=True,
        ),
    log:
        f"<logs>/results/{ADAPTIVE_STUDY}/figures.log",
    benchmark:
        f"<benchmarks>/results/{ADAPTIVE_STUDY}/figures.jsonl"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory,
    params:
        tasks=tasks_of,
        code=code("plot_adaptive.py"),
        env=env(PICTURES),
    message:
        "Figures of the adapters {wildcards.study} on {wildcards.benchmark} ({wildcards.encoder}, {wildcards.experts})"
    script:
        "../workflow_scripts/plot_adaptive.py"


rule compare_on_corrupted:
    input:
        results=results_on_corrupted,
    output:
        csv=shown_of_adaptive(
            "corrupted.csv", "corrupted_table", "corrupted images: table"
        ),
        png=shown_of_adaptive("corrupted.png", "corrupted", "corrupted images"),
        svg=f"<results>/{ADAPTIVE_STUDY}/corrupted.svg",
        markdown=f"<results>/{ADAPTIVE_STUDY}/corrupted.md",
        record=f"<results>/{ADAPTIVE_STUDY}/corrupted.csv.provenance.json",
    log:
        f"<logs>/results/{ADAPTIVE_STUDY}/corrupted.log",
    benchmark:
        f"<benchmarks>/results/{ADAPTIVE_STUDY}/corrupted.jsonl"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory,
    params:
        tasks=tasks_of,
        published=published_of_adaptive,
        code=code("compare_on_corrupted.py"),
        env=env(PICTURES),
    message:
        "Adapters {wildcards.study} on corrupted images of {wildcards.benchmark} ({wildcards.encoder}, {wildcards.experts})"
    script:
        "../workflow_scripts/compare_on_corrupted.py"
