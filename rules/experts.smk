# Public fine-tuned checkpoints, downloaded and converted once.


rule import_checkpoint:
    input:
        base="<models>/{encoder}/base.safetensors",
        given=given_checkpoint,
    output:
        checkpoint="<models>/{encoder}/{experts}/{task}/checkpoint.safetensors",
    log:
        "<logs>/models/{encoder}/{experts}/{task}/checkpoint.log",
    benchmark:
        "<benchmarks>/models/{encoder}/{experts}/{task}/checkpoint.jsonl"
    wildcard_constraints:
        encoder=one_of(IMAGE_ENCODERS),
        experts=one_of(IMPORTED),
    conda:
        "../envs/environment.yaml"
    resources:
        downloads=lambda wildcards: int("hub" in import_of(wildcards)),
        mem_mb=memory_of_model,
    params:
        encoder=model_of,
        source=import_of,
        origin=origin_of,
        code=code("import_checkpoint.py", family="{encoder}"),
        env=env(NUMBERS),
    message:
        "Importing {wildcards.task} of {wildcards.experts} for {wildcards.encoder}: {params.origin}"
    script:
        "../workflow_scripts/import_checkpoint.py"


rule import_text_checkpoint:
    input:
        base="<models>/{encoder}/base.safetensors",
        given=given_checkpoint,
    output:
        checkpoint="<models>/{encoder}/{experts}/{task}/checkpoint.safetensors",
    log:
        "<logs>/models/{encoder}/{experts}/{task}/checkpoint.log",
    benchmark:
        "<benchmarks>/models/{encoder}/{experts}/{task}/checkpoint.jsonl"
    wildcard_constraints:
        encoder=one_of(TEXT_ENCODERS),
        experts=one_of(IMPORTED),
    conda:
        "../envs/environment.yaml"
    resources:
        downloads=lambda wildcards: int("hub" in import_of(wildcards)),
        mem_mb=memory_of_model,
    params:
        encoder=model_of,
        source=import_of,
        origin=origin_of,
        code=code("import_text_checkpoint.py", family="{encoder}"),
        env=env(NUMBERS),
    message:
        "Importing {wildcards.task} of {wildcards.experts} for {wildcards.encoder}: {params.origin}"
    script:
        "../workflow_scripts/import_text_checkpoint.py"
