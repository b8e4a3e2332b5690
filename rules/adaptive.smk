# Adapters: coefficients of task vectors that depend on the input, found without labels at test time, and
# what the adapted models reach.


rule adapt_model:
    input:
        base="<models>/{encoder}/base.safetensors",
        task_vectors=vectors_combined,
        heads=over_tasks("<models>/{encoder}/heads/{task}.safetensors"),
        examples=inputs_adapted_to,
        val=validation_images_of_benchmark,
        features=features_read(split_adapted_to),
        val_features=features_read("val"),
        finetuned=f"<results>/{STUDY}/{FINETUNED}.json",
    output:
        **outputs_of(ADAPTED, OF_ADAPTATION),
    log:
        "<logs>/models/{encoder}/{experts}/adapted/{benchmark}/{adapter}.log",
    benchmark:
        "<benchmarks>/models/{encoder}/{experts}/adapted/{benchmark}/{adapter}.jsonl"
    conda:
        "../envs/environment.yaml"
    threads: config["threads"]["finetune"]
    resources:
        gpu=1,
        mem_mb=memory_of_mixture,
    params:
        encoder=model_of,
        tasks=tasks_of,
        adapter=adapted_preset,
        evaluation=of_validation(),
        seed=adapter_seed,
        threads=config["threads"]["finetune"],
        code=code(
            "adapt_model.py",
            adapter="{adapter}",
            family="{encoder}",
            supplied="{encoder}",
            evaluator="{encoder}",
        ),
        env=env(NUMBERS),
    message:
        "Adapting {wildcards.adapter} on {wildcards.benchmark} ({wildcards.encoder}, {wildcards.experts})"
    script:
        "../workflow_scripts/adapt_model.py"


use rule adapt_model as adapt_on_corrupted with:
    input:
        base="<models>/{encoder}/base.safetensors",
        task_vectors=vectors_combined,
        heads=over_tasks("<models>/{encoder}/heads/{task}.safetensors"),
        examples=corrupted_inputs,
        val=validation_images_of_benchmark,
        features=features_read(corrupted_split),
        val_features=features_read("val"),
        finetuned=f"<results>/{STUDY}/{FINETUNED}.json",
    output:
        **outputs_of(ADAPTED_TO_CORRUPTED, OF_ADAPTATION),
    log:
        f"<logs>/models/{{encoder}}/{{experts}}/adapted/{{benchmark}}/{CORRUPTED}/{{adapter}}.log",
    benchmark:
        f"<benchmarks>/models/{{encoder}}/{{experts}}/adapted/{{benchmark}}/{CORRUPTED}/{{adapter}}.jsonl"
    params:
        encoder=model_of,
        tasks=tasks_of,
        adapter=adapted_preset,
        corruption=corruption_of,
        evaluation=of_validation(),
        seed=adapter_seed,
        threads=config["threads"]["finetune"],
        code=code(
            "adapt_model.py",
            adapter="{adapter}",
            family="{encoder}",
            supplied="{encoder}",
            evaluator="{encoder}",
        ),
        env=env(NUMBERS),
    message:
        "Adapting {wildcards.adapter} on {wildcards.benchmark}, {wildcards.corruption} {wildcards.severity} ({wildcards.encoder})"


rule evaluate_adapted:
    input:
        adapted=f"{ADAPTED}.safetensors",
        base="<models>/{encoder}/base.safetensors",
        task_vectors=vectors_combined,
        svd=svd_of_low_rank,
        heads=over_tasks("<models>/{encoder}/heads/{task}.safetensors"),
        val=validation_images_of_benchmark,
        test=over_tasks("<cache>/{task}/test_{form}.safetensors"),
        features=features_read("test"),
        val_features=features_read("val"),
        finetuned=f"<results>/{STUDY}/{FINETUNED}.json",
    output:
        **outputs_of(f"{ADAPTIVE}/{{adapter}}", OF_EVALUATION),
    log:
        f"<logs>/results/adaptive/{STUDY}/{{adapter}}.log",
    benchmark:
        f"<benchmarks>/results/adaptive/{STUDY}/{{adapter}}.jsonl"
    conda:
        "../envs/environment.yaml"
    threads: config["threads"]["evaluate"]
    resources:
        gpu=1,
        mem_mb=memory_of_mixture,
    params:
        encoder=model_of,
        tasks=tasks_of,
        evaluated_tasks=tasks_of,
        adapter=evaluated_preset,
        evaluation=config["evaluation"],
        seed=adapter_seed,
        threads=config["threads"]["evaluate"],
        code=code(
            "evaluate_adapted.py",
            adapter="{adapter}",
            family="{encoder}",
            supplied="{encoder}",
            evaluator="{encoder}",
        ),
        env=env(NUMBERS),
    message:
        "Evaluating {wildcards.adapter} on {wildcards.benchmark} ({wildcards.encoder}, {wildcards.experts})"
    script:
        "../workflow_scripts/evaluate_adapted.py"


use rule evaluate_adapted as evaluate_adapted_on_corrupted with:
    input:
        adapted=f"{ADAPTED_TO_CORRUPTED}.safetensors",
        base="<models>/{encoder}/base.safetensors",
        task_vectors=vectors_combined,
        svd=svd_of_low_rank,
        heads=over_tasks("<models>/{encoder}/heads/{task}.safetensors"),
        test=over_tasks(f"<cache>/{{task}}/test_{{form}}_{CORRUPTED}.safetensors"),
        features=features_read(corrupted_split),
        finetuned=f"<results>/{STUDY}/corrupted/{CORRUPTED}/{FINETUNED}.json",
    output:
        **outputs_of(f"{ADAPTIVE}/corrupted/{CORRUPTED}/{{adapter}}", OF_EVALUATION),
    log:
        f"<logs>/results/adaptive/{STUDY}/corrupted/{CORRUPTED}/{{adapter}}.log",
    benchmark:
        f"<benchmarks>/results/adaptive/{STUDY}/corrupted/{CORRUPTED}/{{adapter}}.jsonl"
    params:
        encoder=model_of,
        tasks=tasks_of,
        evaluated_tasks=tasks_of,
        adapter=evaluated_preset,
        evaluated_on=corruption_of,
        evaluation=config["evaluation"],
        seed=adapter_seed,
        threads=config["threads"]["evaluate"],
        code=code(
            "evaluate_adapted.py",
            adapter="{adapter}",
            family="{encoder}",
            supplied="{encoder}",
            evaluator="{encoder}",
        ),
        env=env(NUMBERS),
    message:
        "Evaluating {wildcards.adapter} on {wildcards.benchmark}, {wildcards.corruption} {wildcards.severity} ({wildcards.encoder})"


use rule evaluate_adapted as evaluate_transferred with:
    input:
        adapted=state_of_source,
        base="<models>/{encoder}/base.safetensors",
        task_vectors=vectors_combined,
        svd=svd_of_low_rank,
        heads=over_tasks("<models>/{encoder}/heads/{task}.safetensors"),
        val=validation_images_of_benchmark,
        test=over_tasks("<cache>/{task}/test_{form}.safetensors"),
        features=features_read("test"),
        val_features=features_read("val"),
        finetuned=f"<results>/{STUDY}/{FINETUNED}.json",
    output:
        **outputs_of(f"{ADAPTIVE}/from/{{source}}/{{adapter}}", OF_EVALUATION),
    log:
        f"<logs>/results/adaptive/{STUDY}/from/{{source}}/{{adapter}}.log",
    benchmark:
        f"<benchmarks>/results/adaptive/{STUDY}/from/{{source}}/{{adapter}}.jsonl"
    message:
        "Evaluating {wildcards.adapter} of {wildcards.source} on {wildcards.encoder} ({wildcards.benchmark}, {wildcards.experts})"


use rule evaluate_adapted as evaluate_adapted_on_other_tasks with:
    input:
        adapted=f"{ADAPTED}.safetensors",
        base="<models>/{encoder}/base.safetensors",
        task_vectors=vectors_combined,
        svd=svd_of_low_rank,
        heads=over_tasks("<models>/{encoder}/heads/{task}.safetensors", of="other"),
        test=over_tasks("<cache>/{task}/test_{form}.safetensors", of="other"),
        features=features_read("test", of="other"),
        finetuned=f"<results>/{{encoder}}/{{experts}}/{{other}}/{FINETUNED}.json",
    output:
        **outputs_of(f"{ADAPTIVE}/on/{{other}}/{{adapter}}", OF_EVALUATION),
    log:
        f"<logs>/results/adaptive/{STUDY}/on/{{other}}/{{adapter}}.log",
    benchmark:
        f"<benchmarks>/results/adaptive/{STUDY}/on/{{other}}/{{adapter}}.jsonl"
    params:
        encoder=model_of,
        tasks=tasks_of,
        evaluated_tasks=lambda wildcards: tasks_of(wildcards, "other"),
        adapter=evaluated_preset,
        evaluated_on=unseen_tasks,
        evaluation=config["evaluation"],
        seed=adapter_seed,
        threads=config["threads"]["evaluate"],
        code=code(
            "evaluate_adapted.py",
            adapter="{adapter}",
            family="{encoder}",
            supplied="{encoder}",
            evaluator="{encoder}",
        ),
        env=env(NUMBERS),
    message:
        "Evaluating {wildcards.adapter} of {wildcards.benchmark} on {wildcards.other} ({wildcards.encoder})"
