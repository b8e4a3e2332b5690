# Accuracy on all tasks of a benchmark: of the fine-tuned models (computed once, what the rest is
# normalised by), of the base, and of merged models.


rule evaluate_finetuned:
    input:
        checkpoints=over_tasks(
            "<models>/{encoder}/{experts}/{task}/checkpoint.safetensors"
        ),
        heads=over_tasks("<models>/{encoder}/heads/{task}.safetensors"),
        val=validation_images_of_benchmark,
        test=over_tasks("<cache>/{task}/test_{form}.safetensors"),
    output:
        result=f"<results>/{{encoder}}/{{experts}}/{{benchmark}}/{FINETUNED}.json",
    log:
        f"<logs>/results/{{encoder}}/{{experts}}/{{benchmark}}/{FINETUNED}.log",
    benchmark:
        f"<benchmarks>/results/{{encoder}}/{{experts}}/{{benchmark}}/{FINETUNED}.jsonl"
    wildcard_constraints:
        experts=ALONE,
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
        code=code("evaluate_finetuned.py", family="{encoder}", evaluator="{encoder}"),
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
        test=over_tasks("<cache>/{task}/test_{form}.safetensors"),
        finetuned=f"<results>/{{encoder}}/{{experts}}/{{benchmark}}/{FINETUNED}.json",
    output:
        result=f"<results>/{{encoder}}/{{experts}}/{{benchmark}}/{ZEROSHOT}.json",
    log:
        f"<logs>/results/{{encoder}}/{{experts}}/{{benchmark}}/{ZEROSHOT}.log",
    benchmark:
        f"<benchmarks>/results/{{encoder}}/{{experts}}/{{benchmark}}/{ZEROSHOT}.jsonl"
    wildcard_constraints:
        experts=ALONE,
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
        code=code("evaluate_merged.py", family="{encoder}", evaluator="{encoder}"),
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
        test=over_tasks("<cache>/{task}/test_{form}.safetensors"),
        finetuned=f"<results>/{{encoder}}/{{experts}}/{{benchmark}}/{FINETUNED}.json",
    output:
        result="<results>/{encoder}/{experts}/{benchmark}/{merger}.json",
    log:
        "<logs>/results/{encoder}/{experts}/{benchmark}/{merger}.log",
    benchmark:
        "<benchmarks>/results/{encoder}/{experts}/{benchmark}/{merger}.jsonl"
    wildcard_constraints:
        experts=ALONE,
        merger=rf"(?!(?:{ZEROSHOT}|{FINETUNED})\.json){NAME}",
    params:
        encoder=model_of,
        tasks=tasks_of,
        merger=at("mergers", "merger"),
        alpha=alpha_of,
        evaluation=config["evaluation"],
        threads=config["threads"]["evaluate"],
        code=code("evaluate_merged.py", family="{encoder}", evaluator="{encoder}"),
        env=env(NUMBERS),
    message:
        "Evaluating {wildcards.merger} on {wildcards.benchmark} ({wildcards.encoder})"


# A job starts for as long as it evaluates, so those of a run and of its selections are one.
for selections in filter(None, RUNS):

    rule:
        name:
            f"evaluate_finetuned_of_{'_and_'.join(selections)}"
        input:
            checkpoints=each_over_tasks(
                "<models>/{encoder}/{experts}/{task}/checkpoint.safetensors",
                selections,
            ),
            heads=over_tasks("<models>/{encoder}/heads/{task}.safetensors"),
            val=validation_images_of_benchmark,
            test=over_tasks("<cache>/{task}/test_{form}.safetensors"),
        output:
            **of_selections(f"<results>/{STUDY}/{FINETUNED}.json", selections),
        log:
            f"<logs>/results/{STUDY}/{FINETUNED}.log",
        benchmark:
            f"<benchmarks>/results/{STUDY}/{FINETUNED}.jsonl"
        wildcard_constraints:
            experts=one_of(RUNS[selections]),
        conda:
            "../envs/environment.yaml"
        threads: config["threads"]["evaluate"]
        resources:
            gpu=1,
            mem_mb=memory_of_model,
        params:
            encoder=model_of,
            tasks=tasks_of,
            collections=with_selections(selections),
            evaluation=config["evaluation"],
            threads=config["threads"]["evaluate"],
            code=code(
                "evaluate_finetuned.py", family="{encoder}", evaluator="{encoder}"
            ),
            env=env(NUMBERS),
        message:
            "Evaluating the {wildcards.experts} experts of {wildcards.encoder} on {wildcards.benchmark}, and their selections"
        script:
            "../workflow_scripts/evaluate_finetuned.py"

    rule:
        name:
            f"evaluate_merged_of_{'_and_'.join(selections)}"
        input:
            base="<models>/{encoder}/base.safetensors",
            merged=each_merged(MERGED, selections),
            heads=over_tasks("<models>/{encoder}/heads/{task}.safetensors"),
            val=validation_images_of_benchmark,
            test=over_tasks("<cache>/{task}/test_{form}.safetensors"),
            finetuned=each(f"<results>/{STUDY}/{FINETUNED}.json", selections),
        output:
            **of_selections(f"<results>/{STUDY}/{{merger}}.json", selections),
        log:
            f"<logs>/results/{STUDY}/{{merger}}.log",
        benchmark:
            f"<benchmarks>/results/{STUDY}/{{merger}}.jsonl"
        wildcard_constraints:
            experts=one_of(RUNS[selections]),
            merger=rf"(?!{FINETUNED}\.json){NAME}",
        conda:
            "../envs/environment.yaml"
        threads: config["threads"]["evaluate"]
        resources:
            gpu=1,
            mem_mb=memory_of_model,
        params:
            encoder=model_of,
            tasks=tasks_of,
            collections=with_selections(selections),
            merger=at("mergers", "merger"),
            alpha=alpha_of,
            evaluation=config["evaluation"],
            threads=config["threads"]["evaluate"],
            code=code("evaluate_merged.py", family="{encoder}", evaluator="{encoder}"),
            env=env(NUMBERS),
        message:
            "Evaluating {wildcards.merger} on {wildcards.benchmark} ({wildcards.encoder}, {wildcards.experts} and selections)"
        script:
            "../workflow_scripts/evaluate_merged.py"
