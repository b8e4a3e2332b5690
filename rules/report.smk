# Tables and figures of a study: one encoder, one collection of experts, one benchmark.


rule tabulate_results:
    input:
        results=merger_results,
    output:
        csv=report(
            f"<results>/{STUDY}/summary.csv",
            caption="../config/report/summary.rst",
            category="{benchmark}",
            subcategory="{encoder}, {experts}",
            labels={"result": "accuracy table"},
        ),
        markdown=f"<results>/{STUDY}/summary.md",
        record=f"<results>/{STUDY}/summary.csv.provenance.json",
    log:
        f"<logs>/results/{STUDY}/summary.log",
    benchmark:
        f"<benchmarks>/results/{STUDY}/summary.jsonl"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory,
    params:
        tasks=tasks_of,
        published=published_figures,
        code=code("tabulate_results.py"),
        env=env(PICTURES),
    message:
        "Summary of {wildcards.benchmark} on {wildcards.encoder} ({wildcards.experts})"
    script:
        "../workflow_scripts/tabulate_results.py"


rule plot_results:
    input:
        results=merger_results,
    output:
        radar=figure_of_report("radar", "radar chart", "radar"),
        averages=figure_of_report("averages", "average accuracy", "bars"),
        alpha_curves=figure_of_report(
            "alpha_curves", "accuracy over alpha", "alpha_curves"
        ),
        svg=expand(
            f"<results>/{STUDY}/{{figure}}.svg",
            figure=RESULT_FIGURES,
            allow_missing=True,
        ),
    log:
        f"<logs>/results/{STUDY}/figures.log",
    benchmark:
        f"<benchmarks>/results/{STUDY}/figures.jsonl"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory,
    params:
        tasks=tasks_of,
        published=published_figures,
        code=code("plot_results.py"),
        env=env(PICTURES),
    message:
        "Figures of {wildcards.benchmark} on {wildcards.encoder} ({wildcards.experts})"
    script:
        "../workflow_scripts/plot_results.py"


rule compare_task_vectors:
    input:
        task_vectors=over_tasks(
            "<models>/{encoder}/{experts}/{task}/task_vector.safetensors"
        ),
    output:
        csv=f"<results>/{STUDY}/task_vector_cosine.csv",
        record=f"<results>/{STUDY}/task_vector_cosine.csv.provenance.json",
    log:
        f"<logs>/results/{STUDY}/task_vector_cosine.log",
    benchmark:
        f"<benchmarks>/results/{STUDY}/task_vector_cosine.jsonl"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory,
    params:
        tasks=tasks_of,
        family=lambda wildcards: preset("encoders", wildcards.encoder)["family"],
        code=code("compare_task_vectors.py", family="{encoder}"),
        env=env(("torch", "numpy", "safetensors")),
    message:
        "Cosine similarity of the task vectors of {wildcards.benchmark} on {wildcards.encoder}"
    script:
        "../workflow_scripts/compare_task_vectors.py"


rule plot_task_vectors:
    input:
        cosine=f"<results>/{STUDY}/task_vector_cosine.csv",
        svd=over_tasks("<models>/{encoder}/{experts}/{task}/svd.safetensors"),
    output:
        cosine=figure_of_report(
            "task_vector_cosine", "task vector similarity", "heatmap"
        ),
        singular_values=figure_of_report(
            "singular_values", "singular values", "singular_values"
        ),
        svg=expand(
            f"<results>/{STUDY}/{{figure}}.svg",
            figure=VECTOR_FIGURES,
            allow_missing=True,
        ),
    log:
        f"<logs>/results/{STUDY}/task_vector_figures.log",
    benchmark:
        f"<benchmarks>/results/{STUDY}/task_vector_figures.jsonl"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory,
    params:
        tasks=tasks_of,
        code=code("plot_task_vectors.py"),
        env=env(PICTURES),
    message:
        "Figures of the task vectors of {wildcards.benchmark} on {wildcards.encoder}"
    script:
        "../workflow_scripts/plot_task_vectors.py"


rule plot_training:
    input:
        curves=over_tasks(
            "<models>/{encoder}/{run}/{task}/training.parquet", run=run_of
        ),
    output:
        curves=figure_of_report("learning_curves", "learning curves", "learning_curves"),
        svg=f"<results>/{STUDY}/learning_curves.svg",
    log:
        f"<logs>/results/{STUDY}/learning_curves.log",
    benchmark:
        f"<benchmarks>/results/{STUDY}/learning_curves.jsonl"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory,
    params:
        tasks=tasks_of,
        code=code("plot_training.py"),
        env=env(PICTURES),
    message:
        "Learning curves of {wildcards.benchmark} on {wildcards.encoder} ({wildcards.experts})"
    script:
        "../workflow_scripts/plot_training.py"


rule log_to_wandb:
    input:
        csv=f"<results>/{STUDY}/summary.csv",
        radar=f"<results>/{STUDY}/radar.png",
    output:
        marker=f"<results>/{STUDY}/wandb.txt",
    log:
        f"<logs>/results/{STUDY}/wandb.log",
    conda:
        "../envs/environment.yaml"
    params:
        wandb=config["wandb"],
        code=code("log_to_wandb.py"),
        env=env(PICTURES),
    message:
        "Logging {wildcards.benchmark} on {wildcards.encoder} ({wildcards.experts}) to W&B"
    script:
        "../workflow_scripts/log_to_wandb.py"
