"""Evaluation: accuracies are the formula's, and alpha is chosen on validation data."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from jsonschema import Draft202012Validator
from safetensors.numpy import save_file

from mergeloom.data.decoded import Images
from mergeloom.errors import MergeloomError
from mergeloom.evaluation.accuracy import evaluate
from mergeloom.evaluation.benchmark import Benchmark, evaluate_finetuned, evaluate_merged
from mergeloom.evaluation.results import average, normalise_scores
from mergeloom.io.tensors import TensorFile, write_tensors
from mergeloom.models import family as families

SCHEMA = json.loads(
    (Path(__file__).parents[2] / "config" / "schema" / "result.schema.json").read_text()
)
PROVENANCE = {
    "rule": "evaluate_merged",
    "inputs": {"models/x.safetensors": "0" * 64},
    "params": {},
    "code": "0" * 16,
    "versions": {"torch": "1"},
    "device": "cpu",
    "seed": 0,
}
NAMES = {"encoder": "E", "experts": "finetuned", "benchmark": "B"}
IMAGE = {"size": 2, "mean": [0.0] * 3, "std": [1 / 255] * 3}


class Linear:
    """A family whose tower is one matrix: features of an image are W · its red values."""

    def kind(self, key, shape):
        return "frozen" if key == "text" else "matrix"

    def build_tower(self, architecture, weights):
        tower = torch.nn.Linear(4, 4, bias=False)
        tower.weight = torch.nn.Parameter(weights["weight"].clone(), requires_grad=False)
        return tower

    def tower_weights(self, tower):
        return {"weight": tower.weight}

    def logits(self, tower, head, images):
        return tower(images[:, 0].flatten(1)) @ head.T


@pytest.fixture(autouse=True)
def linear_family(monkeypatch):
    families.get_family("clip")
    monkeypatch.setitem(families._FAMILIES, "linear", Linear())


def images_of(labels):
    """Image i shows its class: red is 1 at the class's pixel."""
    pixels = np.zeros((len(labels), 2, 2, 3), np.uint8)
    pixels.reshape(len(labels), 4, 3)[np.arange(len(labels)), labels, 0] = 1
    return pixels


@pytest.fixture
def files(tmp_path):
    """Two tasks of four classes. The base says class 0 of everything; Δ at alpha 1 is perfect."""
    base = torch.zeros(4, 4)
    base[0] = 1.0
    delta = 2 * torch.eye(4)
    delta[0, 0] = 0
    write_tensors(tmp_path / "base.safetensors", {"weight": base, "text": torch.ones(1)}, {})
    write_tensors(tmp_path / "delta.safetensors", {"weight": delta}, {})
    paths = {"heads": [], "val": [], "test": [], "checkpoints": []}
    for task, labels in (("a", np.arange(8) % 4), ("b", np.arange(20) % 4)):
        write_tensors(tmp_path / f"{task}_head.safetensors", {"weight": torch.eye(4)}, {})
        write_tensors(tmp_path / f"{task}.safetensors", {"weight": base + delta}, {})
        for split in ("val", "test"):
            path = tmp_path / f"{task}_{split}.safetensors"
            save_file({"images": images_of(labels), "labels": labels.astype(np.int64)}, path)
            paths[split].append(path)
        paths["heads"].append(tmp_path / f"{task}_head.safetensors")
        paths["checkpoints"].append(tmp_path / f"{task}.safetensors")
    return tmp_path, paths


@pytest.fixture
def benchmark(files):
    _, paths = files
    return Benchmark(
        encoder={"family": "linear", "architecture": {}, "image": IMAGE},
        tasks=["a", "b"],
        heads=paths["heads"],
        val=paths["val"],
        test=paths["test"],
        device="cpu",
        batch_size=3,
    )


@pytest.fixture
def finetuned(benchmark, files):
    return evaluate_finetuned(
        benchmark, checkpoints=files[1]["checkpoints"], names=NAMES, provenance=PROVENANCE
    )


def merged(benchmark, files, finetuned, alpha, path="delta.safetensors"):
    return evaluate_merged(
        benchmark,
        base=files[0] / "base.safetensors",
        merged=files[0] / path if path else None,
        merger={"method": "task_arithmetic"},
        alpha=alpha,
        finetuned=finetuned,
        names=NAMES | {"merger": "ta"},
        provenance=PROVENANCE,
    )


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_accuracy_and_loss_are_the_formulas(batch_size):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (10, 2, 2, 3), dtype=np.uint8)
    labels = rng.integers(0, 4, 10)
    weight, head = rng.standard_normal((4, 4)) * 0.01, rng.standard_normal((4, 4))
    tower = Linear().build_tower({}, {"weight": torch.tensor(weight, dtype=torch.float32)})
    logits = pixels[..., 0].reshape(10, 4).astype(float) @ weight.T @ head.T
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    scores = evaluate(
        Linear(), tower, torch.tensor(head, dtype=torch.float32),
        Images(torch.tensor(pixels), torch.tensor(labels)), IMAGE,
        device="cpu", batch_size=batch_size,
    )  # fmt: skip
    assert scores["n"] == 10
    assert scores["accuracy"] == (logits.argmax(1) == labels).mean()
    assert scores["loss"] == pytest.approx(-log_p[np.arange(10), labels].mean(), rel=1e-5)


def test_the_finetuned_models_are_their_own_reference(finetuned):
    assert finetuned["average"]["normalized_accuracy"] == 1.0
    assert finetuned["tasks"]["a"]["accuracy"] == 1.0
    Draft202012Validator(SCHEMA).validate(finetuned)


def test_alpha_zero_is_the_base(benchmark, files, finetuned):
    at_zero = merged(benchmark, files, finetuned, {"how": "fixed", "value": 0.0})
    base = merged(benchmark, files, finetuned, {"how": "fixed", "value": 0.0}, path=None)
    assert at_zero["tasks"] == base["tasks"]
    assert base["tasks"]["b"]["accuracy"] == 0.25
    assert base["tasks"]["b"]["n"] == 20


def test_the_search_takes_the_best_validation_value_and_the_smallest_of_equals(
    benchmark, files, finetuned
):
    alpha = {"how": "search", "grid": [0.1, 0.4, 1.0, 2.0]}
    found = merged(benchmark, files, finetuned, alpha)
    curve = {p["alpha"]: p["normalized_accuracy"] for p in found["alpha"]["curve"]}
    assert curve == {0.1: 0.25, 0.4: 0.25, 1.0: 1.0, 2.0: 1.0}
    assert found["alpha"]["value"] == 1.0
    assert found["average"]["accuracy"] == 1.0
    Draft202012Validator(SCHEMA).validate(found)


def test_test_data_has_no_say_in_alpha(benchmark, files, finetuned):
    """With test labels permuted, alpha and its curve stay as they are."""
    alpha = {"how": "search", "grid": [0.1, 0.4, 1.0, 2.0]}
    before = merged(benchmark, files, finetuned, alpha)["alpha"]
    for task in "ab":
        benchmark._images["test"][task].labels[:] = 3
    after = merged(benchmark, files, finetuned, alpha)
    assert after["alpha"] == before
    assert after["average"]["accuracy"] < 0.3


def test_every_grid_point_starts_from_the_base(benchmark, files, finetuned):
    once = merged(benchmark, files, finetuned, {"how": "search", "grid": [0.4]})
    after_others = merged(benchmark, files, finetuned, {"how": "search", "grid": [2.0, 1.0, 0.4]})
    assert once["alpha"]["curve"][0] == after_others["alpha"]["curve"][2]


def test_the_search_ends_when_nothing_gets_better(benchmark, files, finetuned):
    alpha = {"how": "search", "grid": [0.4, 1.0, 2.0, 3.0, 4.0], "patience": 2}
    found = merged(benchmark, files, finetuned, alpha)
    assert [point["alpha"] for point in found["alpha"]["curve"]] == [0.4, 1.0, 2.0, 3.0]
    assert found["alpha"]["value"] == 1.0
    assert found["alpha"]["patience"] == 2
    Draft202012Validator(SCHEMA).validate(found)


def test_a_model_per_task_is_evaluated_on_its_own_task(benchmark, files, finetuned):
    """The first task's model is perfect, the second's is the base."""
    with TensorFile(files[0] / "delta.safetensors") as file:
        delta = file.read("weight")
    both = {"weight": torch.stack([delta, torch.zeros(4, 4)])}
    write_tensors(files[0] / "both.safetensors", both, {"per_task": "2"})
    alpha = {"how": "fixed", "value": 1.0}
    found = merged(benchmark, files, finetuned, alpha, "both.safetensors")
    assert found["merger"]["per_task"] is True
    assert [score["accuracy"] for score in found["tasks"].values()] == [1.0, 0.25]
    assert list(found["validation"]["tasks"]) == ["a", "b"]
    Draft202012Validator(SCHEMA).validate(found)
    one = merged(benchmark, files, finetuned, alpha)
    assert one["merger"]["per_task"] is False


def test_a_tabled_alpha_names_its_source(benchmark, files, finetuned):
    alpha = {"how": "table", "value": 1.0, "source": "a paper"}
    found = merged(benchmark, files, finetuned, alpha)
    assert found["alpha"] == alpha
    Draft202012Validator(SCHEMA).validate(found)


def test_the_schema_refuses_a_result_without_provenance(finetuned):
    broken = {k: v for k, v in finetuned.items() if k != "provenance"}
    assert not Draft202012Validator(SCHEMA).is_valid(broken)
    broken = finetuned | {"provenance": finetuned["provenance"] | {"time": "now"}}
    assert not Draft202012Validator(SCHEMA).is_valid(broken)


def test_normalised_accuracy_is_the_mean_of_ratios_not_the_ratio_of_means():
    scores = {
        "a": {"accuracy": 0.4, "loss": 1.0, "n": 1},
        "b": {"accuracy": 0.9, "loss": 1.0, "n": 9},
    }
    reference = {"a": {"accuracy": 0.8}, "b": {"accuracy": 0.9}}
    assert average(normalise_scores(scores, reference))["normalized_accuracy"] == pytest.approx(
        0.75
    )


def test_a_finetuned_model_at_zero_cannot_normalise():
    with pytest.raises(MergeloomError, match="a: its fine-tuned model has accuracy 0"):
        normalise_scores({"a": {"accuracy": 0.5}}, {"a": {"accuracy": 0.0}})


def test_a_half_precision_checkpoint_is_evaluated_in_float32(benchmark, files, finetuned):
    from mergeloom.io.tensors import TensorFile

    for path in files[1]["checkpoints"]:
        with TensorFile(path) as file:
            weight = file.read("weight")
        write_tensors(path, {"weight": weight.to(torch.bfloat16)}, {})
    half = evaluate_finetuned(
        benchmark, checkpoints=files[1]["checkpoints"], names=NAMES, provenance=PROVENANCE
    )
    assert half["tasks"] == finetuned["tasks"]


def test_a_nan_in_a_checkpoint_names_file_and_key(benchmark, files):
    path = files[1]["checkpoints"][1]
    write_tensors(path, {"weight": torch.full((4, 4), torch.nan)}, {})
    with pytest.raises(MergeloomError, match=r"b\.safetensors: tensor weight has 16 values"):
        evaluate_finetuned(
            benchmark, checkpoints=files[1]["checkpoints"], names=NAMES, provenance=PROVENANCE
        )
