# Fine-tuning of an encoder on one task, of CLIP its image tower; a run may keep the weights of more epochs than the last.


rule finetune_task:
    input:
        base="<models>/{encoder}/base.safetensors",
        head="<models>/{encoder}/heads/{task}.safetensors",
        train=training_images,
        val=validation_images,
    output:
        checkpoint="<models>/{encoder}/{experts}/{task}/checkpoint.safetensors",
        curve="<models>/{encoder}/{experts}/{task}/training.parquet",
    log:
        "<logs>/models/{encoder}/{experts}/{task}/checkpoint.log",
    benchmark:
        "<benchmarks>/models/{encoder}/{experts}/{task}/checkpoint.jsonl"
    wildcard_constraints:
        experts=one_of(RUNS[()]),
    conda:
        "../envs/environment.yaml"
    threads: config["threads"]["finetune"]
    resources:
        gpu=lambda wildcards: recipe_of(wildcards).get("devices", 1),
        mem_mb=memory_of_model,
    params:
        encoder=model_of,
        recipe=recipe_of,
        seed=seed_of,
        batch_size=config["evaluation"]["batch_size"],
        threads=config["threads"]["finetune"],
        code=code(
            "finetune_task.py",
            family="{encoder}",
            evaluator="{encoder}",
            recipe=recipe_name,
        ),
        env=env(NUMBERS),
    message:
        "Fine-tuning {wildcards.encoder} on {wildcards.task} ({wildcards.experts})"
    script:
        "../workflow_scripts/finetune_task.py"


# How many checkpoints a run ends in depends on its collection's preset. All are of one training.
for selections in filter(None, RUNS):

    rule:
        name:
            f"finetune_task_and_keep_{'_and_'.join(selections)}"
        input:
            base="<models>/{encoder}/base.safetensors",
            head="<models>/{encoder}/heads/{task}.safetensors",
            train=training_images,
            val=validation_images,
        output:
            **of_selections(
                "<models>/{encoder}/{experts}/{task}/checkpoint.safetensors",
                selections,
            ),
            curve="<models>/{encoder}/{experts}/{task}/training.parquet",
        log:
            "<logs>/models/{encoder}/{experts}/{task}/checkpoint.log",
        benchmark:
            "<benchmarks>/models/{encoder}/{experts}/{task}/checkpoint.jsonl"
        wildcard_constraints:
            experts=one_of(RUNS[selections]),
        conda:
            "../envs/environment.yaml"
        threads: config["threads"]["finetune"]
        resources:
            gpu=lambda wildcards: recipe_of(wildcards).get("devices", 1),
            mem_mb=memory_of_model,
        params:
            encoder=model_of,
            recipe=recipe_of,
            selections=selections,
            log_trace=log_trace_of,
            examples_seed=config["data_seed"],
            seed=seed_of,
            batch_size=config["evaluation"]["batch_size"],
            threads=config["threads"]["finetune"],
            code=code(
                "finetune_with_selections.py",
                family="{encoder}",
                evaluator="{encoder}",
                uses="{encoder}",
                recipe=recipe_name,
            ),
            env=env(NUMBERS),
        message:
            "Fine-tuning {wildcards.encoder} on {wildcards.task} ({wildcards.experts}), selecting epochs"
        script:
            "../workflow_scripts/finetune_with_selections.py"
