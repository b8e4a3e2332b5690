"""A made-up study of adapters, as the workflow writes it."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jsonschema import Draft202012Validator

from mergeloom.io.jsonfile import write_json

TOWER = 1_000_000
SCHEMAS = Path(__file__).parents[2] / "config" / "schema"
PROVENANCE = {
    "rule": "made_up", "inputs": {"models/base.safetensors": "0" * 64}, "params": {},
    "code": "0" * 16, "versions": {}, "device": "cpu", "seed": 0,
}  # fmt: skip


def check(schema: str, content: dict[str, Any]) -> None:
    """Nothing is made up that the workflow could not write."""
    given = json.loads((SCHEMAS / f"{schema}.schema.json").read_text())
    Draft202012Validator(given).validate(content)


class Adapter(NamedTuple):
    """What is made up of an adapter: how good it is, and what its preset says."""

    method: str
    accuracy: float
    per: str | None = None  # coefficients: per task, per layer, or none
    steps: int | None = 200  # None: not trained
    collapsed: tuple[str, ...] = ()
    trainable: int = 4_000
    stored: int = 5 * TOWER
    finds: float = 0.5  # how much larger the coefficient of the own expert is


class Made(NamedTuple):
    """A study: its mergers with their accuracy, adapters, and where from some are transferred."""

    tasks: list[str]
    mergers: dict[str, float]
    adapters: dict[str, Adapter]
    transfers: dict[str, float]
    source: str = "ViT-Nano"
    blocks: int = 4
    layers: str = "visual.transformer.resblocks.{}.mlp.c_fc.weight"


DEMO = Made(
    ["digits", "house_numbers", "signs"],
    {"weight_average": 0.61, "task_arithmetic": 0.7, "tsv": 0.74},
    {
        "dawe_task_wise": Adapter("gate", 0.82, "task"),
        "adamerging_layer_wise": Adapter(
            "adamerging", 0.55, "layer", collapsed=("average", "signs")
        ),
        "task_classifier": Adapter("task_classifier", 0.9, "task", steps=None, finds=1.0),
        "smile": Adapter("smile", 0.85, None, steps=None, trainable=0, stored=2 * TOWER),
    },
    {"dawe_task_wise": 0.79},
)  # fmt: skip


def wide() -> Made:
    """Fifteen adapters on twenty tasks of a deep model."""
    methods = ["gate", "adamerging", "wemoe", "concrete_adamerging"]
    adapters = {
        f"{methods[i % 4]}_{'task' if i % 3 else 'layer'}_wise_number_{i}": Adapter(
            methods[i % 4], 0.66 + 0.004 * i, "task" if i % 3 else "layer",
            trainable=4_000 * 3**i, stored=21 * TOWER + 9_000 * 3**i, finds=0.15 * (i % 5),
            collapsed=("a_rather_long_task_3",) if i == 5 else (),
        )
        for i in range(15)
    }  # fmt: skip
    tasks = [f"a_rather_long_task_{i}" for i in range(20)]
    mergers = {f"merger_{i}": 0.6 + 0.01 * i for i in range(6)}
    return Made(tasks, mergers, adapters, dict.fromkeys(list(adapters)[:2], 0.7), blocks=24)


def narrow() -> Made:
    """One adapter that is not trained, on two tasks, and no merger."""
    smile = Adapter("smile", 0.85, None, steps=None, trainable=0, stored=2 * TOWER)
    return Made(["digits", "signs"], {}, {"smile": smile}, {})


class Files(NamedTuple):
    """Paths of a study's files, in the order of its rules."""

    mergers: list[str]
    adapters: list[str]
    coefficients: list[str]
    times: list[str]
    times_of_adaptation: list[str]
    curves: list[str]
    corrupted: list[str]


def scores(made: Made, accuracy: float, seed: int, below: tuple[str, ...] = ()) -> dict[str, Any]:
    random = np.random.default_rng([seed, round(1000 * accuracy)])
    found = {}
    for task in made.tasks:
        value = 0.05 if task in below else float(np.clip(accuracy + random.normal(0, 0.06), 0, 1))
        found[task] = {
            "accuracy": value, "loss": 1.3 - value, "n": 400, "normalized_accuracy": value / 0.95
        }  # fmt: skip
    return with_average(found)


def with_average(tasks: dict[str, Any]) -> dict[str, Any]:
    keys = [key for key in next(iter(tasks.values())) if key != "n"]
    mean = {key: float(np.mean([s[key] for s in tasks.values()])) for key in keys}
    return {"tasks": tasks, "average": mean}


def of_merger(made: Made, name: str, accuracy: float, images: Any = None) -> dict[str, Any]:
    given = {
        "schema": "mergeloom/result/1",
        "encoder": "ViT-Micro", "experts": "finetuned", "benchmark": "demo",
        "merger": {
            "name": name, "method": None if name == "finetuned" else name, "parameters": {},
            "modifiers": [], "per_task": name == "finetuned",
        },
        "alpha": None if name == "finetuned" else {"value": 0.3, "how": "fixed"},
        **scores(made, accuracy, 1),
        "provenance": PROVENANCE,
    }  # fmt: skip
    given |= {"evaluated_on": images} if images else {"validation": scores(made, 0.7, 2)}
    check("result", given)
    return given


def of_adapter(
    made: Made, name: str, adapter: Adapter, source: str = "", images: Any = None
) -> dict[str, Any]:
    given = {
        "schema": "mergeloom/adaptive/1",
        "encoder": "ViT-Micro", "experts": "finetuned", "benchmark": "demo",
        "adapter": {
            "name": name, "method": adapter.method, "extractor": "nano", "vectors": None,
            "parameters": {"init": 0.3} if adapter.steps else {},
        },
        "adaptation": None,
        "evaluation": {"granularity": "sample", "batch_size": 64, "form": "exact"},
        **scores(made, adapter.accuracy, 1, adapter.collapsed),
        "before": None,
        "mixed_batches": {"batch_size": 64, **scores(made, adapter.accuracy - 0.1, 3)},
        "parameters": {"trainable": adapter.trainable, "stored": adapter.stored},
        "provenance": PROVENANCE,
    }  # fmt: skip
    if images:
        given["evaluated_on"] = images
    else:
        given["validation"] = scores(made, adapter.accuracy - 0.01, 2)
    if adapter.method == "task_classifier":
        given["adaptation"] = {"split": "test", "seed": 0, **(images or {})}
    if adapter.steps:
        given["before"] = scores(made, 0.69, 4)
        given["adaptation"] = {
            "split": "test", "steps": adapter.steps, "chosen": adapter.steps, "keep": "last",
            "stopped_early": False, "granularity": "batch", "batch_size": 16, "optimizer": "adam",
            "schedule": "constant", "lr": 1e-5, "weight_decay": 0.0, "seed": 0, "checkpoint": 50,
            "patience": None,
            "collapsed": {
                "average": "average" in adapter.collapsed,
                "tasks": [t for t in adapter.collapsed if t != "average"],
            },
            **(images or {}),
        }  # fmt: skip
    if source:
        given["transferred_from"] = {"encoder": source, "layers": 44}
    check("adaptive_result", given)
    return given


def curve(made: Made, adapter: Adapter) -> pd.DataFrame:
    steps = np.linspace(0, adapter.steps or 0, 9 if adapter.steps else 0)
    rows: list[dict[str, Any]] = []
    for index, task in enumerate(made.tasks):
        rise = (
            0.12
            * (1 - np.exp(-4 * steps / (adapter.steps or 1)))
            * (-3 if task in adapter.collapsed else 1)
        )
        for step, gain in zip(steps, rise, strict=True):
            start = 0.69 + 0.02 * (index % 5)
            rows.append({
                "step": int(step), "task": task, "entropy": 0.8 - 1.6 * abs(gain),
                "val_accuracy": start + gain, "val_loss": 1 - gain,
                "val_normalized_accuracy": (start + gain) / 0.95,
            })  # fmt: skip
    columns = ("step", "task", "entropy", "val_accuracy", "val_loss", "val_normalized_accuracy")
    frame = pd.DataFrame(rows, columns=columns)
    mean = frame.groupby("step").mean(numeric_only=True).reset_index().assign(task="average")
    return pd.concat([frame, mean], ignore_index=True)


def coefficients(made: Made, adapter: Adapter) -> pd.DataFrame:
    layers: list[str | None] = [None]
    if adapter.per == "layer":
        layers = ["visual.conv1.weight", *(made.layers.format(i) for i in range(made.blocks))]
        layers.append("visual.proj")
    rows = []
    for task in made.tasks if adapter.per else []:
        for expert in made.tasks:
            for depth, layer in enumerate(layers):
                rise = 1 + depth / 20 + 0.1 * (made.tasks.index(task) % 4)
                own = adapter.finds * rise if expert == task else 0.02 * (depth % 3)
                rows.append({"task": task, "expert": expert, "layer": layer, "mean": 0.3 + own})
    frame = pd.DataFrame(rows, columns=["task", "expert", "layer", "mean"])
    return frame.assign(std=0.05)


def write(folder: Path, made: Made = DEMO, corruptions: tuple[str, ...] = ()) -> Files:
    """Write every file of a study below `folder`."""

    def put(name: str, content: Any) -> str:
        write_json(folder / name, content)
        return str(folder / name)

    def table(name: str, frame: pd.DataFrame) -> str:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        frame.to_parquet(folder / name)
        return str(folder / name)

    static = {"zeroshot": 0.4, **made.mergers, "finetuned": 0.95}
    files = Files([put(f"{n}.json", of_merger(made, n, a)) for n, a in static.items()],
                  [], [], [], [], [], [])  # fmt: skip
    given = [(name, adapter, "") for name, adapter in made.adapters.items()]
    given += [
        (name, made.adapters[name]._replace(accuracy=accuracy), made.source)
        for name, accuracy in made.transfers.items()
    ]
    for index, (name, adapter, source) in enumerate(given):
        at = f"adaptive/{f'from/{source}/' if source else ''}{name}"
        files.adapters.append(put(f"{at}.json", of_adapter(made, name, adapter, source)))
        files.coefficients.append(table(f"{at}.coefficients.parquet", coefficients(made, adapter)))
        adaptation = {
            "adaptation_seconds": 12.5 + index if adapter.steps else None,
            "seconds_per_step": 0.0625 if adapter.steps else None,
        }
        files.times_of_adaptation.append(put(f"adapted/{index}.times.json", adaptation))
        evaluation = {
            "evaluation_seconds": 3.5, "examples_per_second": 1000.0 + index, "device": "cpu",
            "threads": 2,
        }  # fmt: skip
        files.times.append(put(f"{at}.times.json", evaluation))
        if not source:
            files.curves.append(table(f"adapted/{name}.parquet", curve(made, adapter)))
    for place, name in enumerate(("", *corruptions)):
        kind = name.rstrip("12345")
        images = {"corruption": kind, "severity": int(name[-1])} if name else None
        for model, accuracy in static.items():
            content = of_merger(made, model, accuracy - 0.05 * place, images)
            files.corrupted.append(put(f"corrupted/{name}/{model}.json", content))
        for model, adapter in made.adapters.items():
            there = adapter._replace(accuracy=adapter.accuracy - 0.05 * place)
            content = of_adapter(made, model, there, images=images)
            files.corrupted.append(put(f"corrupted/{name}/adaptive/{model}.json", content))
    return files
