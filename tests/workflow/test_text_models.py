"""A tiny T5 through the workflow: pretrained, tuned, merged and scored; imported; refused."""

import json

import pytest
import torch
import yaml
from hub import Hub
from jsonschema import Draft202012Validator
from safetensors import safe_open
from safetensors.torch import load_file, save
from sandbox import copy_workflow

CONFIG = "tests/workflow/text.yaml"
STUDY = "results/T5-Tiny/finetuned/tiny_text"
CHECKPOINT = "models/T5-Tiny/{}/{}/checkpoint.safetensors"
TASKS = ("tiny_grammar", "tiny_similarity")
LAYER = "decoder.block.0.layer.1.EncDecAttention.v"


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Everything that the configuration asks for, built once; tests add to it."""
    workflow = copy_workflow(tmp_path_factory.mktemp("text"))
    workflow.run(configfile=CONFIG)
    return workflow


def experts(workflow, **presets):
    path = workflow.folder / "tests/workflow/presets/experts.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | presets))


def test_a_benchmark_of_texts_has_results_tables_and_figures(text):
    assert text.planned(configfile=CONFIG) == {}
    schema = json.loads(text.read("config/schema/result.schema.json"))
    for merger in ("finetuned", "zeroshot", "task_arithmetic", "ties", "tsv"):
        result = json.loads(text.read(f"{STUDY}/{merger}.json"))
        Draft202012Validator(schema).validate(result)
        assert result["scored_by"] == {"tiny_similarity": "spearman"}
        grammar = result["tasks"]["tiny_grammar"]
        assert {"mcc", "valid_rate", "label_accuracy"} < set(grammar)
    for figure in ("radar", "averages", "alpha_curves", "singular_values", "learning_curves"):
        assert (text.folder / f"{STUDY}/{figure}.png").stat().st_size > 1000
    assert "tiny_similarity" in text.read(f"{STUDY}/summary.csv")


def test_the_experts_learned_their_tasks_and_nothing_is_stored_twice(text):
    zeroshot, tuned = (
        json.loads(text.read(f"{STUDY}/{name}.json"))["tasks"]["tiny_similarity"]
        for name in ("zeroshot", "finetuned")
    )
    assert tuned["accuracy"] > max(zeroshot["accuracy"], 0.1)
    keys = set(load_file(text.folder / "models/T5-Tiny/base.safetensors"))
    assert {"shared.weight", "lm_head.weight"} < keys
    assert not any("embed_tokens" in key for key in keys)
    assert keys == set(load_file(text.folder / CHECKPOINT.format("finetuned", TASKS[0])))


def test_features_of_a_text_encoder_say_how_long_its_texts_may_be(text):
    path = text.folder / "tests/workflow/presets/extractors.yaml"
    path.write_text(path.read_text() + "tiny_text: {encoder: T5-Tiny}\n")
    target = "cache/tiny_grammar/features/tiny_text/val.safetensors"
    text.run(target, configfile=CONFIG)
    with safe_open(text.folder / target, "numpy") as file:
        assert '"preprocessing": {"length": 48}' in file.metadata()["features"]


def test_whole_models_and_adapters_are_imported_from_the_hub(text, tmp_path):
    base = load_file(text.folder / "models/T5-Tiny/base.safetensors")
    experts(
        text,
        whole={"import": {"hub": "someone/{task}", "file": "model.safetensors",
                          "revision": "main"}},
        lora={"import": {"hub": "someone/{task}-lora", "file": "adapter_model.safetensors",
                         "revision": "main"}},
    )  # fmt: skip
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
    factors = {}
    with Hub() as hub:
        for seed, task in enumerate(TASKS):
            tuned = load_file(text.folder / CHECKPOINT.format("finetuned", task))
            copies = {
                f"{stack}.embed_tokens.weight": tuned["shared.weight"].clone()
                for stack in ("encoder", "decoder")
            }
            hub.add("model", f"someone/{task}", {"model.safetensors": save(tuned | copies)})
            random = torch.Generator().manual_seed(seed)
            out, into = base[f"{LAYER}.weight"].shape
            a = torch.randn(2, into, generator=random)
            b = torch.randn(out, 2, generator=random)
            factors[task] = b @ a
            name = f"base_model.model.{LAYER}"
            hub.add("model", f"someone/{task}-lora", {
                "adapter_model.safetensors": save(
                    {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
                ),
                "adapter_config.json": json.dumps(config).encode(),
            })  # fmt: skip
        text.run(
            STUDY.replace("finetuned", "whole") + "/task_arithmetic.json",
            *(CHECKPOINT.format("lora", task) for task in TASKS),
            configfile=CONFIG, **hub.environment(tmp_path / "cache"),
        )  # fmt: skip
    own, public = (
        json.loads(text.read(f"{STUDY.replace('finetuned', name)}/task_arithmetic.json"))
        for name in ("finetuned", "whole")
    )
    assert own["tasks"] == public["tasks"]
    for task in TASKS:
        found = load_file(text.folder / CHECKPOINT.format("lora", task))
        expected = base[f"{LAYER}.weight"] + 2 * factors[task]
        torch.testing.assert_close(found.pop(f"{LAYER}.weight"), expected)
        assert all(torch.equal(found[key], base[key]) for key in found)


def test_a_published_t5_is_fetched_with_the_commit_in_its_record(text, tmp_path):
    preset = yaml.safe_load(text.read("tests/workflow/presets/encoders/T5-Tiny.yaml"))
    preset["architecture"]["transformers"] = "someone/t5"
    preset["weights"] = {"published": "main"}
    path = text.folder / "tests/workflow/presets/encoders/T5-Hub.yaml"
    path.write_text(yaml.safe_dump(preset))
    base = text.folder / "models/T5-Tiny/base.safetensors"
    with Hub() as hub:
        commit = hub.add("model", "someone/t5", {"model.safetensors": base})
        text.run(
            "models/T5-Hub/base.safetensors",
            configfile=CONFIG, **hub.environment(tmp_path / "cache"),
        )  # fmt: skip
    fetched = text.folder / "models/T5-Hub/base.safetensors"
    start, found = load_file(base), load_file(fetched)
    assert found.keys() == start.keys()
    assert all(torch.equal(found[key], start[key]) for key in start)
    assert f"someone/t5@{commit}/model.safetensors".encode() in fetched.read_bytes()[:20000]
    # How long its texts may be is of their tokens, and fetches nothing anew.
    path.write_text(yaml.safe_dump(preset | {"text": {"length": 47}}))
    assert text.planned("models/T5-Hub/base.safetensors", configfile=CONFIG) == {}
    path.unlink()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (f"{STUDY}/corrupted/contrast2/tsv.json", "corruptions are of encoders that read images"),
        (f"{STUDY}/confusion/tsv.png", "confusion and calibration are of encoders that read"),
        ("models/T5-Tiny/finetuned/exported/tiny_text/tsv/transformers", "exports are of encoders"),
        (f"{STUDY}/fisher.json", "Fisher information is of encoders that read images"),
        (
            STUDY.replace("finetuned", "traced") + "/conditions/tsv.json",
            "the log-trace is of encoders that read images",
        ),
        (STUDY.replace("finetuned", "undersampled") + "/tsv.json", "undersampling is of images"),
    ],
)
def test_what_is_of_images_is_refused_when_it_is_planned(text, target, message):
    done = text.run(target, "-n", check=False, configfile=CONFIG)
    assert done.returncode != 0
    assert message in done.stdout
