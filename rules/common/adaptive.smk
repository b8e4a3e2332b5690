# Adapters: what they are adapted to, which features they read, where their states lie.

from mergeloom.config.adapters import (
    SPLITS,
    check_serves,
    looks_at_inputs,
    reads_features,
)

ADAPTED = "<models>/{encoder}/{experts}/adapted/{benchmark}/{adapter}"
ADAPTED_TO_CORRUPTED = (
    "<models>/{encoder}/{experts}/adapted/{benchmark}/{corruption}{severity}/{adapter}"
)
ADAPTIVE = f"<results>/adaptive/{STUDY}"
# What an adaptation and an evaluation write.
OF_ADAPTATION = {
    "out": "safetensors",
    "checkpoints": "checkpoints.safetensors",
    "curve": "parquet",
    "times": "times.json",
}
OF_EVALUATION = {
    "result": "json",
    "coefficients": "coefficients.parquet",
    "times": "times.json",
}


def outputs_of(path, files):
    """Outputs by name: the path with the ending of each."""
    return {name: f"{path}.{ending}" for name, ending in files.items()}


def split_adapted_to(wildcards):
    """The split that an adapter is adapted to, as it stands in a path."""
    adaptation = preset("adapters", wildcards.adapter).get("adaptation", {})
    return SPLITS[adaptation.get("split", "test")]


def inputs_adapted_to(wildcards):
    """That split of every task; for an adapter that looks at no inputs, none."""
    if not looks_at_inputs(preset("adapters", wildcards.adapter)):
        return []
    split = split_adapted_to(wildcards)
    if split == "test":
        return over_tasks("<cache>/{task}/test_{form}.safetensors")(wildcards)
    return images_of(split, of="benchmark")(wildcards)


def corrupted_inputs(wildcards):
    """Corrupted test inputs of every task; for an adapter that looks at none, none."""
    if not looks_at_inputs(preset("adapters", wildcards.adapter)):
        return []
    return over_tasks(f"<cache>/{{task}}/test_{{form}}_{CORRUPTED}.safetensors")(
        wildcards
    )


@explained
def vectors_combined(wildcards):
    """What an adapter combines: the experts' task vectors, or a merger's, one per task in a file.

    One that does not serve the encoder is an error.
    """
    adapter = preset("adapters", wildcards.adapter)
    check_serves(wildcards.adapter, adapter, preset("encoders", wildcards.encoder))
    if "vectors" in adapter:
        return expand(MERGED, merger=adapter["vectors"], **wildcards)[0]
    return over_tasks("<models>/{encoder}/{experts}/{task}/task_vector.safetensors")(
        wildcards
    )


def svd_of_low_rank(wildcards):
    """SVD caches of the experts' task vectors, for an adapter that is evaluated in a low-rank form."""
    adapter = preset("adapters", wildcards.adapter)
    if "vectors" in adapter or "rank" not in adapter.get("evaluation", {}):
        return []
    return over_tasks("<models>/{encoder}/{experts}/{task}/svd.safetensors")(wildcards)


def features_read(split, of="benchmark"):
    """Input function: the features of a split that an adapter reads; none for one that reads none.

    split : `train`, `val` or `test`, or a function of the wildcards that gives how it stands in a path.
    """
    paths = features_of(split, of)
    return lambda wildcards: (
        paths(wildcards)
        if reads_features(preset("adapters", wildcards.adapter))
        else []
    )


def corrupted_split(wildcards):
    """Corrupted test inputs as they stand in a path of features."""
    return f"test_{wildcards.corruption}{severity_of(wildcards)}"


def corruption_of(wildcards):
    """Name and severity of a corruption."""
    return {"corruption": wildcards.corruption, "severity": severity_of(wildcards)}


def of_validation():
    """What validation while adapting takes of how the configuration evaluates."""
    return {key: config["evaluation"][key] for key in ("batch_size", "precision")}


def adapter_seed(wildcards):
    """Seed of an adapter: its own, or the configuration's."""
    return preset("adapters", wildcards.adapter).get("seed", config["seed"])


def adapted_preset(wildcards):
    """An adapter's preset but for its low-rank form, editing which adapts nothing anew."""
    adapter = preset("adapters", wildcards.adapter)
    evaluation = adapter.get("evaluation", {})
    kept = {key: value for key, value in evaluation.items() if key != "rank"}
    return {**adapter, "evaluation": kept}


def evaluated_preset(wildcards):
    """An adapter's preset without how it is adapted, which its state says."""
    adapter = preset("adapters", wildcards.adapter)
    return {key: value for key, value in adapter.items() if key != "adaptation"}


def unseen_tasks(wildcards):
    """What a result on the tasks of another benchmark says of them."""
    seen = tasks_of(wildcards)
    others = tasks_of(wildcards, "other")
    return {
        "benchmark": wildcards.other,
        "unseen": [task for task in others if task not in seen],
    }


@explained
def state_of_source(wildcards):
    """The state that was adapted on the encoder `source`, which must be another one."""
    preset("encoders", wildcards.source)
    if wildcards.source == wildcards.encoder:
        raise MergeloomError(
            f"{wildcards.source} is the encoder itself: its own result is "
            f"results/adaptive/{wildcards.encoder}/{wildcards.experts}/{wildcards.benchmark}/"
            f"{wildcards.adapter}.json"
        )
    path = f"{ADAPTED}.safetensors".replace("{encoder}", "{source}")
    return expand(path, **wildcards)[0]
