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


rule decode_images:
    input:
        shards=shards,
        classnames=f"<data>/{{task}}/{CLASSNAMES}",
    output:
        images="<cache>/{task}/{split}_{size}px.safetensors",
    log:
        "<logs>/cache/{task}/{split}_{size}px.log",
    benchmark:
        "<benchmarks>/cache/{task}/{split}_{size}px.jsonl"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory,
    params:
        size=lambda wildcards: int(wildcards.size),
        code=code("decode_images.py"),
        env=env(("numpy", "pillow", "safetensors")),
    message:
        "Decoding {wildcards.task} ({wildcards.split}) at {wildcards.size} px"
    script:
        "../workflow_scripts/decode_images.py"
