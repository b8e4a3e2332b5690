# What a study of training conditions measures beside results: accuracy on the training images and the
# log-trace of the Fisher information, of fine-tuned, merged and scaled models. One job measures a run and
# all its selections.

MEASURES = f"<results>/{STUDY}/conditions/{{merger}}.json"

for selections in dict.fromkeys([(), *RUNS]):

    rule:
        name:
            "_of_".join(filter(None, ["measure_finetuned", "_and_".join(selections)]))
        input:
            checkpoints=each_over_tasks(
                "<models>/{encoder}/{experts}/{task}/checkpoint.safetensors",
                selections,
            ),
            heads=over_tasks("<models>/{encoder}/heads/{task}.safetensors"),
            train=traced_images,
        output:
            **of_selections(
                f"<results>/{STUDY}/conditions/{FINETUNED}.json", selections
            ),
        log:
            f"<logs>/results/{STUDY}/conditions/{FINETUNED}.log",
        benchmark:
            f"<benchmarks>/results/{STUDY}/conditions/{FINETUNED}.jsonl"
        wildcard_constraints:
            experts=runs_that_keep(selections),
        conda:
            "../envs/environment.yaml"
        threads: config["threads"]["evaluate"]
        resources:
            gpu=1,
            mem_mb=memory_of_statistics,
        params:
            encoder=model_of,
            tasks=tasks_of,
            collections=with_selections(selections),
            log_trace=log_trace_settings,
            first_batch=first_batch,
            seed=config["data_seed"],
            batch_size=config["evaluation"]["batch_size"],
            precision=config["evaluation"]["precision"],
            threads=config["threads"]["evaluate"],
            code=code("measure_finetuned.py", family="{encoder}", uses="{encoder}"),
            env=env(NUMBERS),
        message:
            "Measuring the {wildcards.experts} experts of {wildcards.encoder} on training images of {wildcards.benchmark}"
        script:
            "../workflow_scripts/measure_finetuned.py"

    rule:
        name:
            "_of_".join(filter(None, ["measure_merged", "_and_".join(selections)]))
        input:
            base="<models>/{encoder}/base.safetensors",
            merged=each_merged(MERGED, selections),
            task_vectors=if_task_arithmetic(
                each_over_tasks(
                    "<models>/{encoder}/{experts}/{task}/task_vector.safetensors",
                    selections,
                )
            ),
            chosen=each(RESULT, selections),
            finetuned=each(f"<results>/{STUDY}/{FINETUNED}.json", selections),
            measures=each(f"<results>/{STUDY}/conditions/{FINETUNED}.json", selections),
            heads=over_tasks("<models>/{encoder}/heads/{task}.safetensors"),
            train=traced_images,
            test=if_task_arithmetic(
                over_tasks("<cache>/{task}/test_{form}.safetensors")
            ),
        output:
            **of_selections(MEASURES, selections),
        log:
            f"<logs>/results/{STUDY}/conditions/{{merger}}.log",
        benchmark:
            f"<benchmarks>/results/{STUDY}/conditions/{{merger}}.jsonl"
        wildcard_constraints:
            experts=runs_that_keep(selections),
            merger=rf"(?!{FINETUNED}\.json){NAME}",
        conda:
            "../envs/environment.yaml"
        threads: config["threads"]["evaluate"]
        resources:
            gpu=1,
            mem_mb=memory_of_statistics,
        params:
            encoder=model_of,
            tasks=tasks_of,
            collections=with_selections(selections),
            log_trace=log_trace_settings,
            first_batch=first_batch,
            seed=config["data_seed"],
            batch_size=config["evaluation"]["batch_size"],
            precision=config["evaluation"]["precision"],
            threads=config["threads"]["evaluate"],
            code=code("measure_merged.py", family="{encoder}", uses="{encoder}"),
            env=env(NUMBERS),
        message:
            "Measuring {wildcards.merger} on training images of {wildcards.benchmark} ({wildcards.encoder}, {wildcards.experts})"
        script:
            "../workflow_scripts/measure_merged.py"
