# Task vectors, and caches of their singular value decompositions.


rule extract_task_vector:
    input:
        base="<models>/{encoder}/base.safetensors",
        checkpoints=["<models>/{encoder}/{experts}/{task}/checkpoint.safetensors"],
    output:
        task_vector="<models>/{encoder}/{experts}/{task}/task_vector.safetensors",
    log:
        "<logs>/models/{encoder}/{experts}/{task}/task_vector.log",
    benchmark:
        "<benchmarks>/models/{encoder}/{experts}/{task}/task_vector.jsonl"
    wildcard_constraints:
        experts=ALONE,
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory_of_merge,
    params:
        family=lambda wildcards: preset("encoders", wildcards.encoder)["family"],
        code=code("extract_task_vector.py", family="{encoder}"),
        env=env(("torch", "safetensors")),
    message:
        "Task vector of {wildcards.encoder} on {wildcards.task} ({wildcards.experts})"
    script:
        "../workflow_scripts/extract_task_vector.py"


# A job starts for longer than it subtracts, so those of a run and of its selections are one.
for selections in filter(None, RUNS):

    rule:
        name:
            f"extract_task_vectors_of_{'_and_'.join(selections)}"
        input:
            base="<models>/{encoder}/base.safetensors",
            checkpoints=list(
                of_selections(
                    "<models>/{encoder}/{experts}/{task}/checkpoint.safetensors",
                    selections,
                ).values()
            ),
        output:
            **of_selections(
                "<models>/{encoder}/{experts}/{task}/task_vector.safetensors",
                selections,
            ),
        log:
            "<logs>/models/{encoder}/{experts}/{task}/task_vector.log",
        benchmark:
            "<benchmarks>/models/{encoder}/{experts}/{task}/task_vector.jsonl"
        wildcard_constraints:
            experts=one_of(RUNS[selections]),
        conda:
            "../envs/environment.yaml"
        resources:
            mem_mb=memory_of_merge,
        params:
            family=lambda wildcards: preset("encoders", wildcards.encoder)["family"],
            code=code("extract_task_vector.py", family="{encoder}"),
            env=env(("torch", "safetensors")),
        message:
            "Task vectors of {wildcards.encoder} on {wildcards.task} ({wildcards.experts} and selections)"
        script:
            "../workflow_scripts/extract_task_vector.py"


rule decompose_task_vector:
    input:
        task_vectors=["<models>/{encoder}/{experts}/{task}/task_vector.safetensors"],
    output:
        svd="<models>/{encoder}/{experts}/{task}/svd.safetensors",
    log:
        "<logs>/models/{encoder}/{experts}/{task}/svd.log",
    benchmark:
        "<benchmarks>/models/{encoder}/{experts}/{task}/svd.jsonl"
    conda:
        "../envs/environment.yaml"
    threads: config["threads"]["merge"]
    resources:
        gpu=1,
        mem_mb=memory_of_merge,
    params:
        family=lambda wildcards: preset("encoders", wildcards.encoder)["family"],
        fraction=config["svd"]["fraction"],
        threads=config["threads"]["merge"],
        code=code("decompose_task_vector.py", family="{encoder}"),
        env=env(("torch", "numpy", "scipy", "safetensors")),
    message:
        "SVD of the task vector of {wildcards.encoder} on {wildcards.task} ({wildcards.experts})"
    script:
        "../workflow_scripts/decompose_task_vector.py"


use rule decompose_task_vector as decompose_sum with:
    input:
        task_vectors=over_tasks(
            "<models>/{encoder}/{experts}/{task}/task_vector.safetensors"
        ),
    output:
        svd="<models>/{encoder}/{experts}/summed/{benchmark}/svd.safetensors",
    log:
        "<logs>/models/{encoder}/{experts}/summed/{benchmark}/svd.log",
    benchmark:
        "<benchmarks>/models/{encoder}/{experts}/summed/{benchmark}/svd.jsonl"
    params:
        family=lambda wildcards: preset("encoders", wildcards.encoder)["family"],
        fraction=1.0,
        threads=config["threads"]["merge"],
        code=code("decompose_task_vector.py", family="{encoder}"),
        env=env(("torch", "numpy", "scipy", "safetensors")),
    message:
        "SVD of the sum of the task vectors of {wildcards.benchmark} ({wildcards.encoder}, {wildcards.experts})"
