# Tables and figures of a sweep of training conditions.


rule tabulate_conditions:
    input:
        results=of_sweep(RESULT),
        measures=of_sweep(f"<results>/{STUDY}/conditions/{{merger}}.json"),
        training=curves_of_sweep(of_all_seeds=True),
        zeroshot=zeroshot_of_sweep,
    output:
        table=f"<results>/{SWEEP}/conditions.csv",
        summary=f"<results>/{SWEEP}/summary.csv",
        markdown=report(
            f"<results>/{SWEEP}/summary.md",
            caption="../config/report/conditions_summary.rst",
            category="conditions",
            subcategory="{encoder}, {benchmark}, {sweep}",
            labels={"result": "tables"},
        ),
        mergers=report(
            f"<results>/{SWEEP}/mergers.csv",
            caption="../config/report/conditions_mergers.rst",
            category="conditions",
            subcategory="{encoder}, {benchmark}, {sweep}",
            labels={"result": "mergers by condition"},
        ),
        records=[
            f"<results>/{SWEEP}/{table}.csv.provenance.json"
            for table in ("conditions", "summary", "mergers")
        ],
    log:
        f"<logs>/results/{SWEEP}/tables.log",
    benchmark:
        f"<benchmarks>/results/{SWEEP}/tables.jsonl"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory,
    params:
        tasks=lambda wildcards: preset("benchmarks", wildcards.benchmark),
        collections=lambda wildcards: [c._asdict() for c in collections_of(wildcards)],
        mergers=lambda wildcards: preset("conditions", wildcards.sweep)["mergers"],
        code=code("tabulate_conditions.py"),
        env=env(PICTURES),
    message:
        "Tables of the conditions {wildcards.sweep} on {wildcards.benchmark} ({wildcards.encoder})"
    script:
        "../workflow_scripts/tabulate_conditions.py"


rule plot_conditions:
    input:
        table=f"<results>/{SWEEP}/conditions.csv",
        results=of_sweep(RESULT, finetuned=False),
        training=curves_of_sweep(of_all_seeds=False),
    output:
        accuracy=figure_of_sweep("accuracy", "accuracy by condition"),
        log_trace_training=figure_of_sweep(
            "log_trace_training", "log-trace along training"
        ),
        log_trace_accuracy=figure_of_sweep(
            "log_trace_accuracy", "log-trace and accuracy"
        ),
        alpha_curves=figure_of_sweep("alpha_curves", "accuracy over alpha"),
        svg=expand(
            f"<results>/{SWEEP}/{{figure}}.svg",
            figure=SWEEP_FIGURES,
            allow_missing=True,
        ),
    log:
        f"<logs>/results/{SWEEP}/figures.log",
    benchmark:
        f"<benchmarks>/results/{SWEEP}/figures.jsonl"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory,
    params:
        tasks=lambda wildcards: preset("benchmarks", wildcards.benchmark),
        collections=lambda wildcards: [c._asdict() for c in collections_of(wildcards)],
        mergers=lambda wildcards: preset("conditions", wildcards.sweep)["mergers"],
        design=design_of,
        log_trace=lambda wildcards: preset("conditions", wildcards.sweep)["log_trace"],
        code=code("plot_conditions.py"),
        env=env((*PICTURES, "scipy")),
    message:
        "Figures of the conditions {wildcards.sweep} on {wildcards.benchmark} ({wildcards.encoder})"
    script:
        "../workflow_scripts/plot_conditions.py"
