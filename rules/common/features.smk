# Feature extractors, and the features of the splits of a benchmark.

from mergeloom.config.extractors import (
    ENCODER,
    choose_extractor,
    modality_of_extractor,
)

PUBLISHED_EXTRACTORS = [e for e, p in PRESETS["extractors"].items() if ENCODER not in p]
# Those that read the prompts of a task as they are, and not as an encoder's tokens.
SENTENCE_ENCODERS = [
    e
    for e in PUBLISHED_EXTRACTORS
    if modality_of_extractor(PRESETS["extractors"][e], PRESETS) == "text"
]
# What the versions of features depend on.
NETWORKS = (*NUMBERS, "timm", "transformers", "tokenizers")
# The splits that features are taken of, as they stand in a path; corrupted ones are of test images.
INPUTS_OF_FEATURES = r"(undersample/)?(train|val)|test(_[a-z_]+[1-5])?"
# Those that are made by themselves: all but what evaluations read.
FURTHER_INPUTS_OF_FEATURES = r"(undersample/)?train|undersample/val|test_[a-z_]+[1-5]"


@explained
def given_network(wildcards):
    """The files of a published extractor, where its preset names a folder."""
    extractor = preset("extractors", wildcards.extractor)
    folder = Path(extractor[source_name(extractor)]).expanduser()
    return sorted(str(file) for file in folder.rglob("*") if file.is_file())


def origin_of_extractor(wildcards):
    """Where a published extractor comes from, in words."""
    extractor = preset("extractors", wildcards.extractor)
    source = source_name(extractor)
    revision = f" (revision {extractor['revision']})" if "revision" in extractor else ""
    return f"{source.replace('_', '-')}, {extractor[source]}{revision}"


def encoder_of_extractor(wildcards):
    """The encoder whose base an extractor is, and how its examples are prepared; None for the others."""
    name = preset("extractors", wildcards.extractor).get(ENCODER)
    if name is None:
        return None
    texts = {k: v for k, v in preset("encoders", name).items() if k == "text"}
    return {**model_named(name), **texts}


def network_of_extractor(wildcards):
    """The weights of an extractor: an encoder's base, or what was fetched."""
    name = preset("extractors", wildcards.extractor).get(ENCODER)
    return expand(
        (
            "<models>/extractors/{extractor}.safetensors"
            if name is None
            else "<models>/{encoder}/base.safetensors"
        ),
        extractor=wildcards.extractor,
        encoder=name,
    )[0]


def check_modality(wildcards, inputs):
    """Refuse an extractor of texts for a task of images, and the other way round."""
    reads = modality_of_extractor(preset("extractors", wildcards.extractor), PRESETS)
    task = modality_of(preset("tasks", wildcards.task))
    if reads != task:
        raise MergeloomError(
            f"the extractor {wildcards.extractor!r} reads {reads}, but the task {wildcards.task!r} is "
            f"of {task}"
        )
    if reads == "text" and inputs not in SPLITS:
        raise MergeloomError(
            f"{inputs!r} is of images, and the task {wildcards.task!r} is of text"
        )


@explained
def examples_of_extractor(wildcards):
    """The split that features are taken of, in the form that the extractor reads."""
    return examples_in_form(wildcards, wildcards.inputs)


@explained
def evaluation_examples_of_extractor(wildcards):
    """Validation and test split, in the form that the extractor reads."""
    return [examples_in_form(wildcards, split) for split in ("val", "test")]


def examples_in_form(wildcards, inputs):
    """A split by how it stands in a path of features, in the form that the extractor reads."""
    extractor = preset("extractors", wildcards.extractor)
    check_modality(wildcards, inputs)
    form = (
        form_of(extractor[ENCODER])
        if ENCODER in extractor
        else f"{extractor['image']['size']}px"
    )
    split, _, corrupted = inputs.partition("_")
    if corrupted:
        corruption_and_severity(corrupted)
        form = f"{form}_{corrupted}"
    return expand(
        "<cache>/{task}/{split}_{form}.safetensors",
        task=wildcards.task,
        split=split,
        form=form,
    )[0]


@explained
def prompts_of_extractor(wildcards):
    """The table of the split that features of prompts are taken of."""
    split = wildcards.inputs
    check_modality(wildcards, split)
    return table_of(split, instead="train" if split == "val" else None)(wildcards)


@explained
def extractor_of(wildcards, of="encoder"):
    """The name of the extractor of an adapter on the encoder that the wildcard `of` names."""
    adapter = preset("adapters", wildcards.adapter)
    return choose_extractor(adapter, getattr(wildcards, of), PRESETS)


def features_of(split, of="benchmark", gate_of="encoder"):
    """Input function: the features of a split for every task of the benchmark that the wildcard `of`
    names, by the extractor of an adapter on the encoder that `gate_of` names.

    split : `train` or `val`, as the balancing of the collection has them, `test`, or a function of the
    wildcards that gives `test_{corruption}{severity}`.
    """

    def paths(wildcards):
        name = split(wildcards) if callable(split) else split
        undersampled = balancing_of(wildcards) == "undersample"
        return [
            path
            for task in tasks_of(wildcards, of)
            for path in expand(
                "<cache>/{task}/features/{extractor}/{inputs}.safetensors",
                task=task,
                extractor=extractor_of(wildcards, gate_of),
                inputs=as_balanced(name, task, undersampled),
            )
        ]

    return paths
