"""A made-up study of training conditions, as the workflow writes it."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mergeloom.io.jsonfile import write_json
from mergeloom.training.selection import selected_epoch

GRID = [round(0.05 * i, 2) for i in range(21)]
SETTINGS = {"mode": "fisher", "examples": 100, "sampling": "shuffled"}


class Files(NamedTuple):
    """Arguments of `read_histories` and `read_study`, and the zero-shot result."""

    collections: list[dict[str, Any]]
    tasks: list[str]
    mergers: list[str]
    results: list[str]
    measures: list[str]
    training: list[str]
    zeroshot: dict[str, Any]


class Made(NamedTuple):
    """A sweep: what each condition changes, and around what."""

    conditions: dict[str, dict[str, Any]]
    base: dict[str, Any]
    cross: list[str]
    selections: list[str]
    seeds: list[int]
    tasks: list[str]
    mergers: list[str]


DEMO = Made(
    {
        "base": {},
        "batch_size-32": {"batch_size": 32},
        "balancing-undersample": {"balancing": "undersample"},
    },
    {"batch_size": 128, "balancing": "none"},
    [],
    ["last", "max_val", "max_fim"],
    [0, 1],
    ["digits", "house_numbers", "signs"],
    ["task_addition", "tsv"],
)


def polito() -> Made:
    """The study's own sweep: ten conditions around a base, each with and without balancing."""
    varied = {"base": {}}
    for key, values in {
        "batch_size": [8, 16, 64, 128],
        "lr": [5e-4, 5e-5, 1e-5],
        "weight_decay": [1e-3, 1e-2, 1e-1],
    }.items():
        varied |= {f"{key}-{value:g}".replace("e-0", "e-"): {key: value} for value in values}
    crossed = {}
    for name, changes in varied.items():
        crossed[name] = changes
        prefix = "" if name == "base" else f"{name}."
        crossed[f"{prefix}balancing-undersample"] = changes | {"balancing": "undersample"}
    return Made(
        crossed,
        {"batch_size": 32, "lr": 1e-4, "weight_decay": 0.0, "balancing": "none"},
        ["balancing"],
        ["last", "max_val", "max_fim"],
        [0, 1, 2],
        ["DTD", "EuroSAT", "GTSRB", "MNIST", "RESISC45", "SVHN"],
        ["task_addition"],
    )


def collections(sweep: Made) -> list[dict[str, Any]]:
    """Collections in the order of condition, selection and seed."""
    found = []
    for condition, selection, seed in itertools.product(
        sweep.conditions, sweep.selections, sweep.seeds
    ):
        run = f"sweep.{condition}.seed{seed}"
        experts = run if selection == "last" else f"{run}.{selection}"
        keys = ("experts", "run", "condition", "selection", "seed")
        found.append(dict(zip(keys, (experts, run, condition, selection, seed), strict=True)))
    return found


def scores(values: Mapping[str, float], best: Mapping[str, float], n: int = 400) -> dict[str, Any]:
    return {
        task: {
            "accuracy": value,
            "loss": 1.2 - value,
            "n": n,
            "normalized_accuracy": value / best[task],
        }
        for task, value in values.items()
    }


def result(
    experts: str, model: str, test: dict[str, Any], val: dict[str, Any], alpha: Any
) -> dict[str, Any]:
    def average(found: dict[str, Any]) -> dict[str, float]:
        keys = ("accuracy", "loss", "normalized_accuracy")
        return {key: float(np.mean([s[key] for s in found.values()])) for key in keys}

    return {
        "schema": "mergeloom/result/1",
        "encoder": "ViT-Nano",
        "experts": experts,
        "benchmark": "demo",
        "merger": {
            "name": model, "method": model, "parameters": {}, "modifiers": [], "per_task": False
        },
        "alpha": alpha,
        "tasks": test,
        "average": average(test),
        "validation": {"tasks": val, "average": average(val)},
        "provenance": {},
    }  # fmt: skip


def history(
    effect: float, epochs: int, random: np.random.Generator, batch_size: float
) -> pd.DataFrame:
    epoch = np.arange(epochs + 1)
    progress = epoch / epochs
    rise = 1 - np.exp(-4 * progress)
    noise = random.normal(0, 0.004, epochs + 1)
    log_trace = 12 + 3 * np.exp(-((progress - 0.45) ** 2) / 0.08) - 1.5 * effect * progress
    return pd.DataFrame(
        {
            "epoch": epoch,
            "step": epoch * round(3200 / batch_size),
            "lr": 1e-4,
            "train_loss": 1 - 0.8 * rise,
            "train_accuracy": 0.4 + 0.58 * rise,
            "val_loss": 1.1 - 0.8 * rise,
            "val_accuracy": 0.4 + 0.5 * rise - 0.05 * progress**4 + noise,
            "log_trace": log_trace + random.normal(0, 0.05, epochs + 1),
            "log_trace_se": np.full(epochs + 1, 0.08),
        }
    )


def write(folder: Path, sweep: Made = DEMO) -> Files:
    """Write every file of a study below `folder`; the numbers follow from the conditions' names."""
    random = np.random.default_rng(5)
    effects = np.linspace(-0.8, 1, len(sweep.conditions))
    effect = dict(zip(sweep.conditions, effects, strict=True))
    epochs = {task: 4 + 5 * (i % 3) for i, task in enumerate(sweep.tasks)}
    zero = {task: 0.3 + 0.05 * (i % 4) for i, task in enumerate(sweep.tasks)}
    histories: dict[str, dict[str, pd.DataFrame]] = {}
    training = []
    for condition, changes in sweep.conditions.items():
        for seed in sweep.seeds:
            run = f"sweep.{condition}.seed{seed}"
            batch_size = changes.get("batch_size", sweep.base["batch_size"])
            histories[run] = {
                task: history(effect[condition], epochs[task], random, batch_size)
                for task in sweep.tasks
            }
            for task in sweep.tasks:
                training.append(str(folder / "models" / run / task / "training.parquet"))
                Path(training[-1]).parent.mkdir(parents=True)
                histories[run][task].to_parquet(training[-1])
    results, measures = [], []
    for given in collections(sweep):
        later = {"last": 0.0, "max_val": 0.01, "max_fim": -0.03}[given["selection"]]
        strength = effect[given["condition"]]

        def around(
            level: float, strength: float = strength, later: float = later
        ) -> dict[str, float]:
            return {
                task: float(
                    np.clip(level + later + 0.03 * strength + random.normal(0, 0.006), 0, 1)
                )
                for task in sweep.tasks
            }

        best = {
            split: around(level)
            for split, level in {"train": 0.95, "test": 0.93, "val": 0.92}.items()
        }
        traces = {
            task: histories[given["run"]][task].set_index("epoch")["log_trace"][
                selected_epoch(
                    histories[given["run"]][task].to_dict("records"), given["selection"], ""
                )
            ]
            for task in sweep.tasks
        }
        for index, model in enumerate(("finetuned", *sweep.mergers)):
            alpha: Any = None
            reached = best
            if index:
                reached = {s: around(0.72 + 0.1 * strength - 0.04 * index) for s in best}
                chosen = 0.3 + 0.05 * round(2 * strength) + 0.05 * int(random.integers(0, 2))
                curve = []
                for a in GRID:
                    at = {
                        t: zero[t]
                        + (reached["val"][t] - zero[t])
                        * (1 - ((a - chosen) / max(chosen, 1 - chosen)) ** 2)
                        for t in sweep.tasks
                    }
                    at = {t: float(max(0.05, v)) for t, v in at.items()}
                    by_task = scores(at, best["val"])
                    mean = {
                        k: float(np.mean([by_task[t][k] for t in sweep.tasks]))
                        for k in ("accuracy", "normalized_accuracy")
                    }
                    curve.append({
                        "alpha": a, **mean,
                        "tasks": {t: {k: by_task[t][k] for k in mean} for t in sweep.tasks},
                    })  # fmt: skip
                alpha = {
                    "value": round(chosen, 2), "how": "search", "split": "val",
                    "criterion": "average normalized accuracy", "patience": None, "curve": curve,
                }  # fmt: skip
            tested = scores(reached["test"], best["test"])
            validated = scores(reached["val"], best["val"], 100)
            content = result(given["experts"], model, tested, validated, alpha)
            results.append(str(folder / "results" / given["experts"] / f"{model}.json"))
            write_json(results[-1], content)

            def measured(
                accuracies: Mapping[str, float], split: str, shift: float, traces: Any = traces,
                best: Any = best,
            ) -> dict[str, Any]:  # fmt: skip
                found = scores(accuracies, best[split], 800)
                return {
                    task: {
                        split: found[task],
                        "log_trace": {
                            "value": float(traces[task] + shift),
                            "standard_error": 0.08,
                            "examples": 100,
                        },
                    }
                    for task in sweep.tasks
                }

            at_alpha = around(0.6)
            content = {
                "schema": "mergeloom/conditions/1",
                "encoder": "ViT-Nano",
                "experts": given["experts"],
                "benchmark": "demo",
                "merger": model,
                "alpha": None if alpha is None else alpha["value"],
                "log_trace": SETTINGS,
                "tasks": measured(reached["train"], "train", 0.4 * index),
                "provenance": {},
            }
            if index == 1:
                found = measured(at_alpha, "train", 0.2)
                tested = scores(around(0.58), best["test"])
                content["scaled"] = {t: found[t] | {"test": tested[t]} for t in sweep.tasks}
            measures.append(
                str(folder / "results" / given["experts"] / "conditions" / f"{model}.json")
            )
            write_json(measures[-1], content)
    best_of_first = dict.fromkeys(sweep.tasks, 0.9)
    found = scores(zero, best_of_first)
    zeroshot = result(
        collections(sweep)[0]["experts"], "zeroshot", found, found, {"value": 0.0, "how": "fixed"}
    )
    return Files(
        collections(sweep), sweep.tasks, sweep.mergers, results, measures, training, zeroshot
    )


def runs(files: Files) -> list[str]:
    """Runs in the order of their histories."""
    return list(dict.fromkeys(given["run"] for given in files.collections))
