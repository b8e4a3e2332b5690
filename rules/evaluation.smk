# Accuracy on all tasks of a benchmark: of the fine-tuned models (computed once, what the rest is
# normalised by), of the base, and of merged models.


rule evaluate_finetuned:
    input:
        checkpoints=over_tasks(
            "<models>/{encoder}/{experts}/{task}/checkpoint.safetensors"
        ),
        heads=over_tasks("<models>/{encoder}/heads/{task}.safetensors"),
        val=validation_images_of_benchmark,
        test=over_tasks("<cache>/{task}/test_{size}px.safetensors"),
    output:
        result=f"<results>/{{encoder}}/{{experts}}/{{benchmark}}/{FINETUNED}.json",
    log:
        f"<logs>/results/{{encoder}}/{{experts}}/{{benchmark}}/{FINETUNED}.log",
    benchmark:
        f"<benchmarks>/results/{{encoder}}/{{experts}}/{{benchmark}}/{FINETUNED}.jsonl"
    conda:
        "../envs/environment.yaml"
    threads: config["threads"]["evaluate"]
    resources:
        gpu=1,
        mem_mb=memory_of_model,
    params:
        encoder=model_of,
        tasks=tasks_of,
        evaluation=config["evaluation"],
        threads=config["threads"]["evaluate"],
        code=code("evaluate_finetuned.py", family="{encoder}"),
        env=env(NUMBERS),
    message:
        "Evaluating the {wildcards.experts} experts of {wildcards.encoder} on {wildcards.benchmark}"
    script:
        "../workflow_scripts/evaluate_finetuned.py"


rule evaluate_zeroshot:
    input:
        base="<models>/{encoder}/base.safetensors",
        heads=over_tasks("<models>/{encoder}/heads/{task}.safetensors"),
        val=validation_images_of_benchmark,
        test=over_tasks("<cache>/{task}/test_{size}px.safetensors"),
        finetuned=f"<results>/{{encoder}}/{{experts}}/{{benchmark}}/{FINETUNED}.json",
    output:
        result=f"<results>/{{encoder}}/{{experts}}/{{benchmark}}/{ZEROSHOT}.json",
    log:
        f"<logs>/results/{{encoder}}/{{experts}}/{{benchmark}}/{ZEROSHOT}.log",
    benchmark:
        f"<benchmarks>/results/{{encoder}}/{{experts}}/{{benchmark}}/{ZEROSHOT}.jsonl"
    conda:
        "../envs/environment.yaml"
    threads: config["threads"]["evaluate"]
    resources:
        gpu=1,
        mem_mb=memory_of_model,
    params:
        encoder=model_of,
        tasks=tasks_of,
        merger=lambda wildcards: preset("mergers", ZEROSHOT),
        alpha={"how": "fixed", "value": 0.0},
        evaluation=config["evaluation"],
        threads=config["threads"]["evaluate"],
        code=code("evaluate_merged.py", family="{encoder}"),
        env=env(NUMBERS),
    message:
        "Evaluating {wildcards.encoder} zero-shot on {wildcards.benchmark}"
    script:
        "../workflow_scripts/evaluate_merged.py"


use rule evaluate_zeroshot as evaluate_merged with:
    input:
        base="<models>/{encoder}/base.safetensors",
        merged="<models>/{encoder}/{experts}/merged/{benchmark}/{merger}.safetensors",
        heads=over_tasks("<models>/{encoder}/heads/{task}.safetensors"),
        val=validation_images_of_benchmark,
        test=over_tasks("<cache>/{task}/test_{size}px.safetensors"),
        finetuned=f"<results>/{{encoder}}/{{experts}}/{{benchmark}}/{FINETUNED}.json",
    output:
        result="<results>/{encoder}/{experts}/{benchmark}/{merger}.json",
    log:
        "<logs>/results/{encoder}/{experts}/{benchmark}/{merger}.log",
    benchmark:
        "<benchmarks>/results/{encoder}/{experts}/{benchmark}/{merger}.jsonl"
    wildcard_constraints:
        merger=rf"(?!(?:{ZEROSHOT}|{FINETUNED})\.json){NAME}",
    params:
        encoder=model_of,
        tasks=tasks_of,
        merger=at("mergers", "merger"),
        alpha=alpha_of,
        evaluation=config["evaluation"],
        threads=config["threads"]["evaluate"],
        code=code("evaluate_merged.py", family="{encoder}"),
        env=env(NUMBERS),
    message:
        "Evaluating {wildcards.merger} on {wildcards.benchmark} ({wildcards.encoder})"
