"""Measures of a study of conditions: of the model, the images and the alpha that they say."""

import json
import math
import re
from pathlib import Path
from typing import ClassVar, NamedTuple

import pytest
import torch
from jsonschema import Draft202012Validator
from linear_family import ENCODER, NAMES, PROVENANCE, Linear, write_files

from mergeloom.config.presets import schema_named
from mergeloom.errors import MergeloomError
from mergeloom.evaluation import conditions
from mergeloom.evaluation.benchmark import Benchmark, evaluate_finetuned, evaluate_merged
from mergeloom.evaluation.conditions import (
    Measures,
    measure_finetuned,
    measure_merged,
    read_measures,
)
from mergeloom.io.jsonfile import write_json
from mergeloom.io.tensors import TensorFile, write_tensors
from mergeloom.models import family as families

SCHEMA = schema_named(Path(__file__).parents[2] / "config" / "schema", "conditions_result")
SETTINGS = {"mode": "fisher", "examples": 5, "sampling": "shuffled"}
TASKS = ["a", "b"]


class Estimate(NamedTuple):
    value: float
    standard_error: float
    examples: int


class SquaredNorm:
    """In place of the log-trace: the logarithm of 1 + ‖W‖² + the number of classes of the head."""

    made: ClassVar[list[tuple]] = []
    calls = 0

    def __init__(
        self, family, images, preprocessing, device, batch_size, settings, seed, first_batch
    ):
        self.made.append((len(images), batch_size, settings, seed, first_batch))
        self.examples = min(settings["examples"], len(images))

    def __call__(self, tower, head):
        SquaredNorm.calls += 1
        value = math.log(1 + float(tower.weight.square().sum()) + len(head))
        return Estimate(value, 0.25, self.examples)


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch):
    families.get_family("clip")
    monkeypatch.setitem(families._FAMILIES, "linear", Linear())
    monkeypatch.setattr(conditions, "LogTrace", SquaredNorm)
    monkeypatch.setattr(SquaredNorm, "made", [])


@pytest.fixture
def files(tmp_path):
    """Two experts that differ, and the sum of their task vectors."""
    folder, paths = write_files(tmp_path)
    with TensorFile(folder / "base.safetensors") as file:
        base = file.read("weight")
    paths["task_vectors"], total = [], torch.zeros(4, 4)
    for index, checkpoint in enumerate(paths["checkpoints"]):
        vector = 2 * torch.eye(4) - 3 * torch.eye(4).roll(1 + index, 0)
        write_tensors(checkpoint, {"weight": base + vector}, {})
        paths["task_vectors"].append(folder / TASKS[index] / "task_vector.safetensors")
        paths["task_vectors"][-1].parent.mkdir()
        write_tensors(paths["task_vectors"][-1], {"weight": vector}, {})
        total += vector
    write_tensors(folder / "sum.safetensors", {"weight": total}, {})
    return folder, paths


def benchmark_of(files, splits, tasks=TASKS):
    paths = {key: files[1][key][: len(tasks)] for key in ("heads", *splits)}
    return Benchmark(encoder=ENCODER, tasks=tasks, device="cpu", batch_size=3, **paths)


def measures_of(files, tasks=TASKS):
    benchmark = benchmark_of(files, ("train", "test"), tasks)
    return Measures(benchmark, log_trace=SETTINGS, seed=7, first_batch=32)


@pytest.fixture
def measured(files):
    """Fine-tuned models: their result and their measures, as files."""
    given = {"checkpoints": files[1]["checkpoints"], "names": NAMES, "provenance": PROVENANCE}
    result = evaluate_finetuned(benchmark_of(files, ("val", "test")), **given)
    write_json(files[0] / "finetuned.json", result)
    write_json(files[0] / "measures.json", measure_finetuned(measures_of(files), **given))
    return json.loads((files[0] / "measures.json").read_text())


def result_of(files, alpha, merged="sum.safetensors", **changed):
    """The file of a merger's result at an alpha."""
    path = files[0] / "chosen.json"
    content = evaluate_merged(
        benchmark_of(files, ("val", "test")),
        base=files[0] / "base.safetensors",
        merged=files[0] / merged if merged else None,
        merger={"method": "task_arithmetic"},
        alpha={"how": "fixed", "value": alpha},
        finetuned=json.loads((files[0] / "finetuned.json").read_text()),
        names=NAMES | {"merger": "ta"} | changed,
        provenance=PROVENANCE,
    )
    write_json(path, content)
    return path


def measure(files, alpha, merged="sum.safetensors", measures=None, scaled=True, chosen=None):
    content = measure_merged(
        measures or measures_of(files),
        base=files[0] / "base.safetensors",
        merged=files[0] / merged if merged else None,
        task_vectors=files[1]["task_vectors"] if scaled else None,
        chosen=chosen or result_of(files, alpha, merged),
        finetuned=files[0] / "finetuned.json",
        finetuned_measures=files[0] / "measures.json",
        names=NAMES | {"merger": "ta"},
        provenance=PROVENANCE,
    )
    Draft202012Validator(SCHEMA).validate(content)
    return content


def squared_norm(path, classes=4):
    with TensorFile(path) as file:
        return math.log(1 + float(file.read("weight").square().sum()) + classes)


def test_a_finetuned_model_is_measured_on_its_own_training_images(files, measured):
    Draft202012Validator(SCHEMA).validate(measured)
    assert measured["alpha"] is None
    assert measured["log_trace"] == SETTINGS
    for task, path, n in (
        ("a", files[1]["checkpoints"][0], 8),
        ("b", files[1]["checkpoints"][1], 20),
    ):
        found = measured["tasks"][task]
        assert found["train"]["n"] == n
        assert found["train"]["normalized_accuracy"] == 1.0
        assert found["log_trace"]["value"] == pytest.approx(squared_norm(path))
        assert found["log_trace"]["examples"] == 5
    assert SquaredNorm.made == [(8, 3, SETTINGS, 7, 32), (20, 3, SETTINGS, 7, 32)]


def test_the_training_images_are_those_of_the_split_train(files, measured):
    """With the labels of the training images all 3, one of four is right there, and as before on
    test images."""
    measures = measures_of(files)
    for task in TASKS:
        measures.benchmark.examples["train"][task].labels[:] = 3
    found = measure(files, 1.0, measures=measures)
    assert found["scaled"]["b"]["train"]["accuracy"] == 0.25
    assert found["scaled"]["b"]["test"]["accuracy"] == 1.0


def test_alpha_zero_is_the_base(files, measured):
    at_zero = measure(files, 0.0)
    base = measure(files, 0.0, merged=None, scaled=False)
    assert at_zero["tasks"] == base["tasks"]
    assert at_zero["alpha"] == base["alpha"] == 0.0
    assert "scaled" not in base
    value = squared_norm(files[0] / "base.safetensors")
    for task in TASKS:
        assert base["tasks"][task]["train"]["accuracy"] == 0.25
        assert base["tasks"][task]["log_trace"]["value"] == pytest.approx(value)
        assert {k: v for k, v in at_zero["scaled"][task].items() if k != "test"} == base["tasks"][
            task
        ]


def test_the_base_is_measured_once_for_all_collections(files, measured):
    measures, SquaredNorm.calls = measures_of(files), 0
    first, second = (
        measure(files, 0.0, merged=None, scaled=False, measures=measures) for _ in range(2)
    )
    assert first == second
    assert SquaredNorm.calls == len(TASKS)


def test_scaled_models_at_alpha_one_are_the_finetuned_models(files, measured):
    finetuned = json.loads((files[0] / "finetuned.json").read_text())
    scaled = measure(files, 1.0)["scaled"]
    for task in TASKS:
        assert scaled[task]["train"] == measured["tasks"][task]["train"]
        assert scaled[task]["test"] == finetuned["tasks"][task]
        assert scaled[task]["log_trace"] == measured["tasks"][task]["log_trace"]


def test_one_expert_merged_at_alpha_one_is_that_expert(files):
    measures = measures_of(files, ["a"])
    checkpoints, vectors = files[1]["checkpoints"][:1], files[1]["task_vectors"][:1]
    given = {"checkpoints": checkpoints, "names": NAMES, "provenance": PROVENANCE}
    finetuned = evaluate_finetuned(benchmark_of(files, ["test"], ["a"]), **given)
    write_json(files[0] / "finetuned.json", finetuned)
    alone = measure_finetuned(measures, **given)
    write_json(files[0] / "measures.json", alone)
    write_json(
        files[0] / "ta.json",
        finetuned | {"merger": {"name": "ta"}, "alpha": {"value": 1.0, "how": "fixed"}},
    )
    found = measure_merged(
        measures,
        base=files[0] / "base.safetensors",
        merged=vectors[0],
        task_vectors=vectors,
        chosen=files[0] / "ta.json",
        finetuned=files[0] / "finetuned.json",
        finetuned_measures=files[0] / "measures.json",
        names=NAMES | {"merger": "ta"},
        provenance=PROVENANCE,
    )
    assert found["tasks"] == alone["tasks"]
    assert found["tasks"]["a"]["train"]["normalized_accuracy"] == 1.0
    assert found["scaled"]["a"]["train"] == alone["tasks"]["a"]["train"]


def test_a_merged_model_is_measured_at_the_alpha_of_its_result(files, measured):
    with (
        TensorFile(files[0] / "base.safetensors") as base,
        TensorFile(files[0] / "sum.safetensors") as delta,
    ):
        weight = base.read("weight") + 0.5 * delta.read("weight")
    found = measure(files, 0.5)
    assert found["alpha"] == 0.5
    expected = math.log(1 + float(weight.square().sum()) + 4)
    for task in TASKS:
        assert found["tasks"][task]["log_trace"]["value"] == pytest.approx(expected)
        train = found["tasks"][task]["train"]
        own = measured["tasks"][task]["train"]["accuracy"]
        assert train["normalized_accuracy"] == train["accuracy"] / own


def test_a_model_per_task_is_measured_on_its_own_task(files, measured):
    """The first task's model is its expert, the second's is the base."""
    with TensorFile(files[1]["task_vectors"][0]) as file:
        vector = file.read("weight")
    both = {"weight": torch.stack([vector, torch.zeros(4, 4)])}
    write_tensors(files[0] / "both.safetensors", both, {"per_task": "2"})
    found = measure(files, 1.0, "both.safetensors", scaled=False)
    assert found["tasks"]["a"] == measured["tasks"]["a"]
    value = squared_norm(files[0] / "base.safetensors")
    assert found["tasks"]["b"]["log_trace"]["value"] == pytest.approx(value)


@pytest.mark.parametrize(
    ("key", "value"), [("benchmark", "C"), ("merger", "tsv"), ("experts", "x"), ("encoder", "F")]
)
def test_an_alpha_file_of_another_study_is_refused(files, measured, key, value):
    chosen = result_of(files, 1.0, **{key: value})
    expected = (NAMES | {"merger": "ta"})[key]
    message = (
        f"{chosen}: is an alpha file of another {key}: it says {key} {value!r} "
        f"(expected {expected!r})"
    )
    with pytest.raises(MergeloomError, match=re.escape(message)):
        measure(files, 1.0, chosen=chosen)


def test_measures_of_other_finetuned_models_are_refused(files, measured):
    write_json(files[0] / "measures.json", measured | {"experts": "other"})
    with pytest.raises(MergeloomError, match="a file of measures of another experts: it says"):
        measure(files, 1.0)


def test_a_result_of_other_finetuned_models_is_refused(files, measured):
    chosen = result_of(files, 1.0)
    path = files[0] / "finetuned.json"
    write_json(path, json.loads(path.read_text()) | {"benchmark": "C"})
    with pytest.raises(MergeloomError, match=r"finetuned\.json: is a result of another benchmark"):
        measure(files, 1.0, chosen=chosen)


def test_measures_of_two_precisions_are_not_compared(files, measured):
    write_json(files[0] / "measures.json", measured | {"precision": "bfloat16"})
    with pytest.raises(MergeloomError, match="evaluated in bfloat16, this would be in float32"):
        measure(files, 1.0)


def test_a_log_trace_that_cannot_be_taken_names_model_and_task(files, measured, monkeypatch):
    def refuse(self, tower, head):
        raise MergeloomError("log-trace: the gradients of all 5 examples are zero")

    monkeypatch.setattr(SquaredNorm, "__call__", refuse)
    given = {"checkpoints": files[1]["checkpoints"], "names": NAMES, "provenance": PROVENANCE}
    with pytest.raises(MergeloomError, match=r"^finetuned finetuned on a: log-trace: the"):
        measure_finetuned(measures_of(files), **given)
    with pytest.raises(MergeloomError, match=r"^finetuned ta at alpha 0\.5 on a: log-trace: the"):
        measure(files, 0.5)


def test_logits_that_are_not_finite_name_model_and_task(files, measured):
    chosen = result_of(files, 0.5)
    write_tensors(files[0] / "sum.safetensors", {"weight": torch.full((4, 4), torch.inf)}, {})
    with pytest.raises(
        MergeloomError, match=r"^finetuned ta at alpha 0\.5 on a: the model's logits"
    ):
        measure(files, 0.5, chosen=chosen)


def test_a_log_trace_that_is_no_number_is_not_written(files, monkeypatch):
    monkeypatch.setattr(SquaredNorm, "__call__", lambda *_: Estimate(math.nan, 0.1, 5))
    given = {"checkpoints": files[1]["checkpoints"], "names": NAMES, "provenance": PROVENANCE}
    with pytest.raises(MergeloomError, match=r"measures\.json: cannot be written"):
        write_json(files[0] / "measures.json", measure_finetuned(measures_of(files), **given))


def test_a_file_without_a_log_trace_names_the_task(files, measured):
    del measured["tasks"]["b"]["log_trace"]
    assert not Draft202012Validator(SCHEMA).is_valid(measured)
    write_json(files[0] / "measures.json", measured)
    with pytest.raises(MergeloomError, match=r"measures\.json: tasks: b has no log_trace"):
        read_measures(files[0] / "measures.json", NAMES | {"merger": "finetuned"})


def test_the_schema_knows_finetuned_from_merged_models(files, measured):
    schema = Draft202012Validator(SCHEMA)
    merged = measure(files, 1.0)
    assert not schema.is_valid(measured | {"alpha": 1.0})
    assert not schema.is_valid(measured | {"scaled": merged["scaled"]})
    assert not schema.is_valid(merged | {"alpha": None})
    assert not schema.is_valid({k: v for k, v in merged.items() if k != "provenance"})
