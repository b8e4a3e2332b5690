# Where the examples of a task come from; of images, its shards.

from mergeloom.data.image_folder import splits_of, state_of
from mergeloom.data.layout import SPLITS, made_shards, modality_of, source_of
from mergeloom.data.shards import CLASSNAMES, TEMPLATES, shard_paths

IMAGE_TASKS, TEXT_TASKS = (
    [t for t, p in PRESETS["tasks"].items() if modality_of(p) == modality]
    for modality in ("images", "text")
)
# Tasks of images by where they come from; those given as shards are in none.
RENDERED, HUB, FOLDERS = (
    [t for t in IMAGE_TASKS if source_of(PRESETS["tasks"][t]) == kind]
    for kind in ("rendered", "hub", "folder")
)


def files_of(task):
    """What is made of a task, as outputs: shards, how many, class names, record."""
    folder, splits = f"<data>/{task}", made_shards(preset("tasks", task))
    return (
        {s: [f"{folder}/{s}/{i}.tar" for i in range(n)] for s, n in splits.items()}
        | {f"{s}_count": f"{folder}/{s}/nshards.txt" for s in splits}
        | {"classnames": f"{folder}/{CLASSNAMES}"}
        | {"record": f"{folder}/.provenance.json"}
    )


def download_of(task):
    """What is downloaded for a task."""
    source = preset("tasks", task)["source"]
    files = (
        f"{split} ({', '.join(globs)})" for split, globs in source["files"].items()
    )
    return f"Downloading task {task}: {source['hub']} at {source['revision']}, {' and '.join(files)}"


def folder_of(task):
    """The folder that a task's images are given in."""
    return Path(preset("tasks", task)["source"]["folder"]).expanduser()


def split_folders(task):
    """Input function: the folders of the splits of a task that is given as a folder."""

    @explained
    def folders(wildcards):
        folder = folder_of(task)
        return {split: str(folder / split) for split in splits_of(folder)}

    return folders


def state_of_folder(task):
    """Params function: digest of the names, sizes and times of the images of a task's folder."""
    return explained(lambda wildcards: state_of(folder_of(task)))


def has_split(task, split):
    """Whether a task has a split of its own, as a rule will make it, or as it is there."""
    made = made_shards(preset("tasks", task))
    given = Path(ROOTS["data"], task, split)
    return (
        split in made
        if made
        else given.is_dir() or given.with_suffix(".parquet").is_file()
    )


def shards_of(split, instead=None):
    """Input function: the shards of a split, as a rule will make them, or as they are there.

    Of a task without a split of its own for validation, those of the split `instead`, if any.
    """

    @explained
    def shards(wildcards):
        if split == "val" and not has_split(wildcards.task, split):
            return shards_of(instead)(wildcards) if instead else []
        made = made_shards(preset("tasks", wildcards.task))
        folder = Path(ROOTS["data"], wildcards.task, split)
        if made:
            return [str(folder / f"{index}.tar") for index in range(made[split])]
        try:
            return [str(path) for path in shard_paths(folder)]
        except MergeloomError as error:
            raise MergeloomError(
                f"{error}\nPut the task's shards there, or point DATA_PATH or roots.data to them."
            ) from None

    return shards


def may_overlap(wildcards):
    """Whether the splits of a task may share images, by its preset or the configuration."""
    task = wildcards.task
    allowed = preset("tasks", task).get("allow_overlap", False)
    return allowed or task in config["allow_overlap"]


def record_of_splits(wildcards):
    """Which images a task trains and validates on; rendered splits are disjoint as they are drawn."""
    return (
        []
        if wildcards.task in RENDERED
        else expand("<cache>/{task}/splits.json", task=wildcards.task)
    )
