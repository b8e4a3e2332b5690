# Merged models as folders that transformers and open_clip load by themselves, with a model card.


rule export_model:
    input:
        base="<models>/{encoder}/base.safetensors",
        merged=known_of_images("exports are", one_merged_model),
        result="<results>/{encoder}/{experts}/{benchmark}/{merger}.json",
        checkpoints=over_tasks(
            "<models>/{encoder}/{experts}/{task}/checkpoint.safetensors"
        ),
    output:
        folder=directory(
            "<models>/{encoder}/{experts}/exported/{benchmark}/{merger}/{format}"
        ),
    log:
        "<logs>/models/{encoder}/{experts}/exported/{benchmark}/{merger}/{format}.log",
    benchmark:
        "<benchmarks>/models/{encoder}/{experts}/exported/{benchmark}/{merger}/{format}.jsonl"
    wildcard_constraints:
        format=NAME,
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory_of_model,
    params:
        encoder=model_of,
        tasks=tasks_of,
        code=code("export_model.py", family="{encoder}"),
        env=env(NUMBERS),
    message:
        "Exporting {wildcards.merger} on {wildcards.benchmark} ({wildcards.encoder}) for {wildcards.format}"
    script:
        "../workflow_scripts/export_model.py"
