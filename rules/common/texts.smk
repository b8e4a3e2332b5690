# Where the texts of a task come from, its tables, and the tokenizers of encoders.

from mergeloom.data.answers import ANY
from mergeloom.data.prompts import fields_of
from mergeloom.models.t5_sizes import sizes

# Tasks of texts by where they come from; those given as tables are in none.
RENDERED_TEXTS, HUB_TEXTS, TEXT_FILES = (
    [t for t in TEXT_TASKS if source_of(PRESETS["tasks"][t]) == kind]
    for kind in ("rendered", "hub", "files")
)


def of_task(task, *keys):
    """Those of the keys that a task's preset has."""
    return {k: v for k, v in preset("tasks", task).items() if k in keys}


@explained
def columns_of(task):
    """Which columns of a task's tables are read, and how, whatever is asked of them."""
    fields = fields_of(preset("tasks", task)["prompt"])
    return {**of_task(task, "answers", "allow_empty"), "fields": fields}


def texts_of(task):
    """What a task's tables are made of files by; another wording, metric or epochs make none again."""
    return {**columns_of(task), "source": preset("tasks", task)["source"]}


def how_asked(task):
    """How a task's tables are read and asked."""
    return of_task(task, "prompt", "answers", "allow_empty")


def asked(wildcards):
    """Params function: the same, of the task of a path."""
    return how_asked(wildcards.task)


def answered(wildcards):
    """Params function: a task's answers, and how they are scored."""
    metric = preset("tasks", wildcards.task).get("metric", "accuracy")
    return {**of_task(wildcards.task, "answers"), "metric": metric}


def tables_made(task):
    """The tables that are made of a task, as outputs."""
    return {s: f"<data>/{task}/{s}.parquet" for s in made_shards(preset("tasks", task))}


def given_files(task):
    """Input function: the files of the splits of a task that is given as files."""

    @explained
    def files(wildcards):
        found = {
            split: [str(Path(name).expanduser()) for name in names]
            for split, names in preset("tasks", task)["source"]["files"].items()
        }
        missing = [
            f for names in found.values() for f in names if not Path(f).is_file()
        ]
        if missing:
            raise MergeloomError(
                f"task {task!r}: {missing[0]}: no such file; correct `source.files` in its preset. "
                "A relative path is relative to where snakemake runs."
            )
        return found

    return files


def table_of(split, instead=None):
    """Input function: the table of a split, as a rule will make it, or as it is there.

    Of a task without a split of its own for validation, that of the split `instead`, if any.
    """

    @explained
    def table(wildcards):
        task = wildcards.task
        if split == "val" and not has_split(task, split):
            return table_of(instead)(wildcards) if instead else []
        path = Path(ROOTS["data"], task, f"{split}.parquet")
        if not made_shards(preset("tasks", task)) and not path.is_file():
            raise MergeloomError(
                f"{path}: no such file. Put the task's tables there, or point DATA_PATH or "
                "roots.data to them; or name your files under `source.files` in its preset."
            )
        return str(path)

    return table


def occurring_answers(wildcards):
    """The tables that a task's answers are taken from, where its preset names none."""
    if preset("tasks", wildcards.task)["answers"] != ANY:
        return []
    splits = [s for s in ("train", "val", "test") if has_split(wildcards.task, s)]
    return [table_of(split)(wildcards) for split in splits]


def record_of_texts(wildcards):
    """Which texts a task trains and validates on; rendered splits are disjoint as they are drawn."""
    return (
        []
        if wildcards.task in RENDERED_TEXTS
        else expand("<cache>/{task}/splits.json", task=wildcards.task)
    )


def text_length(wildcards):
    """Params function: how many tokens of a text an encoder reads."""
    return preset("encoders", wildcards.encoder)["text"]["length"]


def tasks_of_pretraining(wildcards):
    """Params function: how the texts are asked that an encoder is pretrained on, in their order."""
    tasks = pretraining_of(wildcards)["tasks"]
    return [how_asked(task) for task in tasks]


@explained
def vocabulary_of(wildcards):
    """Params function: how many tokens an encoder has at most."""
    return sizes(preset("encoders", wildcards.encoder)["architecture"])["vocab_size"]


@explained
def given_tokenizer(wildcards):
    """The tokenizer beside published weights, where these are files at hand."""
    weights = given_weights(wildcards)
    if not weights:
        return []
    path = Path(weights[0]).parent / "tokenizer.json"
    if not path.is_file():
        raise MergeloomError(
            f"{path}: no such file. The tokenizer of the encoder {wildcards.encoder} belongs beside "
            "its weights: put the tokenizer.json of the model there."
        )
    return [str(path)]


def tokenizer_of_hub(wildcards):
    """Params function: the repository and revision that a published encoder's tokenizer is of."""
    encoder = preset("encoders", wildcards.encoder)
    return {
        "hub": encoder["architecture"].get("transformers"),
        "revision": encoder["weights"]["published"],
    }
