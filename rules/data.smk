# Tasks: rendered, downloaded, packed or given as shards; split; decoded once per encoder size.


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


# How many shards a split has depends on the task, so every task of the hub has a rule of its own.
for task in HUB:

    rule:
        name:
            f"download_{task}"
        output:
            **files_of(task),
        log:
            f"<logs>/data/{task}/download.log",
        benchmark:
            f"<benchmarks>/data/{task}/download.jsonl"
        conda:
            "../envs/environment.yaml"
        resources:
            mem_mb=2000,
            downloads=1,
        params:
            source=preset("tasks", task)["source"],
            classnames=preset("tasks", task)["classnames"],
            code=code("download_task.py"),
            env=env(("pillow",)),
        message:
            download_of(task)
        script:
            "../workflow_scripts/download_task.py"


for task in FOLDERS:

    rule:
        name:
            f"pack_{task}"
        input:
            unpack(split_folders(task)),
        output:
            **files_of(task),
        log:
            f"<logs>/data/{task}/pack.log",
        benchmark:
            f"<benchmarks>/data/{task}/pack.jsonl"
        conda:
            "../envs/environment.yaml"
        resources:
            mem_mb=2000,
        params:
            classnames=preset("tasks", task).get("classnames"),
            state=state_of_folder(task),
            code=code("pack_folder.py"),
            env=env(("pillow",)),
        message:
            f"Packing task {task} from {folder_of(task)}"
        script:
            "../workflow_scripts/pack_folder.py"


# Apart, so that another template downloads and packs nothing again.
rule write_templates:
    output:
        templates=f"<data>/{{task}}/{TEMPLATES}",
        record=f"<data>/{{task}}/{TEMPLATES}.provenance.json",
    log:
        "<logs>/data/{task}/templates.log",
    benchmark:
        "<benchmarks>/data/{task}/templates.jsonl"
    wildcard_constraints:
        task=one_of([*HUB, *FOLDERS]),
    localrule: True
    conda:
        "../envs/environment.yaml"
    params:
        templates=lambda wildcards: preset("tasks", wildcards.task)["templates"],
        code=code("write_templates.py"),
    message:
        "Templates of {wildcards.task}"
    script:
        "../workflow_scripts/write_templates.py"


rule split_task:
    input:
        train=shards_of("train"),
        val=shards_of("val"),
        test=shards_of("test"),
        classnames=f"<data>/{{task}}/{CLASSNAMES}",
    output:
        splits="<cache>/{task}/splits.json",
    log:
        "<logs>/cache/{task}/splits.log",
    benchmark:
        "<benchmarks>/cache/{task}/splits.jsonl"
    wildcard_constraints:
        task=one_of(t for t in IMAGE_TASKS if t not in RENDERED),
    conda:
        "../envs/environment.yaml"
    threads: threads_of_images
    resources:
        mem_mb=memory_of_stream,
    params:
        seed=config["data_seed"],
        allow_overlap=may_overlap,
        code=code("split_task.py"),
        env=env(("numpy", "pillow", "torch")),
    message:
        "Comparing the splits of {wildcards.task}"
    script:
        "../workflow_scripts/split_task.py"


rule balance_task:
    input:
        train=shards_of("train"),
        splits=record_of_splits,
        classnames=f"<data>/{{task}}/{CLASSNAMES}",
    output:
        record="<cache>/{task}/undersample.json",
    log:
        "<logs>/cache/{task}/undersample.log",
    benchmark:
        "<benchmarks>/cache/{task}/undersample.jsonl"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory_of_stream,
    params:
        seed=config["data_seed"],
        code=code("balance_task.py"),
        env=env(("numpy", "torch")),
    message:
        "Balancing the training images of {wildcards.task}"
    script:
        "../workflow_scripts/balance_task.py"


rule decode_training_images:
    input:
        train=shards_of("train"),
        splits=record_of_splits,
        classnames=f"<data>/{{task}}/{CLASSNAMES}",
    output:
        train="<cache>/{task}/train_{size}px.safetensors",
    log:
        "<logs>/cache/{task}/train_{size}px.log",
    benchmark:
        "<benchmarks>/cache/{task}/train_{size}px.jsonl"
    conda:
        "../envs/environment.yaml"
    threads: threads_of_images
    resources:
        mem_mb=memory_of_stream,
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
        val=shards_of("val", instead="train"),
        test=shards_of("test"),
        splits=record_of_splits,
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


use rule decode_training_images as decode_balanced_training_images with:
    input:
        train=shards_of("train"),
        splits=["<cache>/{task}/undersample.json"],
        classnames=f"<data>/{{task}}/{CLASSNAMES}",
    output:
        train="<cache>/{task}/undersample/train_{size}px.safetensors",
    log:
        "<logs>/cache/{task}/undersample/train_{size}px.log",
    benchmark:
        "<benchmarks>/cache/{task}/undersample/train_{size}px.jsonl"
    message:
        "Decoding the balanced training images of {wildcards.task} at {wildcards.size} px"


use rule decode_training_images as decode_balanced_validation_images with:
    input:
        val=shards_of("val", instead="train"),
        splits=["<cache>/{task}/undersample.json"],
        classnames=f"<data>/{{task}}/{CLASSNAMES}",
    output:
        val="<cache>/{task}/undersample/val_{size}px.safetensors",
    log:
        "<logs>/cache/{task}/undersample/val_{size}px.log",
    benchmark:
        "<benchmarks>/cache/{task}/undersample/val_{size}px.jsonl"
    message:
        "Decoding the validation images of {wildcards.task}, balanced, at {wildcards.size} px"
