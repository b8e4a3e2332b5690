# What a merge does to its tasks: interference, alignment, angles, ranks and signs, as numbers and a figure.


rule diagnose_merge:
    input:
        task_vectors=over_tasks(
            "<models>/{encoder}/{experts}/{task}/task_vector.safetensors"
        ),
        svd=over_tasks("<models>/{encoder}/{experts}/{task}/svd.safetensors"),
        merged="<models>/{encoder}/{experts}/merged/{benchmark}/{merger}.safetensors",
    output:
        diagnosis=f"<results>/{STUDY}/diagnosis/{{merger}}.json",
    log:
        f"<logs>/results/{STUDY}/diagnosis/{{merger}}.log",
    benchmark:
        f"<benchmarks>/results/{STUDY}/diagnosis/{{merger}}.jsonl"
    conda:
        "../envs/environment.yaml"
    threads: config["threads"]["merge"]
    resources:
        gpu=1,
        mem_mb=memory_of_merge,
    params:
        tasks=tasks_of,
        family=lambda wildcards: preset("encoders", wildcards.encoder)["family"],
        threads=config["threads"]["merge"],
        code=code("diagnose_merge.py", family="{encoder}"),
        env=env(("torch", "numpy", "scipy", "safetensors")),
    message:
        "Diagnosis of {wildcards.merger} on {wildcards.benchmark} ({wildcards.encoder})"
    script:
        "../workflow_scripts/diagnose_merge.py"


rule plot_diagnosis:
    input:
        diagnosis=f"<results>/{STUDY}/diagnosis/{{merger}}.json",
    output:
        png=figure_of_report("diagnosis/{merger}", "diagnosis of {merger}", "diagnosis"),
        svg=f"<results>/{STUDY}/diagnosis/{{merger}}.svg",
    log:
        f"<logs>/results/{STUDY}/diagnosis/figures/{{merger}}.log",
    benchmark:
        f"<benchmarks>/results/{STUDY}/diagnosis/figures/{{merger}}.jsonl"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory,
    params:
        code=code("plot_diagnosis.py"),
        env=env(PICTURES),
    message:
        "Figure of the diagnosis of {wildcards.merger} on {wildcards.benchmark} ({wildcards.encoder})"
    script:
        "../workflow_scripts/plot_diagnosis.py"
