"""Evaluation: accuracies are the formula's, and alpha is chosen on validation data."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from jsonschema import Draft202012Validator
from linear_family import ENCODER, IMAGE, NAMES, PROVENANCE, Linear, write_files

from mergeloom.data.decoded import Images, normalise, open_images
from mergeloom.errors import MergeloomError
from mergeloom.evaluation import benchmark as evaluation_benchmark
from mergeloom.evaluation.accuracy import evaluate
from mergeloom.evaluation.batches import batches
from mergeloom.evaluation.benchmark import Benchmark, evaluate_finetuned, evaluate_merged
from mergeloom.evaluation.examples import ImageExamples
from mergeloom.evaluation.inspection import inspection
from mergeloom.evaluation.models import MergedModel, finetuned_models
from mergeloom.evaluation.precision import resolve_precision
from mergeloom.evaluation.predictions import count_predictions
from mergeloom.evaluation.results import average, chosen_alpha, normalise_scores
from mergeloom.io.jsonfile import write_json
from mergeloom.io.tensors import TensorFile, write_tensors
from mergeloom.models import family as families
from mergeloom.models.weights import merged_weights

SCHEMA = json.loads(
    (Path(__file__).parents[2] / "config" / "schema" / "result.schema.json").read_text()
)


@pytest.fixture(autouse=True)
def linear_family(monkeypatch):
    families.get_family("clip")
    monkeypatch.setitem(families._FAMILIES, "linear", Linear())


@pytest.fixture
def files(tmp_path):
    return write_files(tmp_path)


def benchmark_of(files, **changed):
    _, paths = files
    given = {"heads": paths["heads"], "val": paths["val"], "test": paths["test"]}
    return Benchmark(
        encoder=ENCODER, tasks=["a", "b"], device="cpu", batch_size=3, **(given | changed)
    )


@pytest.fixture
def benchmark(files):
    return benchmark_of(files)


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
        ImageExamples(Images(torch.tensor(pixels), torch.tensor(labels)), IMAGE, "cpu"),
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


def test_an_expert_that_is_worse_than_the_base_is_named(benchmark, files, finetuned, caplog):
    """Everything is normalised by it: it would decide alpha."""
    fixed = {"how": "fixed", "value": 0.0}
    merged(benchmark, files, finetuned, fixed, path=None)
    assert not caplog.records
    finetuned["tasks"]["b"]["accuracy"] = 0.05
    merged(benchmark, files, finetuned, fixed, path=None)
    (warning,) = [entry for entry in caplog.records if entry.levelname == "WARNING"]
    assert warning.getMessage().startswith(
        "b: the fine-tuned model (0.050) is worse than the base (0.250) on its own task"
    )


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
        benchmark.examples["test"][task].labels[:] = 3
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


def test_metrics_stand_in_every_score_and_in_the_averages(files, finetuned):
    metrics = ["top5", "mean_class_recall", "ece"]
    content = merged(benchmark_of(files, metrics=metrics), files, finetuned, FIXED)
    Draft202012Validator(SCHEMA).validate(content)
    for part in (content, content["validation"]):
        for scores in (*part["tasks"].values(), part["average"]):
            assert set(metrics) < set(scores)
    assert content["average"]["top5"] == 1.0, "four classes: all of them are among the first five"
    assert content["average"]["mean_class_recall"] == 1.0


def test_without_metrics_a_result_has_the_fields_it_always_had(benchmark, files, finetuned):
    content = merged(benchmark, files, finetuned, FIXED)
    assert set(content) == {"schema", "encoder", "experts", "benchmark", "merger", "alpha",
                            "tasks", "average", "validation", "provenance"}  # fmt: skip
    scores = {"accuracy", "loss", "normalized_accuracy"}
    assert set(content["average"]) == scores
    assert set(content["tasks"]["a"]) == scores | {"n"}


FIXED = {"how": "fixed", "value": 1.0}


def test_another_precision_says_what_it_does_to_accuracy(files):
    """A base so large that bfloat16 cannot tell classes 1 and 2 apart."""
    weight = torch.diag(torch.tensor([1.0, 1.0, 1.001, 1.0])) * 300
    weight[1, 2] = 300 * 1.0005  # an image of class 2 looks almost as much like class 1
    for path in files[1]["checkpoints"]:
        write_tensors(path, {"weight": weight}, {})
    arguments = {"checkpoints": files[1]["checkpoints"], "names": NAMES, "provenance": PROVENANCE}
    exact = evaluate_finetuned(benchmark_of(files), **arguments)
    rough = evaluate_finetuned(benchmark_of(files, precision="bfloat16"), **arguments)
    Draft202012Validator(SCHEMA).validate(rough)
    assert "precision" not in exact
    assert exact["average"]["accuracy"] == 1.0
    assert rough["tasks"]["a"]["accuracy"] == 0.75
    assert rough["precision"] == {
        "dtype": "bfloat16",
        "difference": {"tasks": {"a": -0.25, "b": -0.25}, "average": -0.25},
    }
    repeated = merged(benchmark_of(files, precision="bfloat16"), files, rough, FIXED)
    assert repeated["precision"] == rough["precision"]
    Draft202012Validator(SCHEMA).validate(repeated)


def test_results_of_two_precisions_are_not_compared(files, finetuned):
    with pytest.raises(MergeloomError, match="evaluated in float32, this would be in bfloat16"):
        merged(benchmark_of(files, precision="bfloat16"), files, finetuned, FIXED)


def test_auto_is_float32_on_a_processor():
    assert resolve_precision("auto", "cpu") == "float32"
    assert resolve_precision("float16", "cpu") == "float16"


def test_logits_are_float32_in_every_precision(files):
    class Types:
        def __init__(self):
            self.seen = set()

        def update(self, logits, labels):
            self.seen.add(logits.dtype)

    types = Types()
    with TensorFile(files[0] / "base.safetensors") as file:
        tower = Linear().build_tower({}, {"weight": file.read("weight")})
    for precision in ("float32", "bfloat16", "float16"):
        benchmark_of(files, precision=precision).count(tower, "test", "a", [types])
    assert types.seen == {torch.float32}


def test_normalisation_is_the_formulas_to_the_bit():
    """In inference and then in training: the constants of the one serve the other."""
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(1, 16, 16, 3)
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    shift, scale = (torch.tensor(v).mul(255).view(1, 3, 1, 1) for v in (mean, std))
    expected = (pixels.permute(0, 3, 1, 2).float() - shift) / scale
    with torch.inference_mode():
        assert torch.equal(normalise(pixels, mean, std), expected)
    weight = torch.ones((), requires_grad=True)
    (normalise(pixels, mean, std) * weight).sum().backward()
    assert weight.grad == pytest.approx(float(expected.sum()), rel=1e-4)


def test_other_images_take_alpha_from_the_result_and_have_no_validation(files, finetuned):
    clean = merged(benchmark_of(files), files, finetuned, {"how": "search", "grid": [0.1, 1.0]})
    write_json(files[0] / "ta.json", clean)
    alpha = chosen_alpha(files[0] / "ta.json", NAMES | {"merger": "ta"})
    assert alpha == {
        "value": 1.0, "how": "result", "chosen": "search", "source": "results/E/finetuned/B/ta.json"
    }  # fmt: skip
    for on in ({"corruption": "contrast", "severity": 2}, {"benchmark": "C", "unseen": ["a"]}):
        content = evaluate_merged(
            benchmark_of(files, val=None),
            base=files[0] / "base.safetensors",
            merged=files[0] / "delta.safetensors",
            merger={"method": "task_arithmetic"},
            alpha=alpha,
            finetuned=finetuned,
            names=NAMES | {"merger": "ta"},
            provenance=PROVENANCE,
            evaluated_on=on,
        )
        Draft202012Validator(SCHEMA).validate(content)
        assert content["evaluated_on"] == on
        assert "validation" not in content
        assert content["tasks"] == clean["tasks"]
        with_validation = content | {"validation": clean["validation"]}
        assert not Draft202012Validator(SCHEMA).is_valid(with_validation)
    without = {key: value for key, value in clean.items() if key != "validation"}
    assert not Draft202012Validator(SCHEMA).is_valid(without)


@pytest.mark.parametrize(
    ("key", "value"),
    [("encoder", "F"), ("experts", "other"), ("benchmark", "C"), ("merger", "tsv")],
)
def test_alpha_of_another_study_is_refused(files, finetuned, key, value):
    path = files[0] / "ta.json"
    write_json(path, merged(benchmark_of(files), files, finetuned, FIXED))
    expected = NAMES | {"merger": "ta"}
    message = (
        f"{path}: is an alpha file of another {key}: it says {key} {expected[key]!r} "
        f"(expected {value!r})"
    )
    with pytest.raises(MergeloomError, match=re.escape(message)):
        chosen_alpha(path, expected | {key: value})


def test_one_delta_per_task_may_lie_in_a_file_each(files):
    """A single one, too, is of one task alone."""
    base, delta = files[0] / "base.safetensors", files[0] / "delta.safetensors"
    write_tensors(files[0] / "half.safetensors", {"weight": torch.eye(4) / 2}, {})
    model = MergedModel(ENCODER, base, [delta, files[0] / "half.safetensors"], "cpu")
    found = [(tasks, tower.weight.clone()) for tower, tasks in model.at(0.5, ["a", "b"])]
    assert [tasks for tasks, _ in found] == [["a"], ["b"]]
    with TensorFile(base) as start, TensorFile(delta) as step:
        assert torch.equal(found[0][1], start["weight"] + 0.5 * step["weight"])
        assert torch.equal(found[1][1], start["weight"] + torch.eye(4) / 4)
    (alone,) = MergedModel(ENCODER, base, [delta], "cpu").at(1.0, ["a"])
    assert alone[1] == ["a"]


def test_a_model_per_task_is_refused_on_the_tasks_of_another_benchmark(files, finetuned):
    both = {"weight": torch.zeros(2, 4, 4) + 1}
    write_tensors(files[0] / "both.safetensors", both, {"per_task": "2"})
    with pytest.raises(MergeloomError, match="merger 'emr' gives one model per task"):
        evaluate_merged(
            benchmark_of(files, val=None),
            base=files[0] / "base.safetensors",
            merged=files[0] / "both.safetensors",
            merger={"method": "emr"},
            alpha=FIXED,
            finetuned=finetuned,
            names=NAMES | {"merger": "emr"},
            provenance=PROVENANCE,
            evaluated_on={"benchmark": "C", "unseen": ["a", "b"]},
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_model_at_any_alpha_has_the_weights_of_the_merged_file(files, dtype):
    """Back and forth, and in the base's type."""
    base = torch.randn(4, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    write_tensors(files[0] / "base.safetensors", {"weight": base, "text": torch.ones(1)}, {})
    paths = files[0] / "base.safetensors", files[0] / "delta.safetensors"
    model = MergedModel(ENCODER, *paths, "cpu")
    for alpha in (0.3, 1.7, 0.0, 0.3):
        for tower, tasks in model.at(alpha, ["a", "b"]):
            assert tasks == ["a", "b"]
            with TensorFile(paths[0]) as start, TensorFile(paths[1]) as delta:
                expected = dict(merged_weights(start, delta, alpha))["weight"]
            assert expected.dtype == dtype
            assert torch.equal(tower.weight, expected.float())


def test_many_alphas_open_and_decode_the_images_once(files, finetuned, monkeypatch):
    opened = []
    original = evaluation_benchmark.open_examples

    def opening(path, *of):
        opened.append(path)
        return original(path, *of)

    monkeypatch.setattr(evaluation_benchmark, "open_examples", opening)
    grid = [index / 10 for index in range(10)]
    found = merged(benchmark_of(files), files, finetuned, {"how": "search", "grid": grid})
    assert len(found["alpha"]["curve"]) == 10
    assert sorted(opened) == sorted([*files[1]["val"], *files[1]["test"]])


def test_predictions_are_counted_for_every_task(benchmark, files):
    """The fine-tuned models are perfect; the base says class 0 of everything."""
    classnames = {task: ["zero", "one", "two", "three"] for task in "ab"}
    turns = finetuned_models(ENCODER, files[1]["checkpoints"], ["a", "b"], "cpu")
    counted = count_predictions(benchmark, turns, classnames)
    assert counted["b"]["confusion"] == torch.diag(torch.full((4,), 5)).tolist()
    assert counted["a"]["accuracy"] == counted["a"]["mean_class_recall"] == 1.0
    model = MergedModel(ENCODER, files[0] / "base.safetensors", None, "cpu")
    counted = count_predictions(benchmark, model.at(0.0, ["a", "b"]), classnames)
    assert counted["a"]["confusion"] == [[2, 0, 0, 0]] * 4
    assert sum(counted["a"]["reliability"]["count"]) == 8
    assert sum(counted["a"]["reliability"]["correct"]) == 2
    content = inspection(
        names=NAMES | {"merger": "zeroshot"}, alpha=None, tasks=counted, provenance=PROVENANCE
    )
    schema = Path(__file__).parents[2] / "config" / "schema" / "inspection.schema.json"
    Draft202012Validator(json.loads(schema.read_text())).validate(content)


def test_a_class_list_of_another_length_is_an_error(benchmark, files):
    turns = finetuned_models(ENCODER, files[1]["checkpoints"], ["a", "b"], "cpu")
    with pytest.raises(MergeloomError, match="a: its head has 4 classes, its class list 1"):
        count_predictions(benchmark, turns, {"a": ["zero"], "b": ["zero"]})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("size", [1, 3, 100])
def test_batches_on_a_gpu_are_those_on_the_processor(files, size):
    images = open_images(files[1]["test"][1])
    on_gpu = list(batches(images, IMAGE, "cuda", size))
    on_cpu = list(batches(images, IMAGE, "cpu", size))
    assert len(on_gpu) == len(on_cpu)
    for found, expected in zip(on_gpu, on_cpu, strict=True):
        assert all(torch.equal(f.cpu(), e) for f, e in zip(found, expected, strict=True))
