# Merging the task vectors of a benchmark into one; alpha is applied when it is evaluated.


rule merge_models:
    input:
        base="<models>/{encoder}/base.safetensors",
        task_vectors=over_tasks(
            "<models>/{encoder}/{experts}/{task}/task_vector.safetensors"
        ),
        svd=if_needed("svd"),
        summed=sum_cache,
        fisher=if_needed("fisher"),
        gram=if_needed("gram"),
    output:
        merged="<models>/{encoder}/{experts}/merged/{benchmark}/{merger}.safetensors",
    log:
        "<logs>/models/{encoder}/{experts}/merged/{benchmark}/{merger}.log",
    benchmark:
        "<benchmarks>/models/{encoder}/{experts}/merged/{benchmark}/{merger}.jsonl"
    wildcard_constraints:
        merger=rf"(?!(?:{one_of(PROPAGATING)})\.safetensors){NAME}",
    conda:
        "../envs/environment.yaml"
    threads: config["threads"]["merge"]
    resources:
        gpu=1,
        mem_mb=memory_of_merge,
    params:
        family=lambda wildcards: preset("encoders", wildcards.encoder)["family"],
        method=lambda wildcards: preset("mergers", wildcards.merger)["method"],
        parameters=lambda wildcards: preset("mergers", wildcards.merger).get(
            "parameters", {}
        ),
        modifiers=lambda wildcards: preset("mergers", wildcards.merger).get(
            "modifiers", []
        ),
        seed=merger_seed,
        threads=config["threads"]["merge"],
        code=code("merge_models.py", merger="{merger}", family="{encoder}"),
        env=env(("torch", "numpy", "scipy", "tensorly", "safetensors")),
    message:
        "Merging {wildcards.benchmark} on {wildcards.encoder} with {wildcards.merger}"
    script:
        "../workflow_scripts/merge_models.py"


rule merge_by_stage:
    input:
        base="<models>/{encoder}/base.safetensors",
        task_vectors=over_tasks(
            "<models>/{encoder}/{experts}/{task}/task_vector.safetensors"
        ),
        images=known_of_images(
            "merging layer by layer is", training_images_of_benchmark
        ),
    output:
        merged="<models>/{encoder}/{experts}/merged/{benchmark}/{merger}.safetensors",
    log:
        "<logs>/models/{encoder}/{experts}/merged/{benchmark}/{merger}.log",
    benchmark:
        "<benchmarks>/models/{encoder}/{experts}/merged/{benchmark}/{merger}.jsonl"
    wildcard_constraints:
        merger=one_of(PROPAGATING),
    conda:
        "../envs/environment.yaml"
    threads: config["threads"]["merge"]
    resources:
        gpu=1,
        mem_mb=memory_of_propagation,
    params:
        encoder=model_of,
        method=lambda wildcards: preset("mergers", wildcards.merger)["method"],
        parameters=lambda wildcards: preset("mergers", wildcards.merger).get(
            "parameters", {}
        ),
        modifiers=lambda wildcards: preset("mergers", wildcards.merger).get(
            "modifiers", []
        ),
        examples=config["statistics"]["examples"],
        seed=config["data_seed"],
        batch_size=config["evaluation"]["batch_size"],
        threads=config["threads"]["merge"],
        code=code(
            "merge_by_stage.py",
            merger="{merger}",
            family="{encoder}",
            stages="{encoder}",
        ),
        env=env(NUMBERS),
    message:
        "Merging {wildcards.benchmark} on {wildcards.encoder} with {wildcards.merger}, stage by stage"
    script:
        "../workflow_scripts/merge_by_stage.py"
