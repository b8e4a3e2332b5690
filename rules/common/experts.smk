# Collections of experts: how they are trained, on which images, what they keep, where they come from.

from mergeloom.config.study import resolve_epochs, resolve_import

IMPORTED = [e for e, p in PRESETS["experts"].items() if "import" in p]
TRAINED = [
    e for e, p in PRESETS["experts"].items() if "source" not in p and e not in IMPORTED
]


def of_selections(pattern, selections):
    """The pattern, whose `{experts}` are a run, for the run and for each of its selections, by name."""
    return {"last": pattern} | {
        selection: pattern.replace("{experts}", f"{{experts}}.{selection}")
        for selection in selections
    }


# Runs of training by what they keep beside the last epoch: one per collection that is no selection.
RUNS = {}
for experts in TRAINED:
    if "run" not in PRESETS["experts"][experts]:
        kept = tuple(sorted(PRESETS["experts"][experts].get("selections", [])))
        RUNS.setdefault(kept, []).append(experts)
# Collections that are made together with others: a run's own and its selections.
TOGETHER = [
    name
    for kept, runs in RUNS.items()
    for run in runs
    for name in expand(list(of_selections("{experts}", kept).values()), experts=run)
    if kept
]


def recipe_name(wildcards):
    """The recipe of a collection of experts: its own, or the encoder's."""
    named = preset("experts", wildcards.experts).get("recipe")
    return named or preset("encoders", wildcards.encoder)["recipe"]


@explained
def recipe_of(wildcards):
    """The recipe of a collection of experts for a task."""
    name, task = recipe_name(wildcards), wildcards.task
    return resolve_epochs(preset("recipes", name), name, preset("tasks", task), task)


def balancing_of(wildcards):
    """How a collection of experts balances classes; checkpoints not trained here do not."""
    experts = preset("experts", wildcards.experts)
    if "import" in experts or "source" in experts:
        return "none"
    return preset("recipes", recipe_name(wildcards)).get("balancing", "none")


def check_pretraining(encoder, tasks):
    """Refuse to undersample a task whose images of validation the base may have been trained on."""
    if encoder not in PRETRAINED:
        return
    for task in preset("encoders", encoder)["weights"]["pretrain"]["tasks"]:
        if task in tasks and not has_split(task, "val"):
            raise MergeloomError(
                f"{encoder} was pretrained on {task}, on images that would validate its undersampled "
                "experts: give the task a split `val`, or balance by `sampler`"
            )


def as_balanced(split, task, undersampled):
    """A split as it stands in a path: `undersample/val`, where a balanced collection has its own.

    A task with a split of its own for validation keeps that as it is.
    """
    drawn = split == "train" or (split == "val" and not has_split(task, split))
    return f"undersample/{split}" if undersampled and drawn else split


def images_of(split, of=None):
    """Input function: a decoded split, `train` or `val`, as a collection's balancing has it.

    Of the task of the path, or of every task of the benchmark that the wildcard `of` names.
    """

    def path(task, form, undersampled):
        return expand(
            "<cache>/{task}/{split}_{form}.safetensors",
            task=task,
            split=as_balanced(split, task, undersampled),
            form=form,
        )[0]

    @explained
    def paths(wildcards):
        form = form_of(wildcards.encoder)
        undersampled = balancing_of(wildcards) == "undersample"
        one = of is None
        tasks = (
            readable(wildcards.encoder, [wildcards.task])
            if one
            else tasks_of(wildcards, of)
        )
        if undersampled and wildcards.encoder in TEXT_ENCODERS:
            raise MergeloomError(
                f"undersampling is of images, and {wildcards.encoder} reads text: balance by `sampler`"
            )
        if undersampled:
            check_pretraining(wildcards.encoder, tasks)
        found = [path(task, form, undersampled) for task in tasks]
        return found[0] if of is None else found

    return paths


# Whatever belongs to a collection of experts reads its images by these, so that it sees no image that
# validates it.
training_images = images_of("train")
validation_images = images_of("val")
training_images_of_benchmark = images_of("train", of="benchmark")
validation_images_of_benchmark = images_of("val", of="benchmark")


def seed_of(wildcards):
    """The seed of a collection of experts: its own, or the configuration's."""
    return preset("experts", wildcards.experts).get("seed", config["seed"])


def run_of(wildcards):
    """The collection of experts whose training this one is of: itself, if it is no selection."""
    return preset("experts", wildcards.experts).get("run", wildcards.experts)


def log_trace_of(wildcards):
    """How the log-trace of a collection's models is estimated; None where it is not."""
    given = preset("experts", wildcards.experts).get("log_trace")
    known = known_of_images("the log-trace is", lambda _: given)
    return known(wildcards) if given else None


@explained
def import_of(wildcards):
    """Where an imported checkpoint comes from."""
    return resolve_import(
        wildcards.experts,
        preset("experts", wildcards.experts),
        encoder=wildcards.encoder,
        task=wildcards.task,
    )


def origin_of(wildcards):
    """The same, in words."""
    source = import_of(wildcards)
    if "path" in source:
        return source["path"]
    return f"{source['hub']}, {source['file']} (revision {source['revision']})"


# What may lie beside a checkpoint and say how its weights are used.
BESIDE = ("config.json", "adapter_config.json", "open_clip_config.json")


@explained
def given_checkpoint(wildcards):
    """The files of a checkpoint at hand, where it is one and not of the hub."""
    path = Path(import_of(wildcards).get("path", ""))
    if "path" not in import_of(wildcards):
        return []
    if path.is_dir():
        return sorted(str(file) for file in path.iterdir() if file.is_file())
    if not path.is_file():
        raise MergeloomError(
            f"{path}: no such file. It is the {wildcards.experts} checkpoint of {wildcards.task} on "
            f"{wildcards.encoder}: put it there, or set import.path of these experts."
        )
    return [
        str(path),
        *(str(f) for f in map(path.with_name, BESIDE) if f.is_file()),
    ]


# Wildcard constraint: collections of experts that are made by themselves, or do not exist.
ALONE = rf"(?!(?:{one_of(TOGETHER)})/){NAME}"


def runs_that_keep(selections):
    """Wildcard constraint: runs with these selections."""
    return one_of(RUNS[selections]) if selections else ALONE


def with_selections(selections):
    """Params function: the collections that a job is of, a run's and those of its selections."""
    names = of_selections("{experts}", selections).values()
    return lambda wildcards: expand(list(names), experts=wildcards.experts)


def each(pattern, selections):
    """The pattern for a run and for each of its selections."""
    return list(of_selections(pattern, selections).values())


def each_over_tasks(pattern, selections):
    """Input function: the pattern for every task of a benchmark, for a run and each selection."""
    functions = [over_tasks(of_one) for of_one in each(pattern, selections)]
    return lambda wildcards: [path for paths in functions for path in paths(wildcards)]


@explained
def log_trace_settings(wildcards):
    """How the log-trace of a collection's models is estimated, or an error that says what to add."""
    settings, experts = log_trace_of(wildcards), wildcards.experts
    if settings is None:
        remedy = (
            "add `log_trace: {mode: fisher, examples: 2000, sampling: shuffled}` to their preset"
            if experts in TRAINED
            else "they are trained elsewhere, and training conditions are those of a recipe"
        )
        raise MergeloomError(
            f"experts {experts!r} have no settings of the log-trace: {remedy}"
        )
    return settings


def traced_images(wildcards):
    """The training images of a benchmark's tasks, for collections that record a log-trace."""
    log_trace_settings(wildcards)
    return training_images_of_benchmark(wildcards)


def first_batch(wildcards):
    """The batch size of a collection's recipe."""
    return preset("recipes", recipe_name(wildcards))["batch_size"]
