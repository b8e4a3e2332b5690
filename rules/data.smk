# Tasks: rendered here or given as shards, and decoded once per encoder size.


rule render_task:
    message:
        "Rendering task {wildcards.task}"
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
    wildcard_constraints:
        task=one_of(RENDERED),
    params:
        task=at("tasks", "task"),
        seed=config["data_seed"],
        code=code("render_task.py", renderer="{task}"),
        env=env(PIXELS),
    log:
        "<logs>/data/{task}/render.log",
    benchmark:
        "<benchmarks>/data/{task}/render.jsonl"
    resources:
        mem_mb=memory,
    conda:
        "../envs/environment.yaml"
    script:
        "../workflow_scripts/render_task.py"


rule decode_images:
    message:
        "Decoding {wildcards.task} ({wildcards.split}) at {wildcards.size} px"
    input:
        shards=shards,
        classnames=f"<data>/{{task}}/{CLASSNAMES}",
    output:
        images="<cache>/{task}/{split}_{size}px.safetensors",
    params:
        size=lambda wildcards: int(wildcards.size),
        code=code("decode_images.py"),
        env=env(("numpy", "pillow", "safetensors")),
    log:
        "<logs>/cache/{task}/{split}_{size}px.log",
    benchmark:
        "<benchmarks>/cache/{task}/{split}_{size}px.jsonl"
    resources:
        mem_mb=memory,
    conda:
        "../envs/environment.yaml"
    script:
        "../workflow_scripts/decode_images.py"
