"""Measures of a study of conditions: what a run and its selections plan, and what is written."""

import json
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from jsonschema import Draft202012Validator
from sandbox import Workflow

from mergeloom.config.presets import schema_named

RUN = "results/ViT-Tiny/tiny_sweep.base.seed0"
RUNS = {"last": RUN, "max_val": f"{RUN}.max_val", "max_fim": f"{RUN}.max_fim"}
ZEROSHOT = f"{RUN}/tiny/conditions/zeroshot.json"
TASKS = ("tiny_digits", "tiny_shapes")


@pytest.fixture(scope="module")
def measured(swept):
    """The sweep in miniature, and the base measured beside."""
    swept.run(ZEROSHOT)
    return swept


def read(workflow, selection, name):
    return json.loads(workflow.read(f"{RUNS[selection]}/tiny/{name}.json"))


def test_a_run_and_its_selections_are_one_job_of_each_kind(fresh):
    of = "of_max_fim_and_max_val"
    folders = [f"{folder}/tiny" for folder in RUNS.values()]
    planned = fresh.planned(
        *(f"{folder}/conditions/task_addition.json" for folder in folders),
        *(f"{folder}/conditions/finetuned.json" for folder in folders),
    )
    assert planned[f"measure_finetuned_{of}"] == planned[f"measure_merged_{of}"] == 1
    assert planned[f"evaluate_finetuned_{of}"] == planned[f"evaluate_merged_{of}"] == 1
    assert planned["finetune_task_and_keep_max_fim_and_max_val"] == len(TASKS)
    one = fresh.planned(f"{RUNS['max_fim']}/tiny/conditions/task_addition.json")
    assert one == planned, "a file that is asked for alone"


def test_the_measures_of_finetuned_models_need_no_result(fresh):
    planned = fresh.planned(f"{RUN}/tiny/conditions/finetuned.json")
    assert not {rule for rule in planned if "evaluate" in rule or "merge" in rule}


def test_the_base_is_measured_without_task_vectors(fresh):
    planned = fresh.planned(ZEROSHOT)
    assert planned["measure_merged_of_max_fim_and_max_val"] == 1
    assert not {rule for rule in planned if rule.startswith(("extract", "merge"))}


def test_a_collection_without_selections_is_measured_by_itself(fresh):
    planned = fresh.planned("results/ViT-Tiny/traced/tiny/conditions/task_arithmetic.json")
    assert planned["measure_merged"] == planned["measure_finetuned"] == 1
    assert planned["evaluate_merged"] == planned["evaluate_finetuned"] == 1


@pytest.mark.parametrize(
    ("experts", "remedy"),
    [
        ("finetuned", "add `log_trace: {mode: fisher, examples: 2000, sampling: shuffled}`"),
        ("public", "they are trained elsewhere"),
    ],
)
def test_experts_without_settings_are_told_what_to_add(fresh, experts, remedy):
    for name in ("finetuned", "task_arithmetic"):
        target = f"results/ViT-Tiny/{experts}/tiny/conditions/{name}.json"
        done = fresh.run(target, "-n", check=False)
        assert done.returncode
        assert f"experts '{experts}' have no settings of the log-trace: {remedy}" in done.stdout


@pytest.mark.parametrize("selection", RUNS)
def test_every_file_fits_the_schema_and_names_itself(measured, selection):
    schema = schema_named(measured.folder / "config/schema", "conditions_result")
    for merger in ("finetuned", "task_addition", "zeroshot"):
        content = read(measured, selection, f"conditions/{merger}")
        Draft202012Validator(schema).validate(content)
        assert content["merger"] == merger
        assert content["experts"] == Path(RUNS[selection]).name
        assert tuple(content["tasks"]) == TASKS
        assert ("scaled" in content) == (merger == "task_addition")
        assert (merger == "finetuned") or (
            content["alpha"] == read(measured, selection, merger)["alpha"]["value"]
        )


def test_the_log_trace_of_the_base_is_the_one_before_training(measured):
    """By the same examples, the same draws and the same weights."""
    for task in TASKS:
        folder = measured.folder / RUN.replace("results", "models")
        before = pd.read_parquet(folder / task / "training.parquet").iloc[0]
        for selection in RUNS:
            found = read(measured, selection, "conditions/zeroshot")["tasks"][task]["log_trace"]
            assert found["value"] == pytest.approx(before["log_trace"], rel=1e-6)


def test_how_parameters_are_used_re_runs_what_takes_a_log_trace(measured, tmp_path):
    subprocess.run(["cp", "-a", measured.folder, tmp_path / "copy"], check=True)
    copy = Workflow(tmp_path / "copy")
    watching = "workflow_scripts/mergeloom/models/clip_uses.py"
    copy.edit(watching, "pooled: list[Tensor] = []", "pooled: list[Tensor] = list()")
    assert copy.planned(f"{RUN}/tiny/conditions/finetuned.json") == {
        "finetune_task_and_keep_max_fim_and_max_val": len(TASKS),
        "measure_finetuned_of_max_fim_and_max_val": 1,
    }


def test_a_record_names_the_files_of_its_own_selection(measured):
    others = {Path(folder).name for folder in RUNS.values()}
    for selection, folder in RUNS.items():
        for name in ("finetuned", "task_addition", "conditions/finetuned", "conditions/zeroshot"):
            record = read(measured, selection, name)["provenance"]
            named = {part for path in record["inputs"] for part in path.split("/")} & others
            assert named == {Path(folder).name}


def test_an_alpha_file_that_was_copied_from_another_benchmark_ends_the_job(measured, tmp_path):
    subprocess.run(["cp", "-a", measured.folder, tmp_path / "copy"], check=True)
    copy = Workflow(tmp_path / "copy")
    path = f"{RUN}/tiny/task_addition.json"
    copy.edit(path, '"benchmark": "tiny"', '"benchmark": "demo8"')
    done = copy.run(f"{RUN}/tiny/conditions/task_addition.json", check=False)
    assert done.returncode
    told = "is an alpha file of another benchmark: it says benchmark 'demo8' (expected 'tiny')"
    assert f"{path}: {told}" in done.stdout
