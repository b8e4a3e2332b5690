# The checked configuration, its presets by name, and digests of code and environment.

import os
import re
import sys
from functools import wraps
from pathlib import Path

from snakemake.exceptions import WorkflowError

# The library of this workflow, whether or not it is installed, too.
sys.path.insert(0, str(Path(workflow.basedir, "workflow_scripts")))

from mergeloom.config.adapters import functions_of as adapter_functions
from mergeloom.config.adaptive import check_adaptive
from mergeloom.config.conditions import check_selection, expand as expanded
from mergeloom.config.extractors import functions_of_extractor, source_name
from mergeloom.config.presets import KINDS, check, choose, load_presets, schema_named
from mergeloom.config.study import (
    FINETUNED,
    NAME,
    ZEROSHOT,
    check_encoder,
    check_study,
    check_target,
    functions_of,
    parts_of,
    reads,
)
from mergeloom.errors import MergeloomError
from mergeloom.io.roots import resolve_roots
from mergeloom.provenance.code import digest, registered
from mergeloom.provenance.environment import environment_digest
from mergeloom.report.published import read_published

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
    "transformers",
    "tokenizers",
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
    check_adaptive(presets)
    return roots, presets, read_published(folders)


ROOTS, PRESETS, PUBLISHED_FIGURES = checked()
config["roots"] = ROOTS


IMAGE_ENCODERS, TEXT_ENCODERS = (
    [e for e, p in PRESETS["encoders"].items() if reads(p) == modality]
    for modality in ("images", "text")
)


@explained
def preset(kind, name):
    """A preset by name; an unknown name is an error that lists what exists."""
    if kind == "experts":
        check_selection(name, PRESETS[kind])
    return choose(kind, PRESETS[kind], name)


def at(kind, wildcard):
    """Params function: the preset named by a wildcard."""
    return lambda wildcards: preset(kind, getattr(wildcards, wildcard))


def model_named(name):
    """What an encoder is, without how it is trained: editing its recipe re-runs what trains it.

    How images are normalised is a part of it; how long texts may be is one of their tokenised files.
    """
    encoder = preset("encoders", name)
    keys = ("family", "architecture", "image")
    return {key: encoder[key] for key in keys if key in encoder}


def model_of(wildcards):
    """The same, of the encoder of a path."""
    return model_named(wildcards.encoder)


def model_and_weights(wildcards):
    """The same, and where the weights of its base come from."""
    weights = preset("encoders", wildcards.encoder)["weights"]
    return {**model_of(wildcards), "weights": weights}


def code(script, **registry):
    """Params function: digest of all code that a script can run.

    Wildcards in the values of `registry` name presets: `merger="{merger}"` means that preset's method
    and modifiers. A value may also be a function of the wildcards that gives the name.
    """
    named_by = {
        "merger": lambda name: functions_of(preset("mergers", name)),
        "family": lambda name: {"family": preset("encoders", name)["family"]},
        "stages": lambda name: {"stages": preset("encoders", name)["family"]},
        "supplied": lambda name: {"supplied": preset("encoders", name)["family"]},
        # Families without bare parameters have none.
        "uses": lambda name: {
            "uses": tuple({preset("encoders", name)["family"]} & {*registered("uses")})
        },
        # Images are scored by what all modalities share.
        "evaluator": lambda name: {
            "evaluator": ("text",) if name in TEXT_ENCODERS else ()
        },
        "corruption": lambda name: {"corruption": name},
        "renderer": lambda name: {
            "renderer": preset("tasks", name)["source"]["rendered"]
        },
        "text_renderer": lambda name: {
            "text_renderer": preset("tasks", name)["source"]["rendered"]
        },
        "adapter": lambda name: adapter_functions(preset("adapters", name)),
        "recipe": lambda name: parts_of(preset("recipes", name)),
        "extractor": lambda name: functions_of_extractor(
            preset("extractors", name), PRESETS
        ),
        "fetcher": lambda name: {"fetcher": source_name(preset("extractors", name))},
    }

    @explained
    def digest_of(wildcards):
        names = {}
        for kind, name in registry.items():
            given = (
                name(wildcards) if callable(name) else name.format(**dict(wildcards))
            )
            names |= named_by[kind](given)
        return digest(script, **names)

    return digest_of


@explained
def env(packages):
    """Digest of the locked versions of packages."""
    return environment_digest(BASE / "envs" / "requirements.txt", packages)


def one_of(names):
    """Wildcard constraint: one of these names, or nothing at all where there are none."""
    return "|".join(map(re.escape, names)) or "(?!)"
