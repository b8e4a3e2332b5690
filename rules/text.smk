# Tasks of texts: written, downloaded, packed or given as tables; split; as the tokens of an encoder.


rule render_text_task:
    output:
        train="<data>/{task}/train.parquet",
        val="<data>/{task}/val.parquet",
        test="<data>/{task}/test.parquet",
    log:
        "<logs>/data/{task}/render.log",
    benchmark:
        "<benchmarks>/data/{task}/render.jsonl"
    wildcard_constraints:
        task=one_of(RENDERED_TEXTS),
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory,
    params:
        task=lambda wildcards: of_task(wildcards.task, "source", "answers"),
        seed=config["data_seed"],
        code=code("render_text_task.py", text_renderer="{task}"),
        env=env(("numpy", "pyarrow")),
    message:
        "Writing the texts of task {wildcards.task}"
    script:
        "../workflow_scripts/render_text_task.py"


# Which splits a task has depends on its preset, so that every task has a rule of its own.
for task in HUB_TEXTS:

    rule:
        name:
            f"download_{task}"
        output:
            **tables_made(task),
        log:
            f"<logs>/data/{task}/download.log",
        benchmark:
            f"<benchmarks>/data/{task}/download.jsonl"
        conda:
            "../envs/environment.yaml"
        resources:
            mem_mb=4000,
            downloads=1,
        params:
            task=texts_of(task),
            code=code("download_text_task.py"),
            env=env(("pyarrow",)),
        message:
            download_of(task)
        script:
            "../workflow_scripts/download_text_task.py"


for task in TEXT_FILES:

    rule:
        name:
            f"pack_{task}"
        input:
            unpack(given_files(task)),
        output:
            **tables_made(task),
        log:
            f"<logs>/data/{task}/pack.log",
        benchmark:
            f"<benchmarks>/data/{task}/pack.jsonl"
        conda:
            "../envs/environment.yaml"
        resources:
            mem_mb=memory,
        params:
            task=texts_of(task),
            code=code("pack_text_files.py"),
            env=env(("pyarrow",)),
        message:
            f"Packing the texts of task {task}"
        script:
            "../workflow_scripts/pack_text_files.py"


rule split_text_task:
    input:
        train=table_of("train"),
        val=table_of("val"),
        test=table_of("test"),
    output:
        splits="<cache>/{task}/splits.json",
    log:
        "<logs>/cache/{task}/splits.log",
    benchmark:
        "<benchmarks>/cache/{task}/splits.jsonl"
    wildcard_constraints:
        task=one_of(t for t in TEXT_TASKS if t not in RENDERED_TEXTS),
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory_of_stream,
    params:
        task=lambda wildcards: columns_of(wildcards.task),
        seed=config["data_seed"],
        allow_overlap=may_overlap,
        code=code("split_text_task.py"),
        env=env(("numpy", "pyarrow", "torch")),
    message:
        "Comparing the splits of {wildcards.task}"
    script:
        "../workflow_scripts/split_text_task.py"


rule build_tokenizer:
    input:
        train=of_pretraining_tasks("<data>/{task}/train.parquet"),
    output:
        tokenizer="<models>/{encoder}/tokenizer.json",
        record="<models>/{encoder}/tokenizer.json.provenance.json",
    log:
        "<logs>/models/{encoder}/tokenizer.log",
    benchmark:
        "<benchmarks>/models/{encoder}/tokenizer.jsonl"
    wildcard_constraints:
        encoder=one_of(e for e in PRETRAINED if e in TEXT_ENCODERS),
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory,
    params:
        tasks=tasks_of_pretraining,
        size=vocabulary_of,
        code=code("build_tokenizer.py"),
        env=env(("pyarrow", "tokenizers")),
    message:
        "Training the tokenizer of {wildcards.encoder}"
    script:
        "../workflow_scripts/build_tokenizer.py"


rule fetch_tokenizer:
    input:
        tokenizer=given_tokenizer,
    output:
        tokenizer="<models>/{encoder}/tokenizer.json",
        record="<models>/{encoder}/tokenizer.json.provenance.json",
    log:
        "<logs>/models/{encoder}/tokenizer.log",
    benchmark:
        "<benchmarks>/models/{encoder}/tokenizer.jsonl"
    wildcard_constraints:
        encoder=one_of(e for e in PUBLISHED if e in TEXT_ENCODERS),
    conda:
        "../envs/environment.yaml"
    resources:
        downloads=lambda wildcards: 0 if given_tokenizer(wildcards) else 1,
        mem_mb=2000,
    params:
        source=tokenizer_of_hub,
        size=vocabulary_of,
        code=code("fetch_tokenizer.py"),
        env=env(("tokenizers",)),
    message:
        "Fetching the tokenizer of {wildcards.encoder}"
    script:
        "../workflow_scripts/fetch_tokenizer.py"


rule tokenize_training_texts:
    input:
        train=table_of("train"),
        splits=record_of_texts,
        answers=occurring_answers,
        tokenizer="<models>/{encoder}/tokenizer.json",
    output:
        train="<cache>/{task}/train_{encoder}.safetensors",
    log:
        "<logs>/cache/{task}/train_{encoder}.log",
    benchmark:
        "<benchmarks>/cache/{task}/train_{encoder}.jsonl"
    wildcard_constraints:
        task=one_of(TEXT_TASKS),
        encoder=one_of(TEXT_ENCODERS),
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory_of_texts,
    params:
        task=asked,
        length=text_length,
        code=code("tokenize_texts.py"),
        env=env(("numpy", "pyarrow", "safetensors", "tokenizers")),
    message:
        "Tokenising the training texts of {wildcards.task} for {wildcards.encoder}"
    script:
        "../workflow_scripts/tokenize_texts.py"


use rule tokenize_training_texts as tokenize_evaluation_texts with:
    input:
        val=table_of("val", instead="train"),
        test=table_of("test"),
        splits=record_of_texts,
        answers=occurring_answers,
        tokenizer="<models>/{encoder}/tokenizer.json",
    output:
        val="<cache>/{task}/val_{encoder}.safetensors",
        test="<cache>/{task}/test_{encoder}.safetensors",
    log:
        "<logs>/cache/{task}/evaluation_{encoder}.log",
    benchmark:
        "<benchmarks>/cache/{task}/evaluation_{encoder}.jsonl"
    message:
        "Tokenising the validation and test texts of {wildcards.task} for {wildcards.encoder}"


rule build_answers:
    input:
        answers=occurring_answers,
        tokenizer="<models>/{encoder}/tokenizer.json",
    output:
        head="<models>/{encoder}/heads/{task}.safetensors",
    log:
        "<logs>/models/{encoder}/heads/{task}.log",
    benchmark:
        "<benchmarks>/models/{encoder}/heads/{task}.jsonl"
    wildcard_constraints:
        task=one_of(TEXT_TASKS),
        encoder=one_of(TEXT_ENCODERS),
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory_of_stream,
    params:
        task=answered,
        code=code("build_answers.py"),
        env=env(("numpy", "pyarrow", "safetensors", "tokenizers")),
    message:
        "Answers of {wildcards.task} for {wildcards.encoder}"
    script:
        "../workflow_scripts/build_answers.py"
