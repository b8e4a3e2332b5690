"""A sweep of training conditions: what it plans, and what comes out of one in miniature."""

import csv
import json

import pandas as pd
import pytest
from PIL import Image
from safetensors import safe_open

STUDY = "results/conditions/ViT-Tiny/tiny/tiny_sweep"
FIGURES = ("accuracy", "log_trace_training", "log_trace_accuracy", "alpha_curves")
TASKS = ("tiny_digits", "tiny_shapes")
CONDITIONS = ("base", "small_and_balanced")
SELECTIONS = {"max_val": "val_accuracy", "max_fim": "log_trace"}


def of_training(planned):
    return sum(count for rule, count in planned.items() if rule.startswith("finetune_task"))


def test_runs_of_the_published_study_are_recipes_times_tasks_times_seeds(fresh):
    planned = fresh.planned("polito", configfile="config/config.yaml")
    conditions, balancings, tasks, seeds = 1 + 4 + 3 + 3, 2, 6, 3
    assert of_training(planned) == conditions * balancings * tasks * seeds


def test_selections_add_no_run_and_other_mergers_train_nothing(fresh):
    preset = "tests/workflow/presets/conditions.yaml"
    runs = len(CONDITIONS) * len(TASKS) * 2
    assert of_training(fresh.planned("tiny_sweep")) == runs
    fresh.edit(preset, "[last, max_val, max_fim]", "[last]")
    assert of_training(fresh.planned("tiny_sweep")) == runs
    fresh.edit(preset, "[task_addition, weight_average]", "[task_addition, tsv_at_1, ties]")
    planned = fresh.planned("tiny_sweep")
    assert of_training(planned) == runs
    assert planned["merge_models"] == 3 * len(CONDITIONS) * 2


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds: [0, 1]", "seeds: [0, 1, 0]", "tiny_sweep: seeds: repeats 0; give each value once"),
        ("named: {small", "named: {base: {lr: 1.0}, small", "'base' is named twice with different"),
        ("benchmark: tiny", "benchmark: tyni", "conditions 'tiny_sweep': unknown benchmark 'tyni'"),
        ("[task_addition,", "[task_adition,", "conditions 'tiny_sweep': unknown merger"),
        ("{batch_size: 16,", "{batch_sise: 16,", "small_and_balanced: unknown key 'batch_sise'"),
        ("tiny_sweep:", "all:", "conditions 'all': `snakemake all` makes something else already"),
    ],
)
def test_what_is_wrong_with_a_sweep_is_said_before_anything_runs(fresh, old, new, message):
    fresh.edit("tests/workflow/presets/conditions.yaml", old, new)
    done = fresh.run("tiny_sweep", "-n", check=False)
    assert done.returncode != 0
    assert message in done.stdout


def test_a_selection_that_is_not_kept_is_said_before_anything_runs(fresh):
    done = fresh.run("results/ViT-Tiny/finetuned.max_fim/tiny/tsv.json", "-n", check=False)
    assert done.returncode != 0
    assert "experts 'finetuned' keep no max_fim (they keep: last)" in done.stdout


def table_of(swept):
    return pd.read_csv(swept.folder / STUDY / "conditions.csv", keep_default_na=False)


def result_of(swept, experts, name):
    return json.loads(swept.read(f"results/ViT-Tiny/{experts}/tiny/{name}.json"))


def runs():
    return [f"tiny_sweep.{condition}.seed{seed}" for condition in CONDITIONS for seed in (0, 1)]


@pytest.mark.parametrize("figure", FIGURES)
def test_figures_are_pictures_in_two_formats(swept, figure):
    with Image.open(swept.folder / STUDY / f"{figure}.png") as image:
        assert min(image.size) > 400
        assert len(set(image.convert("L").resize((64, 64)).getdata())) > 8, "it is blank"
    assert "<svg" in swept.read(f"{STUDY}/{figure}.svg")


def test_a_second_call_does_nothing(swept):
    assert swept.planned("tiny_sweep") == {}


@pytest.mark.parametrize("selection", SELECTIONS)
def test_a_selection_is_the_checkpoint_of_the_epoch_that_its_curve_says(swept, selection):
    differing = 0
    for run in runs():
        for task in TASKS:
            folder = swept.folder / "models/ViT-Tiny"
            rows = pd.read_parquet(folder / run / task / "training.parquet").set_index("epoch")
            epoch = rows.loc[1:, SELECTIONS[selection]].idxmax()
            last = safe_open(folder / run / task / "checkpoint.safetensors", "pt")
            chosen = safe_open(
                folder / f"{run}.{selection}" / task / "checkpoint.safetensors", "pt"
            )
            assert chosen.metadata()["epoch"] == str(epoch)
            keys = last.keys()
            same = all((chosen.get_tensor(k) == last.get_tensor(k)).all() for k in keys)
            assert same == (epoch == rows.index[-1])
            differing += not same
            # What is evaluated is that epoch's model.
            found = result_of(swept, f"{run}.{selection}", "finetuned")["validation"]["tasks"][task]
            assert found["accuracy"] == rows.loc[epoch, "val_accuracy"]
            measured = result_of(swept, f"{run}.{selection}", "conditions/finetuned")["tasks"][task]
            assert measured["log_trace"]["value"] == pytest.approx(
                rows.loc[epoch, "log_trace"], rel=1e-5
            )
    assert differing, "in no run an epoch before the last is selected"


def test_alpha_zero_is_the_zero_shot_model(swept):
    for run in runs():
        curve = result_of(swept, run, "task_addition")["alpha"]["curve"]
        assert curve[0]["alpha"] == 0
        for task in TASKS:
            path = f"models/ViT-Tiny/{run}/{task}/training.parquet"
            before = pd.read_parquet(swept.folder / path).iloc[0]
            assert curve[0]["tasks"][task]["accuracy"] == before["val_accuracy"]


def test_the_scaled_models_take_the_alpha_of_the_search(swept):
    for run in runs():
        chosen = result_of(swept, run, "task_addition")["alpha"]["value"]
        assert result_of(swept, run, "conditions/task_addition")["alpha"] == chosen


def test_the_table_holds_the_numbers_of_the_results(swept):
    table = table_of(swept).set_index(
        ["condition", "selection", "seed", "model", "task", "split", "metric"]
    )["value"]
    for condition in CONDITIONS:
        for seed in ("0", "1"):
            run = f"tiny_sweep.{condition}.seed{seed}"
            for selection in ("last", *SELECTIONS):
                experts = run if selection == "last" else f"{run}.{selection}"
                key = (condition, selection, seed)
                merged = result_of(swept, experts, "task_addition")
                single = result_of(swept, experts, "conditions/finetuned")
                assert float(
                    table[(*key, "task_addition", "average", "test", "normalized_accuracy")]
                ) == pytest.approx(merged["average"]["normalized_accuracy"], abs=1e-6)
                for task in TASKS:
                    assert float(
                        table[(*key, "finetuned", task, "train", "log_trace")]
                    ) == pytest.approx(single["tasks"][task]["log_trace"]["value"], abs=1e-6)


def test_the_merger_table_has_a_row_per_condition_and_selection_and_a_column_per_merger(swept):
    rows = list(csv.DictReader(swept.read(f"{STUDY}/mergers.csv").splitlines()))
    assert [(row["condition"], row["selection"]) for row in rows] == [
        (condition, selection)
        for condition in CONDITIONS
        for selection in ("last", "max_val", "max_fim")
    ]
    for merger in ("task_addition", "weight_average"):
        found = [
            result_of(swept, f"tiny_sweep.base.seed{seed}", merger)["average"]["accuracy"]
            for seed in (0, 1)
        ]
        assert float(rows[0][merger]) == pytest.approx(sum(found) / 2, abs=1e-6)
        assert float(rows[0][f"{merger}_sd"]) == pytest.approx(
            abs(found[0] - found[1]) / 2**0.5, abs=1e-6
        )


def test_a_balanced_collection_reads_the_balanced_images_alone(swept):
    run = "tiny_sweep.small_and_balanced.seed0"
    for name in ("finetuned", "conditions/finetuned"):
        inputs = result_of(swept, run, name)["provenance"]["inputs"]
        assert not [path for path in inputs if "/train_" in path and "undersample" not in path]
