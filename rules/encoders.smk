# Base encoders, pretrained here or published, and their zero-shot heads.


rule pretrain_encoder:
    input:
        images=of_pretraining_tasks("<cache>/{task}/train_{form}.safetensors"),
        classnames=of_pretraining_tasks(f"<data>/{{task}}/{CLASSNAMES}"),
        templates=of_pretraining_tasks(f"<data>/{{task}}/{TEMPLATES}"),
    output:
        base="<models>/{encoder}/base.safetensors",
        curve="<models>/{encoder}/pretraining.parquet",
    log:
        "<logs>/models/{encoder}/base.log",
    benchmark:
        "<benchmarks>/models/{encoder}/base.jsonl"
    wildcard_constraints:
        encoder=one_of(e for e in PRETRAINED if e in IMAGE_ENCODERS),
    conda:
        "../envs/environment.yaml"
    threads: config["threads"]["pretrain"]
    resources:
        gpu=1,
        mem_mb=memory,
    params:
        encoder=model_and_weights,
        recipe=lambda wildcards: preset("recipes", pretraining_recipe(wildcards)),
        seed=config["seed"],
        threads=config["threads"]["pretrain"],
        code=code("pretrain_encoder.py", family="{encoder}", recipe=pretraining_recipe),
        env=env(NUMBERS),
    message:
        "Pretraining {wildcards.encoder}"
    script:
        "../workflow_scripts/pretrain_encoder.py"


rule pretrain_text_encoder:
    input:
        train=of_pretraining_tasks("<cache>/{task}/train_{form}.safetensors"),
        heads=of_pretraining_tasks("<models>/{encoder}/heads/{task}.safetensors"),
    output:
        base="<models>/{encoder}/base.safetensors",
        curve="<models>/{encoder}/pretraining.parquet",
    log:
        "<logs>/models/{encoder}/base.log",
    benchmark:
        "<benchmarks>/models/{encoder}/base.jsonl"
    wildcard_constraints:
        encoder=one_of(e for e in PRETRAINED if e in TEXT_ENCODERS),
    conda:
        "../envs/environment.yaml"
    threads: config["threads"]["pretrain"]
    resources:
        gpu=1,
        mem_mb=memory,
    params:
        encoder=model_and_weights,
        recipe=lambda wildcards: preset("recipes", pretraining_recipe(wildcards)),
        seed=config["seed"],
        threads=config["threads"]["pretrain"],
        code=code(
            "pretrain_text_encoder.py", family="{encoder}", recipe=pretraining_recipe
        ),
        env=env(NUMBERS),
    message:
        "Pretraining {wildcards.encoder}"
    script:
        "../workflow_scripts/pretrain_text_encoder.py"


rule fetch_encoder:
    input:
        weights=given_weights,
    output:
        base="<models>/{encoder}/base.safetensors",
    log:
        "<logs>/models/{encoder}/base.log",
    benchmark:
        "<benchmarks>/models/{encoder}/base.jsonl"
    wildcard_constraints:
        encoder=one_of(e for e in PUBLISHED if e in IMAGE_ENCODERS),
    conda:
        "../envs/environment.yaml"
    resources:
        downloads=lambda wildcards: 0 if given_weights(wildcards) else 1,
        mem_mb=8000,
    params:
        encoder=model_and_weights,
        origin=origin_of_encoder,
        code=code("fetch_encoder.py", family="{encoder}"),
        env=env(NUMBERS),
    message:
        "Fetching the published weights of {wildcards.encoder}: {params.origin}"
    script:
        "../workflow_scripts/fetch_encoder.py"


rule fetch_text_encoder:
    input:
        weights=given_weights,
    output:
        base="<models>/{encoder}/base.safetensors",
    log:
        "<logs>/models/{encoder}/base.log",
    benchmark:
        "<benchmarks>/models/{encoder}/base.jsonl"
    wildcard_constraints:
        encoder=one_of(e for e in PUBLISHED if e in TEXT_ENCODERS),
    conda:
        "../envs/environment.yaml"
    resources:
        downloads=lambda wildcards: 0 if given_weights(wildcards) else 1,
        mem_mb=8000,
    params:
        encoder=model_and_weights,
        origin=origin_of_encoder,
        code=code("fetch_text_encoder.py", family="{encoder}"),
        env=env(NUMBERS),
    message:
        "Fetching the published weights of {wildcards.encoder}: {params.origin}"
    script:
        "../workflow_scripts/fetch_text_encoder.py"


rule build_head:
    input:
        base="<models>/{encoder}/base.safetensors",
        classnames=f"<data>/{{task}}/{CLASSNAMES}",
        templates=f"<data>/{{task}}/{TEMPLATES}",
    output:
        head="<models>/{encoder}/heads/{task}.safetensors",
    log:
        "<logs>/models/{encoder}/heads/{task}.log",
    benchmark:
        "<benchmarks>/models/{encoder}/heads/{task}.jsonl"
    wildcard_constraints:
        encoder=one_of(IMAGE_ENCODERS),
    conda:
        "../envs/environment.yaml"
    threads: config["threads"]["evaluate"]
    resources:
        gpu=1,
        mem_mb=memory_of_model,
    params:
        encoder=model_of,
        threads=config["threads"]["evaluate"],
        code=code("build_head.py", family="{encoder}"),
        env=env(NUMBERS),
    message:
        "Zero-shot head of {wildcards.encoder} for {wildcards.task}"
    script:
        "../workflow_scripts/build_head.py"
