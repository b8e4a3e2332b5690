# Helpers of the rules: the checked configuration, presets by name, digests, input functions. No rules.

import os
import re
import sys
from functools import wraps
from pathlib import Path

from snakemake.exceptions import WorkflowError

# The library of this workflow, whether or not it is installed, too.
sys.path.insert(0, str(Path(workflow.basedir, "workflow_scripts")))

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
    resolve_alpha,
)
from mergeloom.data.shards import CLASSNAMES, TEMPLATES, shard_paths
from mergeloom.errors import MergeloomError
from mergeloom.evaluation.results import no_model_of_unseen_tasks
from mergeloom.provenance.code import digest, lookup
from mergeloom.provenance.environment import environment_digest

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
    """The configuration's roots and all presets by kind, after everything has been checked."""
    schemas = BASE / "config" / "schema"
    check(config, schema_named(schemas, "config"), "config")
    roots = resolve_roots(config["roots"], Path.cwd())
    folders = [
        f if (f := Path(p)).is_absolute() or f.is_dir() else BASE / f
        for p in config["presets"]
    ]
    presets = {k: load_presets(k, folders, schema_named(schemas, k)) for k in KINDS}
    check_study(config, presets)
    return roots, presets


ROOTS, PRESETS = checked()
config["roots"] = ROOTS


@explained
def preset(kind, name):
    """A preset by name; an unknown name is an error that lists what exists."""
    return choose(kind, PRESETS[kind], name)


def at(kind, wildcard):
    """Params function: the preset named by a wildcard."""
    return lambda wildcards: preset(kind, getattr(wildcards, wildcard))


def code(script, **registry):
    """Params function: digest of all code that a script can run.

    Wildcards in the values of `registry` name presets: `merger="{merger}"` means that preset's method
    and modifiers.
    """
    registered = {
        "merger": lambda name: functions_of(preset("mergers", name)),
        "family": lambda name: {"family": preset("encoders", name)["family"]},
        "corruption": lambda name: {"corruption": name},
        "renderer": lambda name: {
            "renderer": preset("tasks", name)["source"]["rendered"]
        },
    }

    @explained
    def digest_of(wildcards):
        names = {}
        for kind, name in registry.items():
            names |= registered[kind](name.format(**dict(wildcards)))
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


def memory_of_merge(wildcards, input, attempt):
    """Megabytes for a job that streams its inputs: torch, a model, and a parameter of all tasks."""
    return int((2000 + 0.15 * input.size_mb) * 1.5 ** (attempt - 1))


RENDERED = [t for t, p in PRESETS["tasks"].items() if isinstance(p["source"], dict)]
PRETRAINED = [e for e, p in PRESETS["encoders"].items() if "pretrain" in p["weights"]]
TRAINED = [e for e, p in PRESETS["experts"].items() if "source" not in p]
PUBLISHED = [e for e, p in PRESETS["encoders"].items() if "published" in p["weights"]]


def tasks_of(wildcards, of="benchmark"):
    """The tasks of a benchmark; the other names of the path must exist, too."""
    preset("encoders", wildcards.encoder)
    preset("experts", wildcards.experts)
    return preset("benchmarks", getattr(wildcards, of))


def over_tasks(pattern, of="benchmark", **fixed):
    """Input function: the pattern for every task of a benchmark; `{size}` is the encoder's."""

    def paths(wildcards):
        size = preset("encoders", wildcards.encoder)["image"]["size"]
        return expand(
            pattern, task=tasks_of(wildcards, of), size=size, **{**wildcards, **fixed}
        )

    return paths


def of_encoder(pattern, **fixed):
    """Input function: the pattern with `{size}` from the encoder's preset."""

    def path(wildcards):
        size = preset("encoders", wildcards.encoder)["image"]["size"]
        return expand(pattern, size=size, **{**wildcards, **fixed})[0]

    return path


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


def shards_of(split):
    """Input function: the shards of a split, one if the workflow renders the task, else those there."""

    @explained
    def shards(wildcards):
        source = preset("tasks", wildcards.task)["source"]
        folder = Path(ROOTS["data"], wildcards.task, split)
        if source != "shards":
            return [str(folder / "0.tar")]
        try:
            return [str(path) for path in shard_paths(folder)]
        except MergeloomError as error:
            raise MergeloomError(
                f"{error}\nPut the task's shards there, or point DATA_PATH or roots.data to them."
            ) from None

    return shards


def recipe_of(wildcards):
    """The recipe of a collection of experts: its own, or the encoder's."""
    named = preset("experts", wildcards.experts).get("recipe")
    return preset("recipes", named or preset("encoders", wildcards.encoder)["recipe"])


def seed_of(wildcards):
    """The seed of a collection of experts: its own, or the configuration's."""
    return preset("experts", wildcards.experts).get("seed", config["seed"])


@explained
def alpha_of(wildcards):
    """How alpha is chosen for this merger, encoder and benchmark."""
    merger = preset("mergers", wildcards.merger)
    return resolve_alpha(
        merger, encoder=wildcards.encoder, benchmark=wildcards.benchmark
    )


def needs(wildcards, what):
    """Whether the functions of this merger take an input."""
    return what in inputs_of(preset("mergers", wildcards.merger))


def svd_caches(wildcards):
    """SVD caches of the tasks, for the mergers that read them."""
    if needs(wildcards, "svd"):
        return expand(
            "<models>/{encoder}/{experts}/{task}/svd.safetensors",
            task=tasks_of(wildcards),
            **wildcards,
        )
    return []


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
    method = preset("mergers", wildcards.merger)["method"]
    if lookup("merger", method).options.get("per_task"):
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


def given_weights(wildcards):
    """The file that published weights come from, where it is one at hand and not a tag of the hub."""
    weights = preset("encoders", wildcards.encoder)["weights"]["published"]
    return [weights] if Path(weights).is_file() else []


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
