# Helpers of the rules: the checked configuration, presets by name, digests, input functions. No rules.

import os
import re
import sys
from functools import wraps
from pathlib import Path

from snakemake.exceptions import WorkflowError

# The library of this workflow, whether or not it is installed, too.
sys.path.insert(0, str(Path(workflow.basedir, "workflow_scripts")))

from mergeloom.config.conditions import (
    check_selection,
    collections,
    design,
    expand as expanded,
)
from mergeloom.config.presets import KINDS, check, choose, load_presets, schema_named
from mergeloom.io.roots import resolve_roots
from mergeloom.config.study import (
    FINETUNED,
    NAME,
    ZEROSHOT,
    check_study,
    corruption_and_severity,
    functions_of,
    inputs_of,
    is_task_arithmetic,
    parts_of,
    resolve_alpha,
    resolve_epochs,
    resolve_import,
)
from mergeloom.data.layout import made_shards, source_of
from mergeloom.data.image_folder import splits_of, state_of
from mergeloom.data.shards import CLASSNAMES, TEMPLATES, shard_paths
from mergeloom.errors import MergeloomError
from mergeloom.evaluation.results import no_model_of_unseen_tasks
from mergeloom.provenance.code import digest, lookup
from mergeloom.provenance.environment import environment_digest
from mergeloom.report.published import lookup as lookup_published, read_published

# Threads of OpenMP that wait for another spin for long by default. On a machine that does anything else
# beside, two threads were then 19 times slower than with this; on a quiet one it makes no difference.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

BASE = Path(workflow.basedir)
# What the versions of numbers depend on; rendered images depend on fonts and data sets, too.
NUMBERS = (
    "torch",
    "numpy",
    "safetensors",
    "open-clip-torch",
    "lightning-fabric",
    "pillow",
)
PIXELS = ("numpy", "pillow", "matplotlib", "scikit-learn")
PICTURES = ("matplotlib", "pandas", "numpy")


def explained(function):
    """The function, with errors that Snakemake shows as they are written."""

    @wraps(function)
    def wrapped(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except MergeloomError as error:
            raise WorkflowError(str(error)) from None

    return wrapped


@explained
def checked():
    """The configuration's roots, all presets by kind and the published figures, all checked."""
    schemas = BASE / "config" / "schema"
    check(config, schema_named(schemas, "config"), "config")
    roots = resolve_roots(config["roots"], Path.cwd())
    folders = [
        f if (f := Path(p)).is_absolute() or f.is_dir() else BASE / f
        for p in config["presets"]
    ]
    presets = {k: load_presets(k, folders, schema_named(schemas, k)) for k in KINDS}
    presets = expanded(presets, schema_named(schemas, "recipes"))
    check_study(config, presets)
    return roots, presets, read_published(folders)


ROOTS, PRESETS, PUBLISHED_FIGURES = checked()
config["roots"] = ROOTS


@explained
def preset(kind, name):
    """A preset by name; an unknown name is an error that lists what exists."""
    if kind == "experts":
        check_selection(name, PRESETS[kind])
    return choose(kind, PRESETS[kind], name)


def at(kind, wildcard):
    """Params function: the preset named by a wildcard."""
    return lambda wildcards: preset(kind, getattr(wildcards, wildcard))


def model_of(wildcards):
    """What an encoder is, without how it is trained: editing its recipe re-runs what trains it."""
    encoder = preset("encoders", wildcards.encoder)
    return {key: encoder[key] for key in ("family", "architecture", "image")}


def model_and_weights(wildcards):
    """The same, and where the weights of its base come from."""
    weights = preset("encoders", wildcards.encoder)["weights"]
    return {**model_of(wildcards), "weights": weights}


def code(script, **registry):
    """Params function: digest of all code that a script can run.

    Wildcards in the values of `registry` name presets: `merger="{merger}"` means that preset's method
    and modifiers. A value may also be a function of the wildcards that gives the name.
    """
    registered = {
        "merger": lambda name: functions_of(preset("mergers", name)),
        "family": lambda name: {"family": preset("encoders", name)["family"]},
        "stages": lambda name: {"stages": preset("encoders", name)["family"]},
        "uses": lambda name: {"uses": preset("encoders", name)["family"]},
        "corruption": lambda name: {"corruption": name},
        "renderer": lambda name: {
            "renderer": preset("tasks", name)["source"]["rendered"]
        },
        "recipe": lambda name: parts_of(preset("recipes", name)),
    }

    @explained
    def digest_of(wildcards):
        names = {}
        for kind, name in registry.items():
            given = (
                name(wildcards) if callable(name) else name.format(**dict(wildcards))
            )
            names |= registered[kind](given)
        return digest(script, **names)

    return digest_of


@explained
def env(packages):
    """Digest of the locked versions of packages."""
    return environment_digest(BASE / "envs" / "requirements.txt", packages)


def one_of(names):
    """Wildcard constraint: one of these names, or nothing at all where there are none."""
    return "|".join(map(re.escape, names)) or "(?!)"


def memory(wildcards, input, attempt):
    """Megabytes for a job that holds a few copies of its inputs beside torch."""
    return int((1500 + 3 * input.size_mb) * 1.5 ** (attempt - 1))


def memory_of_model(wildcards, input, attempt):
    """Megabytes for a job that uses a model beside torch; images stay where they are, mapped."""
    weights = [f for f in input if f.startswith(f"{ROOTS['models']}/")]
    return int(
        (3000 + 6 * max(map(os.path.getsize, weights)) / 1e6) * 1.5 ** (attempt - 1)
    )


def memory_of_stream(wildcards, attempt):
    """Megabytes for a job that holds a few images at a time, and a line for each of a split's."""
    return int(2000 * 1.5 ** (attempt - 1))


def threads_of_images(wildcards):
    """Threads that decode images; rendered tasks are so small that they rather run side by side."""
    return 1 if wildcards.task in RENDERED else 4


def memory_of_merge(wildcards, input, attempt):
    """Megabytes for a job that streams its inputs: torch, a model, and a parameter of all tasks."""
    return int((2000 + 0.15 * input.size_mb) * 1.5 ** (attempt - 1))


def memory_of_statistics(wildcards, attempt):
    """Megabytes for a job that holds a model and gradients or Gram matrices, more than it takes itself."""
    return int(12000 * 1.5 ** (attempt - 1))


def memory_of_propagation(wildcards, attempt):
    """Megabytes for a job that lets examples of all tasks pass a model, besides merging it."""
    pixels = preset("encoders", wildcards.encoder)["image"]["size"] ** 2
    tasks = len(tasks_of(wildcards))
    # A patch of 14 × 14 pixels has 1024 activations; a Gram matrix of ViT-L-14 has 4096 rows.
    activations = config["statistics"]["examples"] * pixels * (4 * 1024 / 14**2) / 1e6
    return int((6000 + tasks * (100 + activations)) * 1.5 ** (attempt - 1))


# Tasks by where their images come from; those given as shards are in none.
RENDERED, HUB, FOLDERS = (
    [t for t, p in PRESETS["tasks"].items() if source_of(p) == kind]
    for kind in ("rendered", "hub", "folder")
)
PRETRAINED = [e for e, p in PRESETS["encoders"].items() if "pretrain" in p["weights"]]
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
# Mergers that let images pass the model while they merge it.
PROPAGATING = [m for m, p in PRESETS["mergers"].items() if "propagated" in inputs_of(p)]
PUBLISHED = [e for e, p in PRESETS["encoders"].items() if "published" in p["weights"]]


def tasks_of(wildcards, of="benchmark"):
    """The tasks of a benchmark; the other names of the path must exist, too."""
    preset("encoders", wildcards.encoder)
    preset("experts", wildcards.experts)
    return preset("benchmarks", getattr(wildcards, of))


def over_tasks(pattern, of="benchmark", **fixed):
    """Input function: the pattern for every task of a benchmark; `{size}` is the encoder's.

    Further names in the pattern are given as values, or as functions of the wildcards.
    """

    def paths(wildcards):
        size = preset("encoders", wildcards.encoder)["image"]["size"]
        given = {k: v(wildcards) if callable(v) else v for k, v in fixed.items()}
        return expand(
            pattern, task=tasks_of(wildcards, of), size=size, **{**wildcards, **given}
        )

    return paths


def of_studies(pattern, experts=None, **more):
    """The pattern for every encoder, collection of experts and benchmark of the configuration."""
    return expand(
        pattern,
        encoder=config["encoders"],
        experts=config["experts"] if experts is None else experts,
        benchmark=config["benchmarks"],
        **more,
    )


def of_tasks(pattern):
    """The pattern for every encoder, collection of experts and task of the configuration."""
    tasks = dict.fromkeys(
        t for b in config["benchmarks"] for t in PRESETS["benchmarks"][b]
    )
    return expand(
        pattern, encoder=config["encoders"], experts=config["experts"], task=tasks
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
    return split in made if made else Path(ROOTS["data"], task, split).is_dir()


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


def images_of(split, of=None):
    """Input function: a decoded split, `train` or `val`, as a collection's balancing has it.

    Of the task of the path, or of every task of the benchmark that the wildcard `of` names. A task
    with a split of its own for validation keeps that as it is.
    """

    def path(task, size, undersampled):
        drawn = split == "train" or not has_split(task, split)
        folder = "undersample/" if undersampled and drawn else ""
        return expand(
            "<cache>/{task}/{folder}{split}_{size}px.safetensors",
            task=task,
            folder=folder,
            split=split,
            size=size,
        )[0]

    @explained
    def paths(wildcards):
        size = preset("encoders", wildcards.encoder)["image"]["size"]
        undersampled = balancing_of(wildcards) == "undersample"
        if of is None:
            return path(wildcards.task, size, undersampled)
        return [path(task, size, undersampled) for task in tasks_of(wildcards, of)]

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
    return preset("experts", wildcards.experts).get("log_trace")


@explained
def collections_of(wildcards):
    """The collections of experts of a sweep, in the order of condition, selection and seed."""
    return collections(wildcards.sweep, PRESETS)


@explained
def design_of(wildcards):
    """What the conditions of a sweep change of its recipe."""
    return design(wildcards.sweep, PRESETS)


def of_sweep(pattern, finetuned=True):
    """Input function: the pattern for the mergers of a sweep, and the fine-tuned models before them,
    of every collection in turn."""

    def paths(wildcards):
        mergers = preset("conditions", wildcards.sweep)["mergers"]
        return [
            path
            for collection in collections_of(wildcards)
            for path in expand(
                pattern,
                encoder=wildcards.encoder,
                experts=collection.experts,
                benchmark=wildcards.benchmark,
                merger=[FINETUNED, *mergers] if finetuned else mergers,
            )
        ]

    return paths


def curves_of_sweep(of_all_seeds):
    """Input function: the training curves of every run of a sweep in turn, task by task."""

    def paths(wildcards):
        found = collections_of(wildcards)
        seeds = {c.seed for c in found} if of_all_seeds else {found[0].seed}
        return expand(
            "<models>/{encoder}/{run}/{task}/training.parquet",
            encoder=wildcards.encoder,
            run=dict.fromkeys(c.run for c in found if c.seed in seeds),
            task=preset("benchmarks", wildcards.benchmark),
        )

    return paths


def zeroshot_of_sweep(wildcards):
    """The zero-shot result, which is the same beside all collections: that beside the first."""
    experts = collections_of(wildcards)[0].experts
    return expand(RESULT, experts=experts, merger=ZEROSHOT, **wildcards)


@explained
def alpha_of(wildcards):
    """How alpha is chosen for this merger, encoder and benchmark."""
    merger = preset("mergers", wildcards.merger)
    return resolve_alpha(
        merger, encoder=wildcards.encoder, benchmark=wildcards.benchmark
    )


def gives_one_per_task(wildcards):
    """Whether this merger gives one model per task."""
    method = preset("mergers", wildcards.merger)["method"]
    return bool(lookup("merger", method).options.get("per_task"))


def needs(wildcards, what):
    """Whether the functions of this merger take an input."""
    return what in inputs_of(preset("mergers", wildcards.merger))


def if_needed(what):
    """Input function: a file of this name for every task, for the mergers that take it."""

    def paths(wildcards):
        if not needs(wildcards, what):
            return []
        return expand(
            f"<models>/{{encoder}}/{{experts}}/{{task}}/{what}.safetensors",
            task=tasks_of(wildcards),
            **wildcards,
        )

    return paths


def sum_cache(wildcards):
    """SVD cache of the sum of the task vectors, for the mergers that read it."""
    path = "<models>/{encoder}/{experts}/summed/{benchmark}/svd.safetensors"
    return expand(path, **wildcards) if needs(wildcards, "summed") else []


def merger_seed(wildcards):
    """Seed of a merger that draws random numbers: its own, or the configuration's."""
    if not needs(wildcards, "random"):
        return 0
    return preset("mergers", wildcards.merger).get("seed", config["seed"])


# The figures of a study, and which rule draws them.
RESULT_FIGURES = ("radar", "averages", "alpha_curves")
VECTOR_FIGURES = ("task_vector_cosine", "singular_values")
FIGURES = (*RESULT_FIGURES, *VECTOR_FIGURES)
STUDY = "{encoder}/{experts}/{benchmark}"


ALL_ROWS = [ZEROSHOT, *(m for m in config["mergers"] if m != ZEROSHOT), FINETUNED]
MERGED = "<models>/{encoder}/{experts}/merged/{benchmark}/{merger}.safetensors"
RESULT = f"<results>/{STUDY}/{{merger}}.json"


def merger_results(wildcards):
    """Results of the configured mergers in their order, and of the fine-tuned models."""
    return expand(RESULT, merger=ALL_ROWS, **wildcards)


def of_merger(pattern):
    """Input function: the pattern for a merger, and nothing for the base and the experts."""
    return lambda wildcards: (
        []
        if wildcards.merger in (ZEROSHOT, FINETUNED)
        else expand(pattern, **wildcards)[0]
    )


def published_figures(wildcards):
    """The published figures of this study's mergers, as mappings."""
    known = lookup_published(
        PUBLISHED_FIGURES, wildcards.encoder, wildcards.benchmark, wildcards.experts
    )
    return [
        figure._asdict()
        for merger in ALL_ROWS
        for figure in known.get(merger, {}).values()
    ]


def only(name, input_function):
    """Input function: what another gives, for one merger alone."""
    return lambda wildcards: (
        input_function(wildcards) if wildcards.merger == name else []
    )


@explained
def severity_of(wildcards):
    """Severity of a corruption, checked; its name is by the look-up of its code."""
    return corruption_and_severity(wildcards.corruption + wildcards.severity)[1]


def alpha_elsewhere(wildcards):
    """Alpha of the merger's own result; the base has none to take."""
    if wildcards.merger == ZEROSHOT:
        return {"how": "fixed", "value": 0.0}
    return {"how": "result"}


@explained
def merged_for_all(wildcards):
    """The merged model, which must be one for all tasks; the base is evaluated without."""
    if wildcards.merger == FINETUNED:
        raise MergeloomError(
            f"the fine-tuned models of {wildcards.benchmark} belong to its own tasks; those of "
            f"{wildcards.other} are in {wildcards.encoder}/{wildcards.experts}/{wildcards.other}/"
            f"{FINETUNED}.json"
        )
    if gives_one_per_task(wildcards):
        raise MergeloomError(no_model_of_unseen_tasks(wildcards.merger))
    return of_merger(MERGED)(wildcards)


def wandb_logs(wildcards):
    """Markers of W&B runs, when they are asked for."""
    return (
        []
        if config["wandb"]["mode"] == "disabled"
        else of_studies(f"<results>/{STUDY}/wandb.txt")
    )


def pretraining_of(wildcards):
    """The pretraining entry of an encoder's preset."""
    return preset("encoders", wildcards.encoder)["weights"]["pretrain"]


# What ends the name of a file of weights, and no tag of open_clip.
WEIGHTS = (".pt", ".pth", ".bin", ".safetensors")


@explained
def given_weights(wildcards):
    """The file that published weights come from, where it is one at hand and not a tag of the hub."""
    weights = preset("encoders", wildcards.encoder)["weights"]["published"]
    if Path(weights).is_file():
        return [weights]
    if "/" in weights or weights.endswith(WEIGHTS):
        raise MergeloomError(
            f"{weights}: no such file. It is weights.published of the encoder {wildcards.encoder}: put "
            "the file there, or set the key to a tag of open_clip (`python -m open_clip.pretrained`)."
        )
    return []


def origin_of_encoder(wildcards):
    """Which architecture and weights a published encoder has, in words."""
    encoder = preset("encoders", wildcards.encoder)
    architecture = encoder["architecture"].get("open_clip", "its own architecture")
    return f"{architecture}, {encoder['weights']['published']}"


def pretraining_recipe(wildcards):
    """The name of the recipe that an encoder is pretrained by."""
    return pretraining_of(wildcards)["recipe"]


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


@explained
def one_merged_model(wildcards):
    """The merged task vector of a merger that gives one model, and not one per task."""
    if wildcards.format not in ("transformers", "open_clip"):
        raise MergeloomError(
            f"unknown format {wildcards.format!r}; models are exported as transformers or open_clip"
        )
    if wildcards.merger in (ZEROSHOT, FINETUNED) or gives_one_per_task(wildcards):
        raise MergeloomError(
            f"merger {wildcards.merger!r} gives no single merged model, so there is none to export; "
            "`mergeloom convert` exports any checkpoint"
        )
    return expand(MERGED, **wildcards)[0]


def of_pretraining_tasks(pattern):
    """Input function: the pattern for every task that the encoder is pretrained on."""

    def paths(wildcards):
        size = preset("encoders", wildcards.encoder)["image"]["size"]
        return expand(pattern, task=pretraining_of(wildcards)["tasks"], size=size)

    return paths


def figure_of_report(name, label, caption):
    """A figure as PNG, shown in the report."""
    return report(
        f"<results>/{STUDY}/{name}.png",
        caption=f"../config/report/{caption}.rst",
        category="{benchmark}",
        subcategory="{encoder}, {experts}",
        labels={"result": label},
    )


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


def each_merged(pattern, selections):
    """Input function: the pattern for a merger, run and selections; nothing for the base."""
    functions = [of_merger(of_one) for of_one in each(pattern, selections)]
    return lambda wildcards: [
        path for path in (f(wildcards) for f in functions) if path
    ]


def if_task_arithmetic(input_function):
    """Input function: what another gives, for the mergers that add task vectors up."""
    return lambda wildcards: (
        input_function(wildcards)
        if is_task_arithmetic(preset("mergers", wildcards.merger))
        else []
    )


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


SWEEP = "conditions/{encoder}/{benchmark}/{sweep}"
SWEEP_FIGURES = ("accuracy", "log_trace_training", "log_trace_accuracy", "alpha_curves")


def of_target(sweep):
    """Tables and figures of a sweep on the encoder and benchmark of its preset."""
    given = preset("conditions", sweep)
    return expand(
        f"<results>/{SWEEP}/{{file}}",
        sweep=sweep,
        encoder=given["encoder"],
        benchmark=given["benchmark"],
        file=[
            "conditions.csv",
            "summary.md",
            "mergers.csv",
            *(f"{f}.png" for f in SWEEP_FIGURES),
        ],
    )


def figure_of_sweep(name, label):
    """A figure of a sweep of conditions as PNG, shown in the report."""
    return report(
        f"<results>/{SWEEP}/{name}.png",
        caption=f"../config/report/conditions_{name}.rst",
        category="conditions",
        subcategory="{encoder}, {benchmark}, {sweep}",
        labels={"result": label},
    )
