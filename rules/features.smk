# Features of a split, once per extractor, task and split: whatever adapts or evaluates gates reads them.


rule fetch_extractor:
    input:
        files=given_network,
    output:
        network="<models>/extractors/{extractor}.safetensors",
    log:
        "<logs>/models/extractors/{extractor}.log",
    benchmark:
        "<benchmarks>/models/extractors/{extractor}.jsonl"
    wildcard_constraints:
        extractor=one_of(PUBLISHED_EXTRACTORS),
    conda:
        "../envs/environment.yaml"
    resources:
        downloads=lambda wildcards: 0 if given_network(wildcards) else 1,
        mem_mb=4000,
    params:
        extractor=at("extractors", "extractor"),
        origin=origin_of_extractor,
        code=code("fetch_extractor.py", fetcher="{extractor}"),
        env=env(NETWORKS),
    message:
        "Fetching the feature extractor {wildcards.extractor}: {params.origin}"
    script:
        "../workflow_scripts/fetch_extractor.py"


rule extract_features:
    input:
        network=network_of_extractor,
        examples=examples_of_extractor,
    output:
        features="<cache>/{task}/features/{extractor}/{inputs}.safetensors",
    log:
        "<logs>/cache/{task}/features/{extractor}/{inputs}.log",
    benchmark:
        "<benchmarks>/cache/{task}/features/{extractor}/{inputs}.jsonl"
    wildcard_constraints:
        extractor=rf"(?!(?:{one_of(SENTENCE_ENCODERS)})/){NAME}",
        inputs=FURTHER_INPUTS_OF_FEATURES,
    conda:
        "../envs/environment.yaml"
    threads: config["threads"]["evaluate"]
    resources:
        gpu=1,
        mem_mb=memory_of_model,
    params:
        extractor=at("extractors", "extractor"),
        encoder=encoder_of_extractor,
        batch_size=config["evaluation"]["batch_size"],
        threads=config["threads"]["evaluate"],
        code=code("extract_features.py", extractor="{extractor}"),
        env=env(NETWORKS),
    message:
        "Features of {wildcards.task}, {wildcards.inputs}, by {wildcards.extractor}"
    script:
        "../workflow_scripts/extract_features.py"


# A job starts for longer than a small network takes for what evaluations read, so that is one.
use rule extract_features as extract_features_of_evaluation with:
    input:
        network=network_of_extractor,
        examples=evaluation_examples_of_extractor,
    output:
        val="<cache>/{task}/features/{extractor}/val.safetensors",
        test="<cache>/{task}/features/{extractor}/test.safetensors",
    log:
        "<logs>/cache/{task}/features/{extractor}/evaluation.log",
    benchmark:
        "<benchmarks>/cache/{task}/features/{extractor}/evaluation.jsonl"
    wildcard_constraints:
        extractor=rf"(?!(?:{one_of(SENTENCE_ENCODERS)})/){NAME}",
    message:
        "Features of {wildcards.task}, validation and test, by {wildcards.extractor}"


rule extract_features_of_prompts:
    input:
        network=network_of_extractor,
        prompts=prompts_of_extractor,
        splits=record_of_texts,
        answers=occurring_answers,
    output:
        features="<cache>/{task}/features/{extractor}/{inputs}.safetensors",
    log:
        "<logs>/cache/{task}/features/{extractor}/{inputs}.log",
    benchmark:
        "<benchmarks>/cache/{task}/features/{extractor}/{inputs}.jsonl"
    wildcard_constraints:
        extractor=one_of(SENTENCE_ENCODERS),
        inputs=INPUTS_OF_FEATURES,
    conda:
        "../envs/environment.yaml"
    threads: config["threads"]["evaluate"]
    resources:
        gpu=1,
        mem_mb=memory_of_model,
    params:
        extractor=at("extractors", "extractor"),
        task=asked,
        batch_size=config["evaluation"]["batch_size"],
        threads=config["threads"]["evaluate"],
        code=code("extract_features_of_prompts.py", extractor="{extractor}"),
        env=env((*NETWORKS, "pyarrow")),
    message:
        "Features of {wildcards.task}, {wildcards.inputs}, by {wildcards.extractor}"
    script:
        "../workflow_scripts/extract_features_of_prompts.py"
