# Tasks: rendered here or given as shards, and decoded once per encoder size.


rule render_task:
    output:
        train="<data>/{task}/train/0.tar",
        train_count="<data>/{task}/train/nshards.txt",
        val="<data>/{task}/val/0.tar",
        val_count="<data>/{task}/val/nshards.txt",
        test="<data>/{task}/test/0.tar",
        test_count="<data>/{task}/test/nshards.txt",
        classnames=f"<data>/{{task}}/{CLASSNAMES}",
        templates=f"<data>/{{task}}/{TEMPLATES}",
        record="<data>/{task}/.provenance.json",
    log:
        "<logs>/data/{task}/render.log",
    benchmark:
        "<benchmarks>/data/{task}/render.jsonl"
    wildcard_constraints:
        task=one_of(RENDERED),
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory,
    params:
        task=at("tasks", "task"),
        seed=config["data_seed"],
        code=code("render_task.py", renderer="{task}"),
        env=env(PIXELS),
    message:
        "Rendering task {wildcards.task}"
    script:
        "../workflow_scripts/render_task.py"


rule decode_training_images:
    input:
        train=shards_of("train"),
        classnames=f"<data>/{{task}}/{CLASSNAMES}",
    output:
        train="<cache>/{task}/train_{size}px.safetensors",
    log:
        "<logs>/cache/{task}/train_{size}px.log",
    benchmark:
        "<benchmarks>/cache/{task}/train_{size}px.jsonl"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory,
    params:
        size=lambda wildcards: int(wildcards.size),
        code=code("decode_images.py"),
        env=env(("numpy", "pillow", "safetensors")),
    message:
        "Decoding the training images of {wildcards.task} at {wildcards.size} px"
    script:
        "../workflow_scripts/decode_images.py"


use rule decode_training_images as decode_evaluation_images with:
    input:
        val=shards_of("val"),
        test=shards_of("test"),
        classnames=f"<data>/{{task}}/{CLASSNAMES}",
    output:
        val="<cache>/{task}/val_{size}px.safetensors",
        test="<cache>/{task}/test_{size}px.safetensors",
    log:
        "<logs>/cache/{task}/evaluation_{size}px.log",
    benchmark:
        "<benchmarks>/cache/{task}/evaluation_{size}px.jsonl"
    message:
        "Decoding the validation and test images of {wildcards.task} at {wildcards.size} px"
