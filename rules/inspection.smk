# What a model predicts for what, and how sure it is: confusion matrices and reliability diagrams.


rule inspect_model:
    input:
        base="<models>/{encoder}/base.safetensors",
        merged=of_merger(MERGED),
        chosen=of_merger(RESULT),
        checkpoints=only(
            FINETUNED,
            over_tasks("<models>/{encoder}/{experts}/{task}/checkpoint.safetensors"),
        ),
        heads=over_tasks("<models>/{encoder}/heads/{task}.safetensors"),
        test=over_tasks("<cache>/{task}/test_{form}.safetensors"),
        classnames=known_of_images(
            "confusion and calibration are",
            over_tasks(f"<data>/{{task}}/{CLASSNAMES}"),
        ),
    output:
        counts=f"<results>/{STUDY}/confusion/{{merger}}.json",
    log:
        f"<logs>/results/{STUDY}/confusion/{{merger}}.log",
    benchmark:
        f"<benchmarks>/results/{STUDY}/confusion/{{merger}}.jsonl"
    conda:
        "../envs/environment.yaml"
    threads: config["threads"]["evaluate"]
    resources:
        gpu=1,
        mem_mb=memory_of_model,
    params:
        encoder=model_of,
        tasks=tasks_of,
        batch_size=config["evaluation"]["batch_size"],
        precision=config["evaluation"]["precision"],
        threads=config["threads"]["evaluate"],
        code=code("inspect_model.py", family="{encoder}"),
        env=env(NUMBERS),
    message:
        "Counting the predictions of {wildcards.merger} on {wildcards.benchmark} ({wildcards.encoder})"
    script:
        "../workflow_scripts/inspect_model.py"


rule plot_inspection:
    input:
        counts=f"<results>/{STUDY}/confusion/{{merger}}.json",
    output:
        confusion=figure_of_report(
            "confusion/{merger}", "confusion of {merger}", "confusion"
        ),
        calibration=figure_of_report(
            "calibration/{merger}", "calibration of {merger}", "calibration"
        ),
        svg=[
            f"<results>/{STUDY}/confusion/{{merger}}.svg",
            f"<results>/{STUDY}/calibration/{{merger}}.svg",
        ],
    log:
        f"<logs>/results/{STUDY}/confusion/figures/{{merger}}.log",
    benchmark:
        f"<benchmarks>/results/{STUDY}/confusion/figures/{{merger}}.jsonl"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory,
    params:
        code=code("plot_inspection.py"),
        env=env(PICTURES),
    message:
        "Confusion and calibration of {wildcards.merger} on {wildcards.benchmark} ({wildcards.encoder})"
    script:
        "../workflow_scripts/plot_inspection.py"
