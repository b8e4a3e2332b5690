# Merged models on images that nothing was chosen on: corrupted test images, and the tasks of another
# benchmark. Alpha is that of the benchmark's own result.

CORRUPTED = "{corruption}{severity}"


rule corrupt_images:
    input:
        test="<cache>/{task}/test_{size}px.safetensors",
    output:
        images=f"<cache>/{{task}}/test_{{size}}px_{CORRUPTED}.safetensors",
    log:
        f"<logs>/cache/{{task}}/test_{{size}}px_{CORRUPTED}.log",
    benchmark:
        f"<benchmarks>/cache/{{task}}/test_{{size}}px_{CORRUPTED}.jsonl"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory_of_stream,
    params:
        corruption="{corruption}",
        severity=severity_of,
        size=lambda wildcards: int(wildcards.size),
        seed=config["data_seed"],
        code=code("corrupt_images.py", corruption="{corruption}"),
        env=env(("numpy", "scipy", "pillow", "safetensors")),
    message:
        "Corrupting the test images of {wildcards.task}: {wildcards.corruption} {wildcards.severity}"
    script:
        "../workflow_scripts/corrupt_images.py"


use rule evaluate_finetuned as evaluate_finetuned_on_corrupted with:
    input:
        checkpoints=over_tasks(
            "<models>/{encoder}/{experts}/{task}/checkpoint.safetensors"
        ),
        heads=over_tasks("<models>/{encoder}/heads/{task}.safetensors"),
        test=known_of_images(
            "corruptions are",
            over_tasks(f"<cache>/{{task}}/test_{{form}}_{CORRUPTED}.safetensors"),
        ),
    output:
        result=f"<results>/{STUDY}/corrupted/{CORRUPTED}/{FINETUNED}.json",
    log:
        f"<logs>/results/{STUDY}/corrupted/{CORRUPTED}/{FINETUNED}.log",
    benchmark:
        f"<benchmarks>/results/{STUDY}/corrupted/{CORRUPTED}/{FINETUNED}.jsonl"
    wildcard_constraints:
        experts=NAME,
    params:
        encoder=model_of,
        tasks=tasks_of,
        evaluated_on=lambda wildcards: {
            "corruption": wildcards.corruption,
            "severity": severity_of(wildcards),
        },
        evaluation=config["evaluation"],
        threads=config["threads"]["evaluate"],
        code=code("evaluate_finetuned.py", family="{encoder}", evaluator="{encoder}"),
        env=env(NUMBERS),
    message:
        "Evaluating the {wildcards.experts} experts of {wildcards.encoder} on {wildcards.benchmark}, {wildcards.corruption} {wildcards.severity}"


use rule evaluate_zeroshot as evaluate_on_corrupted with:
    input:
        base="<models>/{encoder}/base.safetensors",
        merged=of_merger(MERGED),
        chosen=of_merger(RESULT),
        heads=over_tasks("<models>/{encoder}/heads/{task}.safetensors"),
        test=known_of_images(
            "corruptions are",
            over_tasks(f"<cache>/{{task}}/test_{{form}}_{CORRUPTED}.safetensors"),
        ),
        finetuned=f"<results>/{STUDY}/corrupted/{CORRUPTED}/{FINETUNED}.json",
    output:
        result=f"<results>/{STUDY}/corrupted/{CORRUPTED}/{{merger}}.json",
    log:
        f"<logs>/results/{STUDY}/corrupted/{CORRUPTED}/{{merger}}.log",
    benchmark:
        f"<benchmarks>/results/{STUDY}/corrupted/{CORRUPTED}/{{merger}}.jsonl"
    wildcard_constraints:
        experts=NAME,
        merger=rf"(?!{FINETUNED}\.json){NAME}",
    params:
        encoder=model_of,
        tasks=tasks_of,
        merger=at("mergers", "merger"),
        alpha=alpha_elsewhere,
        evaluated_on=lambda wildcards: {
            "corruption": wildcards.corruption,
            "severity": severity_of(wildcards),
        },
        evaluation=config["evaluation"],
        threads=config["threads"]["evaluate"],
        code=code("evaluate_merged.py", family="{encoder}", evaluator="{encoder}"),
        env=env(NUMBERS),
    message:
        "Evaluating {wildcards.merger} on {wildcards.benchmark}, {wildcards.corruption} {wildcards.severity} ({wildcards.encoder})"


use rule evaluate_zeroshot as evaluate_on_other_tasks with:
    input:
        base="<models>/{encoder}/base.safetensors",
        merged=merged_for_all,
        chosen=of_merger(RESULT),
        heads=over_tasks("<models>/{encoder}/heads/{task}.safetensors", of="other"),
        test=over_tasks("<cache>/{task}/test_{form}.safetensors", of="other"),
        finetuned=f"<results>/{{encoder}}/{{experts}}/{{other}}/{FINETUNED}.json",
    output:
        result=f"<results>/{STUDY}/on/{{other}}/{{merger}}.json",
    log:
        f"<logs>/results/{STUDY}/on/{{other}}/{{merger}}.log",
    benchmark:
        f"<benchmarks>/results/{STUDY}/on/{{other}}/{{merger}}.jsonl"
    wildcard_constraints:
        experts=NAME,
    params:
        encoder=model_of,
        tasks=lambda wildcards: tasks_of(wildcards, "other"),
        merger=at("mergers", "merger"),
        alpha=alpha_elsewhere,
        evaluated_on=lambda wildcards: {
            "benchmark": wildcards.other,
            "unseen": [
                task
                for task in tasks_of(wildcards, "other")
                if task not in tasks_of(wildcards)
            ],
        },
        evaluation=config["evaluation"],
        threads=config["threads"]["evaluate"],
        code=code("evaluate_merged.py", family="{encoder}", evaluator="{encoder}"),
        env=env(NUMBERS),
    message:
        "Evaluating {wildcards.merger} of {wildcards.benchmark} on {wildcards.other} ({wildcards.encoder})"


rule tabulate_corrupted:
    input:
        clean=merger_results,
        corrupted=lambda wildcards: expand(
            f"<results>/{STUDY}/corrupted/{{corrupted}}/{{merger}}.json",
            corrupted=config["corruptions"],
            merger=ALL_ROWS,
            **wildcards,
        ),
    output:
        csv=report(
            f"<results>/{STUDY}/corrupted/summary.csv",
            caption="../config/report/corrupted.rst",
            category="{benchmark}",
            subcategory="{encoder}, {experts}",
            labels={"result": "accuracy on corrupted images"},
        ),
        markdown=f"<results>/{STUDY}/corrupted/summary.md",
        record=f"<results>/{STUDY}/corrupted/summary.csv.provenance.json",
    log:
        f"<logs>/results/{STUDY}/corrupted/summary.log",
    benchmark:
        f"<benchmarks>/results/{STUDY}/corrupted/summary.jsonl"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory,
    params:
        tasks=tasks_of,
        code=code("tabulate_corrupted.py"),
        env=env(PICTURES),
    message:
        "Accuracy on corrupted images of {wildcards.benchmark} ({wildcards.encoder}, {wildcards.experts})"
    script:
        "../workflow_scripts/tabulate_corrupted.py"
