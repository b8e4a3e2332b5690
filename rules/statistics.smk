# What training images say about a fine-tuned model: Fisher information, and Gram matrices of what its
# linear maps are fed.


rule estimate_fisher:
    input:
        base="<models>/{encoder}/base.safetensors",
        task_vector="<models>/{encoder}/{experts}/{task}/task_vector.safetensors",
        head="<models>/{encoder}/heads/{task}.safetensors",
        images=known_of_images("Fisher information is", training_images),
    output:
        fisher="<models>/{encoder}/{experts}/{task}/fisher.safetensors",
    log:
        "<logs>/models/{encoder}/{experts}/{task}/fisher.log",
    benchmark:
        "<benchmarks>/models/{encoder}/{experts}/{task}/fisher.jsonl"
    conda:
        "../envs/environment.yaml"
    threads: config["threads"]["evaluate"]
    resources:
        gpu=1,
        mem_mb=memory_of_statistics,
    params:
        encoder=model_of,
        examples=config["statistics"]["examples"],
        seed=config["data_seed"],
        batch_size=config["evaluation"]["batch_size"],
        threads=config["threads"]["evaluate"],
        code=code("estimate_fisher.py", family="{encoder}"),
        env=env(NUMBERS),
    message:
        "Fisher information of {wildcards.encoder} on {wildcards.task} ({wildcards.experts})"
    script:
        "../workflow_scripts/estimate_fisher.py"


rule collect_grams:
    input:
        base="<models>/{encoder}/base.safetensors",
        task_vector="<models>/{encoder}/{experts}/{task}/task_vector.safetensors",
        images=known_of_images("Gram matrices are", training_images),
    output:
        gram="<models>/{encoder}/{experts}/{task}/gram.safetensors",
    log:
        "<logs>/models/{encoder}/{experts}/{task}/gram.log",
    benchmark:
        "<benchmarks>/models/{encoder}/{experts}/{task}/gram.jsonl"
    conda:
        "../envs/environment.yaml"
    threads: config["threads"]["evaluate"]
    resources:
        gpu=1,
        mem_mb=memory_of_statistics,
    params:
        encoder=model_of,
        examples=config["statistics"]["examples"],
        seed=config["data_seed"],
        batch_size=config["evaluation"]["batch_size"],
        threads=config["threads"]["evaluate"],
        code=code("collect_grams.py", family="{encoder}", stages="{encoder}"),
        env=env(NUMBERS),
    message:
        "Gram matrices of {wildcards.encoder} on {wildcards.task} ({wildcards.experts})"
    script:
        "../workflow_scripts/collect_grams.py"
