"""What a configuration says across its files: names that must exist, methods, parameters, alpha."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mergeloom.config.adapters import check_adapter
from mergeloom.config.extractors import ENCODER, check_extractor, reads
from mergeloom.config.presets import choose
from mergeloom.data.answers import ANY, answer_texts
from mergeloom.data.layout import check_names, modality_of, source_of
from mergeloom.data.prompts import fields_of
from mergeloom.errors import MergeloomError
from mergeloom.merging.parameters import check_parameters
from mergeloom.provenance.code import lookup, registered
from mergeloom.training.recipe import CHOICES, read_parameters

Presets = Mapping[str, Mapping[str, Any]]


# What names in paths look like; results of this name are not those of a merger.
NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
ZEROSHOT, FINETUNED = "zeroshot", "finetuned"
# Epochs of a recipe that are those that the task's preset names.
BY_TASK = "task"


def check_study(config: Mapping[str, Any], presets: Presets) -> None:
    """Check every name that the configuration and the presets refer to.

    Raises
    ------
    MergeloomError – an unknown encoder, collection of experts, benchmark, merger, task, recipe,
    method, family, renderer, optimiser or parameter; the message says where it stands and lists
    what exists.
    """
    for kind, named in presets.items():
        for name in named:
            if not re.fullmatch(NAME, name):
                raise MergeloomError(
                    f"{kind}: {name!r} cannot stand in a path; use letters, digits, '_', '.', '-'"
                )
    if FINETUNED in presets["mergers"]:
        raise MergeloomError(
            f"mergers: {FINETUNED!r} is the name of the fine-tuned models' own result; take another"
        )
    for kind in ("encoders", "experts", "benchmarks", "mergers"):
        for name in config[kind]:
            choose(kind, presets[kind], name)
    for name in config["allow_overlap"]:
        choose("tasks", presets["tasks"], name)

    def refer(kind: str, name: str, where: str) -> None:
        try:
            choose(kind, presets[kind], name)
        except MergeloomError as error:
            raise MergeloomError(f"{where}: {error}") from None

    for name in config["corruptions"]:
        corruption_and_severity(name)
    for benchmark, tasks in presets["benchmarks"].items():
        for task in tasks:
            refer("tasks", task, f"benchmark {benchmark!r}")
        check_modalities(f"benchmark {benchmark!r}", tasks, presets["tasks"])
    for name, task in presets["tasks"].items():
        source = task["source"]
        if modality_of(task) == "text":
            _check_text_task(name, task)
        elif source_of(task) == "rendered":
            _look_up("renderer", source["rendered"], f"task {name!r}")
        elif source_of(task) == "hub":
            check_names(source.get("names", []), task["classnames"], f"task {name!r}")
    for name, encoder in presets["encoders"].items():
        known = _look_up("family", encoder["family"], f"encoder {name!r}")
        if known.options["modality"] != reads(encoder):
            other, key = sorted(("text", "image"), key=lambda key: key not in encoder)
            raise MergeloomError(
                f"encoder {name!r}: the family {encoder['family']!r} is of "
                f"{known.options['modality']}: give the encoder `{key}` instead of `{other}`, or "
                "another family"
            )
        refer("recipes", encoder["recipe"], f"encoder {name!r}")
        pretraining = encoder["weights"].get("pretrain")
        if pretraining:
            refer("recipes", pretraining["recipe"], f"encoder {name!r}")
            recipe = presets["recipes"][pretraining["recipe"]]
            if recipe.get("balancing", "none") != "none":
                raise MergeloomError(
                    f"encoder {name!r}: the recipe {pretraining['recipe']!r} balances the classes "
                    "of a task, but pretraining is on several: give it a recipe with `balancing: "
                    "none`"
                )
            if recipe.get("epochs") == BY_TASK:
                raise MergeloomError(
                    f"encoder {name!r}: the recipe {pretraining['recipe']!r} takes its epochs from "
                    "a task, but pretraining is on several: give it steps, or epochs as a number"
                )
            for task in pretraining["tasks"]:
                refer("tasks", task, f"encoder {name!r}")
            check_encoder(name, encoder, pretraining["tasks"], presets["tasks"])
    for encoder in config["encoders"]:
        for benchmark in config["benchmarks"]:
            tasks = presets["benchmarks"][benchmark]
            check_encoder(encoder, presets["encoders"][encoder], tasks, presets["tasks"])
    for name, extractor in presets["extractors"].items():
        if ENCODER in extractor:
            refer("encoders", extractor[ENCODER], f"extractor {name!r}")
    for name, encoder in presets["encoders"].items():
        if "extractor" in encoder:
            try:
                check_extractor(encoder["extractor"], name, presets)
            except MergeloomError as error:
                raise MergeloomError(f"encoder {name!r}: {error}") from None
    for name, experts in presets["experts"].items():
        if "recipe" in experts:
            refer("recipes", experts["recipe"], f"experts {name!r}")
    parts = {
        kind: {name: entry.parameters for name, entry in registered(kind).items()}
        for kind in CHOICES
    }
    for name, recipe in presets["recipes"].items():
        try:
            read_parameters(recipe, parts)
        except MergeloomError as error:
            raise MergeloomError(f"recipe {name!r}: {error}") from None
    for name, merger in presets["mergers"].items():
        _check_merger(name, merger)
    for name, adapter in presets["adapters"].items():
        check_adapter(name, adapter, presets)
    for name, sweep in presets["conditions"].items():
        for kind in ("encoder", "benchmark"):
            refer(f"{kind}s", sweep[kind], f"conditions {name!r}")
        for merger in sweep["mergers"]:
            if merger == ZEROSHOT:
                raise MergeloomError(
                    f"conditions {name!r}: {ZEROSHOT!r} is the same under all conditions, and "
                    "stands in every table and figure: leave it out of `mergers`"
                )
            refer("mergers", merger, f"conditions {name!r}")


def check_modalities(where: str, names: Sequence[str], tasks: Mapping[str, Any]) -> None:
    """Raise MergeloomError if some of the tasks called `names` are of texts and others of images,
    or one has no answers that could be told apart."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(modality_of(tasks[name]), []).append(name)
        if tasks[name].get("answers") == ANY:
            raise MergeloomError(
                f"{where}: the task {name!r} has `answers: any`; a model can be pretrained on it, "
                "but not be evaluated: give it a list of answers, or leave it out"
            )
    if len(kinds) > 1:
        raise MergeloomError(
            f"{where}: mixes tasks of images ({', '.join(kinds['images'])}) and of texts "
            f"({', '.join(kinds['text'])}); no encoder reads both: make two of it"
        )


def check_encoder(
    name: str, encoder: Mapping[str, Any], of: Sequence[str], tasks: Mapping[str, Any]
) -> None:
    """Raise MergeloomError if the encoder called `name` cannot read the tasks called `of`."""
    other = [task for task in of if modality_of(tasks[task]) != reads(encoder)]
    if other:
        here, there = ("texts", "images") if reads(encoder) == "text" else ("images", "texts")
        raise MergeloomError(
            f"the encoder {name!r} reads {here}, but {', '.join(map(repr, other))} "
            f"{'is a task' if len(other) == 1 else 'are tasks'} of {there}: take an encoder of "
            f"{there}, or tasks of {here}"
        )


def _check_text_task(name: str, task: Mapping[str, Any]) -> None:
    where, source, answers = f"task {name!r}", task["source"], task["answers"]
    try:
        fields, texts = fields_of(task["prompt"]), answer_texts(answers)
    except MergeloomError as error:
        raise MergeloomError(f"{where}: {error}") from None
    if task.get("metric") == "spearman" and not isinstance(answers, Mapping):
        raise MergeloomError(
            f"{where}: metric 'spearman' is of numbers, but `answers` are words; give them as "
            "{number: …, start: …, stop: …, step: …}, or take another metric"
        )
    if source_of(task) != "rendered":
        return
    known = _look_up("text_renderer", source["rendered"], where).options
    strange = [field for field in fields if field not in known["fields"]]
    if strange:
        raise MergeloomError(
            f"{where}: the prompt names {', '.join(map(repr, strange))}, but the renderer "
            f"{source['rendered']!r} writes: {', '.join(known['fields'])}"
        )
    missing = [kind for kind in known["kinds"] if answers != ANY and kind not in texts]
    if missing:
        raise MergeloomError(
            f"{where}: `answers` lack {', '.join(map(repr, missing))}, which the renderer "
            f"{source['rendered']!r} gives"
        )


def check_target(kind: str, name: str, rules: Iterable[str]) -> None:
    """Say of a sweep or a study that it can be no target of its name, if a rule has it already."""
    if name in rules:
        raise MergeloomError(
            f"{kind} {name!r}: `snakemake {name}` makes something else already; rename it"
        )


def corruption_and_severity(name: str) -> tuple[str, int]:
    """The two parts of a name such as `motion_blur2`.

    Raises
    ------
    MergeloomError – an unknown corruption, or a severity that is not one of 1 to 5.
    """
    corruption = name.rstrip("0123456789")
    severity = name.removeprefix(corruption)
    _look_up("corruption", corruption, f"corruption {name!r}")
    if severity not in set("12345"):
        raise MergeloomError(
            f"corruption {name!r}: severity is {severity or 'missing'}, expected 1 to 5"
        )
    return corruption, int(severity)


def _look_up(registry: str, name: str, where: str) -> Any:
    try:
        return lookup(registry, name)
    except MergeloomError as error:
        raise MergeloomError(f"{where}: {error}") from None


def _check_merger(name: str, merger: Mapping[str, Any]) -> None:
    functions = [("merger", merger["method"], merger.get("parameters", {}))]
    functions += [
        ("modifier", modifier, given or {})
        for entry in merger.get("modifiers", [])
        for modifier, given in entry.items()
    ]
    for registry, function, given in functions:
        known = _look_up(registry, function, f"merger {name!r}")
        limits: Any = known.options.get("limits", {})
        try:
            check_parameters(function, known.parameters, limits, given)
        except MergeloomError as error:
            raise MergeloomError(f"merger {name!r}: {error}") from None


def functions_of(merger: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """What a merger looks up by name: its method and the one it leaves the rest to, modifiers."""
    parameters = lookup("merger", merger["method"]).parameters | merger.get("parameters", {})
    fallback = str(parameters.get("fallback", "mean"))
    methods = (merger["method"], *((fallback,) if fallback != "mean" else ()))
    return {
        "merger": methods,
        "modifier": tuple(n for entry in merger.get("modifiers", []) for n in entry),
    }


def inputs_of(merger: Mapping[str, Any]) -> set[str]:
    """What the functions of a merger take: see `merging.method.INPUTS`."""
    taken = {
        name
        for registry, functions in functions_of(merger).items()
        for function in functions
        for name in lookup(registry, function).inputs
    }
    # The spectrum of what was merged is that of the sum, if that is what was merged.
    sums = lookup("merger", merger["method"]).options.get("sums", False)
    return taken | ({"summed"} if sums and "spectrum" in taken else set())


def is_task_arithmetic(merger: Mapping[str, Any]) -> bool:
    """Whether Δ is the sum of the task vectors and nothing more: then θ0 + α τ_t is what the merger
    makes of one of the models that it is the sum of."""
    return merger["method"] == "task_arithmetic" and not merger.get("modifiers")


def parts_of(recipe: Mapping[str, Any]) -> dict[str, str]:
    """What a recipe looks up by name: its optimiser, schedule and augmentation."""
    return {kind: recipe.get(kind, name) for kind, name in CHOICES.items()}


def resolve_epochs(recipe: Mapping[str, Any], name: str, task: Mapping[str, Any], of: str) -> Any:
    """The recipe called `name` for the task called `of`, with `epochs: task` as a number.

    Raises
    ------
    MergeloomError – the task's preset names no epochs.
    """
    if recipe.get("epochs") != BY_TASK:
        return recipe
    if "epochs" not in task:
        raise MergeloomError(
            f"the recipe {name!r} takes its epochs from the task, but the preset of task {of!r} "
            "names none: add `epochs` to it, or let the experts have a recipe with steps or with "
            "epochs of its own"
        )
    return {**recipe, "epochs": task["epochs"]}


def resolve_import(
    experts: str, preset: Mapping[str, Any], *, encoder: str, task: str
) -> dict[str, str]:
    """Where a public checkpoint lies.

    Returns
    -------
    `{"hub", "file", "revision"}` or `{"path"}`, with `{encoder}` and `{task}` filled in.

    Raises
    ------
    MergeloomError – the collection's names know no such encoder or task, or a pattern has another
    name in braces.
    """
    given = preset["import"]
    names = {}
    for kind, name in (("encoder", encoder), ("task", task)):
        known = given.get("names", {}).get(kind)
        if known is not None and name not in known:
            raise MergeloomError(
                f"experts {experts!r} have no checkpoint of {kind} {name}; there is: "
                f"{', '.join(known)}. Add it under import.names.{kind} if the family has one."
            )
        names[kind] = name if known is None else known[name]
    try:
        found = {key: given[key].format(**names) for key in ("hub", "file", "path") if key in given}
    except (KeyError, IndexError, ValueError) as error:
        raise MergeloomError(
            f"experts {experts!r}: import: {error} is no name; {{encoder}} and {{task}} are"
        ) from None
    if "path" in found:
        found["path"] = str(Path(found["path"]).expanduser())
    return found | ({"revision": given["revision"]} if "revision" in given else {})


def resolve_alpha(merger: Mapping[str, Any], *, encoder: str, benchmark: str) -> dict[str, Any]:
    """How a merger's alpha is chosen on one encoder and benchmark.

    Returns
    -------
    `{"how": "fixed", "value"}`, `{"how": "table", "value", "source"}`, or `{"how": "search",
    "grid", "patience"}` with the grid's values in ascending order.

    Raises
    ------
    MergeloomError – the table has no value for this encoder and benchmark, or the grid is empty.
    """
    alpha: Any = merger.get("alpha")
    if alpha is None:
        alpha = lookup("merger", merger["method"]).options.get("alpha", 1.0)
    if isinstance(alpha, int | float):
        return {"how": "fixed", "value": float(alpha)}
    if "table" in alpha:
        table = alpha["table"]
        if benchmark not in table.get(encoder, {}):
            there_is = [f"{e} {b}" for e, row in table.items() for b in row]
            raise MergeloomError(
                f"the alpha table of {merger['method']!r} has no value for {encoder} {benchmark}; "
                f"it has: {', '.join(there_is)}. Add one, or give alpha a number or a search."
            )
        return {
            "how": "table",
            "value": float(table[encoder][benchmark]),
            "source": alpha["source"],
        }
    search = alpha["search"]
    count = int((search["stop"] - search["start"]) / search["step"] + 1 + 1e-9)
    if count < 1:
        raise MergeloomError(
            f"alpha.search of {merger['method']!r}: no value between {search['start']} and "
            f"{search['stop']}"
        )
    return {
        "how": "search",
        "grid": [round(search["start"] + i * search["step"], 10) for i in range(count)],
        "patience": search.get("patience"),
    }
