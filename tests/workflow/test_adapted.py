"""Adapters in miniature: adapted, evaluated, used on other inputs and on another encoder."""

import json

import pandas as pd
import pytest
from jsonschema import Draft202012Validator
from sandbox import copy_workflow

RESULTS = "results/adaptive/ViT-Tiny/finetuned/tiny"
LARGER = "results/adaptive/ViT-Tiny-2/finetuned/tiny"
MODELS = "models/ViT-Tiny/finetuned/adapted/tiny"
PRESETS = "tests/workflow/presets/adapters.yaml"
METHODS = "workflow_scripts/mergeloom/adaptive/methods"
TARGETS = (
    f"{RESULTS}/tiny_gate",
    f"{RESULTS}/tiny_adamerging_plus_plus",
    f"{RESULTS}/smile",
    f"{RESULTS}/task_classifier",
    f"{RESULTS}/corrupted/contrast2/tiny_gate",
    f"{RESULTS}/on/tiny/tiny_gate",
    f"{LARGER}/from/ViT-Tiny/tiny_gate",
    f"{LARGER}/from/ViT-Tiny/tiny_gate_by_depth",
)


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    workflow = copy_workflow(tmp_path_factory.mktemp("adapted"))
    workflow.run(*(f"{target}.json" for target in TARGETS), "--cores", "2")
    return workflow


def result_of(adapted, target):
    return json.loads(adapted.read(f"{target}.json"))


def test_one_adapted_result_plans_only_what_it_needs(fresh):
    assert fresh.planned(f"{RESULTS}/tiny_gate.json") == {
        "render_task": 2,
        "decode_training_images": 2,
        "decode_evaluation_images": 2,
        "pretrain_encoder": 1,
        "build_head": 2,
        "finetune_task": 2,
        "extract_task_vector": 2,
        "extract_features_of_evaluation": 2,
        "evaluate_finetuned": 1,
        "adapt_model": 1,
        "evaluate_adapted": 1,
    }


def test_adapters_that_read_no_features_wait_for_none(fresh):
    planned = fresh.planned(f"{RESULTS}/tiny_adamerging_plus_plus.json")
    assert not [rule for rule in planned if rule.startswith("extract_features")]
    assert planned["merge_models"] == 1


def test_a_transfer_adapts_on_the_source_alone(fresh):
    planned = fresh.planned(f"{LARGER}/from/ViT-Tiny/tiny_gate.json")
    assert planned["adapt_model"] == planned["evaluate_transferred"] == 1
    assert planned["finetune_task"] == 4
    assert planned["pretrain_encoder"] == 2


@pytest.mark.parametrize("target", TARGETS)
def test_every_result_fits_the_schema_and_has_its_tables(adapted, target):
    schema = json.loads(adapted.read("config/schema/adaptive_result.schema.json"))
    result = result_of(adapted, target)
    Draft202012Validator(schema).validate(result)
    assert result["adapter"]["name"] == target.split("/")[-1]
    table = pd.read_parquet(adapted.folder / f"{target}.coefficients.parquet")
    assert set(table.task) == set(table.expert) == {"tiny_digits", "tiny_shapes"}
    assert json.loads(adapted.read(f"{target}.times.json"))["examples_per_second"] > 0


def test_results_say_what_they_were_adapted_to_and_evaluated_on(adapted):
    plain = result_of(adapted, f"{RESULTS}/tiny_gate")
    assert plain["adaptation"]["split"] == "test"
    assert "corruption" not in plain["adaptation"]
    corrupted = result_of(adapted, f"{RESULTS}/corrupted/contrast2/tiny_gate")
    of_corruption = {"corruption": "contrast", "severity": 2}
    assert of_corruption.items() <= corrupted["adaptation"].items()
    assert corrupted["evaluated_on"] == of_corruption
    elsewhere = result_of(adapted, f"{RESULTS}/on/tiny/tiny_gate")
    assert elsewhere["evaluated_on"] == {"benchmark": "tiny", "unseen": []}
    assert elsewhere["average"] == plain["average"]
    other = result_of(adapted, f"{RESULTS}/tiny_adamerging_plus_plus")
    assert other["adaptation"]["split"] == "train_unlabelled"
    assert other["adapter"]["vectors"] == "ties_vectors"
    moved = result_of(adapted, f"{LARGER}/from/ViT-Tiny/tiny_gate_by_depth")
    assert moved["transferred_from"]["encoder"] == "ViT-Tiny"
    names = moved["provenance"]["inputs"]
    assert f"{MODELS}/tiny_gate_by_depth.safetensors" in names
    assert not any("times" in name for name in names), "times differ from run to run"


def test_before_adaptation_it_is_task_arithmetic_at_0_3(adapted):
    adapted.run("results/ViT-Tiny/finetuned/tiny/task_arithmetic_at_0.3.json", "--cores", "2")
    merged = json.loads(adapted.read("results/ViT-Tiny/finetuned/tiny/task_arithmetic_at_0.3.json"))
    before = result_of(adapted, f"{RESULTS}/tiny_gate")["before"]
    for task, scores in merged["tasks"].items():
        assert before["tasks"][task]["accuracy"] == scores["accuracy"]
        assert before["tasks"][task]["loss"] == pytest.approx(scores["loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("path", "old", "new", "planned"),
    [
        (PRESETS, "{granularity: sample}", "{granularity: sample, rank: 4}",
         {"decompose_task_vector": 2, "evaluate_adapted": 1}),
        # The curve validates what is evaluated.
        (PRESETS, "{granularity: sample}", "{granularity: batch}",
         {"adapt_model": 1, "evaluate_adapted": 1}),
        (PRESETS, "lr: 1.0e-2", "lr: 2.0e-2", {"adapt_model": 1, "evaluate_adapted": 1}),
        (f"{METHODS}/wemoe.py", "DEVIATION = 0.01", "DEVIATION = 0.02", {}),
        (f"{METHODS}/gate.py", "1 / math.sqrt(size)", "2 / math.sqrt(size)",
         {"adapt_model": 1, "evaluate_adapted": 1}),
    ],
)  # fmt: skip
def test_a_change_adapts_anew_what_it_concerns(adapted, path, old, new, planned):
    kept = adapted.read(path)
    try:
        adapted.edit(path, old, new)
        assert adapted.planned(f"{RESULTS}/tiny_gate.json") == planned
    finally:
        (adapted.folder / path).write_text(kept)


def test_a_gate_per_layer_of_another_encoder_is_refused(adapted):
    target = f"{LARGER}/from/ViT-Tiny/tiny_gate_by_layer.json"
    done = adapted.run(target, "--cores", "2", check=False)
    assert done.returncode != 0
    assert "keys differ" in done.stdout
    assert "transfer: by_relative_depth" in done.stdout


def test_costs_are_of_the_adaptation_where_it_was_and_of_the_evaluation_here(adapted):
    study = "results/adaptive/ViT-Tiny-2/finetuned/tiny/tiny_transfers"
    adapted.run(f"{study}/cost.csv", "--cores", "2")
    cost = pd.read_csv(adapted.folder / f"{study}/cost.csv")
    [row] = cost[cost["transferred_from"] == "ViT-Tiny"].to_dict("records")
    there = json.loads(adapted.read(f"{MODELS}/tiny_gate.times.json"))
    here = json.loads(adapted.read(f"{LARGER}/from/ViT-Tiny/tiny_gate.times.json"))
    assert row["adaptation_seconds"] == pytest.approx(there["adaptation_seconds"], rel=1e-3)
    assert row["examples_per_second"] == pytest.approx(here["examples_per_second"], rel=1e-3)
    assert "adaptation_seconds" not in here
    inputs = json.loads(adapted.read(f"{study}/cost.csv.provenance.json"))["inputs"]
    assert f"{MODELS}/tiny_gate.times.json" in inputs


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (f"{RESULTS}/tiny_gat.json", "unknown adapter 'tiny_gat'; config has: adamerging"),
        (f"{RESULTS}/from/ViT-Tiny/tiny_gate.json", "ViT-Tiny is the encoder itself: its own"),
        (f"{RESULTS}/from/ViT/tiny_gate.json", "unknown encoder 'ViT'"),
        (f"{RESULTS}/on/tniy/tiny_gate.json", "unknown benchmark 'tniy'"),
        (f"{RESULTS}/corrupted/fog2/tiny_gate.json", "unknown corruption 'fog'"),
        ("results/adaptive/T5-Nano/finetuned/text4/wemoe.json", "wemoe serves encoders of images"),
    ],
)
def test_what_a_target_cannot_be_of_is_told(fresh, target, message):
    done = fresh.run(target, "-n", check=False)
    assert done.returncode != 0
    assert message in done.stdout


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("method: gate", "method: gates", "adapter 'tiny_gate': unknown adapter 'gates'; there is"),
        ("{per: layer}", "{pre: layer}", "The adapter gate has no parameter pre. It has: per"),
        ("vectors: ties_vectors", "vectors: tsv", "vectors is 'tsv', expected a merger that gives"),
        ("steps: 4, ", "", "adapter 'tiny_gate': gate is trained: say `adaptation: {split, steps"),
        ("split: test,", "split: tset,", "adaptation.split: 'tset' is not one of ['test', 'val'"),
        ("evaluation: {granularity: sample}", "evaluation: {granularity: batch}\n  extractor: none",
         "adapter 'tiny_gate': unknown extractor 'none'"),
    ],
)  # fmt: skip
def test_a_wrong_preset_is_one_clear_error(fresh, old, new, message):
    fresh.edit("tests/workflow/presets/adapters.yaml", old, new)
    done = fresh.run("-n", check=False)
    assert done.returncode != 0
    assert message in done.stdout
    assert "Traceback" not in done.stdout
