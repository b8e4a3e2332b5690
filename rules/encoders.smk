# Base encoders, pretrained here or published, and their zero-shot heads.


def pretraining_of(wildcards):
    """The pretraining entry of an encoder's preset."""
    return preset("encoders", wildcards.encoder)["weights"]["pretrain"]


def of_pretraining_tasks(pattern):
    """Input function: the pattern for every task that the encoder is pretrained on."""

    def paths(wildcards):
        size = preset("encoders", wildcards.encoder)["image"]["size"]
        return expand(pattern, task=pretraining_of(wildcards)["tasks"], size=size)

    return paths


rule pretrain_encoder:
    message:
        "Pretraining {wildcards.encoder}"
    input:
        images=of_pretraining_tasks("<cache>/{task}/train_{size}px.safetensors"),
        classnames=of_pretraining_tasks(f"<data>/{{task}}/{CLASSNAMES}"),
        templates=of_pretraining_tasks(f"<data>/{{task}}/{TEMPLATES}"),
    output:
        base="<models>/{encoder}/base.safetensors",
        curve="<models>/{encoder}/pretraining.parquet",
    wildcard_constraints:
        encoder=one_of(PRETRAINED),
    params:
        encoder=at("encoders", "encoder"),
        recipe=lambda wildcards: preset("recipes", pretraining_of(wildcards)["recipe"]),
        seed=config["seed"],
        threads=config["threads"]["pretrain"],
        code=code("pretrain_encoder.py", family="{encoder}"),
        env=env(NUMBERS),
    threads: config["threads"]["pretrain"]
    log:
        "<logs>/models/{encoder}/base.log",
    benchmark:
        "<benchmarks>/models/{encoder}/base.jsonl"
    resources:
        gpu=1,
        mem_mb=memory,
    conda:
        "../envs/environment.yaml"
    script:
        "../workflow_scripts/pretrain_encoder.py"


rule fetch_encoder:
    message:
        "Fetching the published weights of {wildcards.encoder}"
    output:
        base="<models>/{encoder}/base.safetensors",
    wildcard_constraints:
        encoder=one_of(PUBLISHED),
    params:
        encoder=at("encoders", "encoder"),
        threads=config["threads"]["evaluate"],
        code=code("fetch_encoder.py", family="{encoder}"),
        env=env(NUMBERS),
    log:
        "<logs>/models/{encoder}/base.log",
    benchmark:
        "<benchmarks>/models/{encoder}/base.jsonl"
    resources:
        mem_mb=memory,
    conda:
        "../envs/environment.yaml"
    script:
        "../workflow_scripts/fetch_encoder.py"


rule build_head:
    message:
        "Zero-shot head of {wildcards.encoder} for {wildcards.task}"
    input:
        base="<models>/{encoder}/base.safetensors",
        classnames=f"<data>/{{task}}/{CLASSNAMES}",
        templates=f"<data>/{{task}}/{TEMPLATES}",
    output:
        head="<models>/{encoder}/heads/{task}.safetensors",
    params:
        encoder=at("encoders", "encoder"),
        threads=config["threads"]["evaluate"],
        code=code("build_head.py", family="{encoder}"),
        env=env(NUMBERS),
    threads: config["threads"]["evaluate"]
    log:
        "<logs>/models/{encoder}/heads/{task}.log",
    benchmark:
        "<benchmarks>/models/{encoder}/heads/{task}.jsonl"
    resources:
        gpu=1,
        mem_mb=memory,
    conda:
        "../envs/environment.yaml"
    script:
        "../workflow_scripts/build_head.py"
