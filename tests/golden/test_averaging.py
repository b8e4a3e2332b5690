"""Methods that weigh whole task vectors, or whole tensors of them, against their formulas."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from study import ELEMENTWISE, Model, Study, assert_agree

from mergeloom.errors import MergeloomError
from mergeloom.merging import group

AVERAGES = ["zeroshot", "weight_average", "task_arithmetic"]


def scaled(study: Study, folder: Path, factor: float, tasks: int = 4) -> list[Path]:
    """Experts whose task vectors are `factor` to 2 `factor` times as long."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{task}.safetensors" for task in range(tasks)]
    for task, path in enumerate(paths):
        stretch = factor * (1 + task / tasks)
        save_file({k: np.float32(stretch * d[task]) for k, d in study.deltas.items()}, path)
    return paths


def deltas_of(experts: list[Path]) -> Model:
    """Task vectors [T, *shape] of these files, float64."""
    files = [load_file(path) for path in experts]
    return {key: np.stack([np.float64(file[key]) for file in files]) for key in files[0]}


def flat_weights(study: Study, deltas: Model) -> dict[str, np.ndarray]:
    """Weights of the fine-tuned models [T, n]."""
    return {k: (study.weights[k] + d).reshape(len(d), -1) for k, d in deltas.items()}


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    norms = np.linalg.norm(one) * np.linalg.norm(other)
    return float((one * other).sum() / norms) if norms else 0.0


def interpolated(one: np.ndarray, other: np.ndarray, t: float) -> np.ndarray:
    """Slerp as it is written in textbooks."""
    close = cosine(one, other)
    if abs(close) > 0.9995 or not (one.any() and other.any()):
        return (1 - t) * one + t * other
    angle = np.arccos(close)
    return (np.sin((1 - t) * angle) * one + np.sin(t * angle) * other) / np.sin(angle)


def karcher_mean(vectors: np.ndarray, iterations: int = 10, tolerance: float = 1e-5) -> np.ndarray:
    """Mean on the sphere by exponential and logarithmic maps of whole vectors."""
    lengths = np.linalg.norm(vectors, axis=1)
    units = vectors[lengths > 0] / lengths[lengths > 0, None]
    mean = units.mean(0) / np.linalg.norm(units.mean(0))
    for _ in range(iterations):
        tangents = []
        for unit in units:
            angle = np.arccos(np.clip(unit @ mean, -1, 1))
            tangents.append(angle / np.sin(angle) * (unit - np.cos(angle) * mean))
        step = np.mean(tangents, axis=0)
        length = np.linalg.norm(step)
        if length <= tolerance:
            break
        mean = np.cos(length) * mean + np.sin(length) * step / length
        mean /= np.linalg.norm(mean)
    return lengths[lengths > 0].mean() * mean


def stocked(deltas: np.ndarray) -> np.ndarray:
    """Model stock of one tensor or row [T, ...]."""
    tasks = len(deltas)
    cosines = [cosine(one, other) for one, other in itertools.combinations(deltas, 2)]
    mean = max(float(np.mean(cosines)), 0.0) if cosines else 1.0
    return tasks * mean / (1 + (tasks - 1) * mean) * deltas.mean(0)


def test_zeroshot_changes_nothing(study: Study) -> None:
    assert not any(tensor.any() for tensor in study.merge("zeroshot").values())


@pytest.mark.parametrize("tasks", [1, 2, 4])
def test_weight_average_is_the_mean(study: Study, tasks: int) -> None:
    expected = {key: deltas[:tasks].mean(0) for key, deltas in study.deltas.items()}
    result = study.merge("weight_average", experts=study.task_vectors[:tasks])
    assert_agree(result, expected, ELEMENTWISE)


@pytest.mark.parametrize("tasks", [1, 2, 4])
def test_task_arithmetic_is_the_sum(study: Study, tasks: int) -> None:
    expected = {key: deltas[:tasks].sum(0) for key, deltas in study.deltas.items()}
    result = study.merge("task_arithmetic", experts=study.task_vectors[:tasks])
    assert_agree(result, expected, ELEMENTWISE)


@pytest.mark.parametrize("t", [0.0, 0.2, 0.5, 1.0])
@pytest.mark.parametrize(("factor", "curved"), [(20, True), (1, True), (0.1, False)])
def test_slerp_goes_along_the_sphere_and_straight_between_close_models(
    study: Study, tmp_path: Path, factor: float, curved: bool, t: float
) -> None:
    experts = scaled(study, tmp_path, factor, tasks=2)
    weights = flat_weights(study, deltas_of(experts))
    expected = {
        key: interpolated(*pair, t).reshape(study.shapes[key]) - study.weights[key]
        for key, pair in weights.items()
    }
    assert_agree(study.merge("slerp", {"t": t}, experts=experts), expected, ELEMENTWISE)
    assert {abs(cosine(*pair)) <= 0.9995 for pair in weights.values()} == {curved}


def test_slerp_keeps_the_length_between_two_of_equal_length(folder: Path) -> None:
    study = Study(folder, tasks=2, shapes={"visual.ln_pre.bias": (50,)})
    key, weights = "visual.ln_pre.bias", study.weights
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((2, 50))
    for path, direction in zip(study.checkpoints, directions, strict=True):
        save_file({key: np.float32(3 * direction / np.linalg.norm(direction))}, path)
    result = study.merge("slerp", {"t": 0.3}, experts=study.checkpoints, checkpoints=True)
    np.testing.assert_allclose(np.linalg.norm(result[key] + weights[key]), 3, rtol=1e-5)


@pytest.mark.parametrize("tasks", [1, 3])
def test_slerp_of_other_than_two_models_is_refused(study: Study, tasks: int) -> None:
    with pytest.raises(
        MergeloomError, match=f"between two models, but {tasks} were given.*karcher"
    ):
        study.merge("slerp", experts=study.task_vectors[:tasks])


@pytest.mark.parametrize("factor", [20, 1])
@pytest.mark.parametrize(
    "parameters", [{}, {"max_iterations": 1, "tolerance": 0}, {"max_iterations": 100}]
)
def test_karcher_is_the_mean_direction_times_the_mean_length(
    study: Study, tmp_path: Path, factor: float, parameters: dict[str, Any]
) -> None:
    experts = scaled(study, tmp_path, factor)
    keywords = {k.removeprefix("max_"): v for k, v in parameters.items()}
    expected = {
        key: karcher_mean(models, **keywords).reshape(study.shapes[key]) - study.weights[key]
        for key, models in flat_weights(study, deltas_of(experts)).items()
    }
    assert_agree(study.merge("karcher", parameters, experts=experts), expected, ELEMENTWISE)


def test_karcher_of_two_models_of_equal_length_is_slerp_half_way(folder: Path) -> None:
    study = Study(folder, tasks=2, shapes={"visual.ln_pre.bias": (50,)})
    rng = np.random.default_rng(1)
    for path in study.checkpoints:
        direction = rng.standard_normal(50)
        tensor = np.float32(2 * direction / np.linalg.norm(direction))
        save_file({"visual.ln_pre.bias": tensor}, path)
    experts = {"experts": study.checkpoints, "checkpoints": True}
    assert_agree(study.merge("karcher", **experts), study.merge("slerp", **experts), ELEMENTWISE)


def test_karcher_passes_over_models_without_a_direction(folder: Path) -> None:
    study = Study(folder, tasks=3, shapes={"visual.ln_pre.bias": (50,), "visual.proj": (4, 3)})
    tensors = {key: np.float32(0 * value) for key, value in study.weights.items()}
    tensors.pop("logit_scale")
    save_file(tensors, study.checkpoints[2])
    result = study.merge("karcher", experts=study.checkpoints, checkpoints=True)
    expected = study.merge("karcher", experts=study.checkpoints[:2], checkpoints=True)
    assert_agree(result, expected, ELEMENTWISE)
    nowhere = study.merge("karcher", experts=study.checkpoints[2:], checkpoints=True)
    assert_agree(nowhere, {key: -study.weights[key] for key in tensors}, ELEMENTWISE)


def test_karcher_of_opposite_models_ends_with_numbers(folder: Path) -> None:
    study = Study(folder, tasks=2, shapes={"visual.ln_pre.bias": (50,)})
    tensor = np.float32(np.random.default_rng(1).standard_normal(50))
    for path, sign in zip(study.checkpoints, (1, -1), strict=True):
        save_file({"visual.ln_pre.bias": sign * tensor}, path)
    result = study.merge("karcher", experts=study.checkpoints, checkpoints=True)
    length = np.linalg.norm(result["visual.ln_pre.bias"] + study.weights["visual.ln_pre.bias"])
    np.testing.assert_allclose(length, np.linalg.norm(tensor), rtol=1e-5)


def alike(study: Study, folder: Path) -> list[Path]:
    """Experts that share what they learned: the angles between their task vectors are acute."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for task in range(study.tasks):
        paths.append(folder / f"{task}.safetensors")
        tensors = {k: np.float32(d[task] + 0.7 * d.sum(0)) for k, d in study.deltas.items()}
        save_file(tensors, paths[-1])
    return paths


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("filter_wise", [False, True])
def test_model_stock_weighs_the_average_by_the_mean_cosine(
    study: Study, tmp_path: Path, filter_wise: bool, together: bool
) -> None:
    experts = alike(study, tmp_path) if together else study.task_vectors
    expected = {}
    for key, deltas in deltas_of(experts).items():
        rows = deltas.swapaxes(0, 1) if filter_wise and deltas.ndim > 2 else None
        expected[key] = stocked(deltas) if rows is None else np.stack([stocked(r) for r in rows])
    result = study.merge("model_stock", {"filter_wise": filter_wise}, experts=experts)
    assert_agree(result, expected, ELEMENTWISE)


def test_model_stock_of_equal_models_is_that_model(study: Study) -> None:
    result = study.merge("model_stock", experts=study.task_vectors[:1] * 3)
    assert_agree(result, {key: d[0] for key, d in study.deltas.items()}, ELEMENTWISE)


def test_model_stock_stays_at_the_base_where_task_vectors_point_apart(folder: Path) -> None:
    study = Study(folder, tasks=2, shapes={"visual.ln_pre.bias": (50,), "visual.proj": (4, 3)})
    folder = folder / "apart"
    folder.mkdir()
    experts = [folder / "one.safetensors", folder / "other.safetensors"]
    for path, factor in zip(experts, (1, -0.5), strict=True):
        save_file({k: np.float32(factor * d[0]) for k, d in study.deltas.items()}, path)
    assert not any(tensor.any() for tensor in study.merge("model_stock", experts=experts).values())


@pytest.mark.parametrize("method", ["weight_average", "task_arithmetic", "karcher", "model_stock"])
def test_merging_one_task_gives_its_task_vector(study: Study, method: str) -> None:
    result = study.merge(method, experts=study.task_vectors[:1])
    assert_agree(result, {key: d[0] for key, d in study.deltas.items()}, ELEMENTWISE)


@pytest.mark.parametrize("method", [*AVERAGES, "karcher", "model_stock"])
def test_permuting_tasks_changes_nothing(study: Study, method: str) -> None:
    one = study.merge(method)
    assert_agree(study.merge(method, experts=study.task_vectors[::-1]), one, 1e-6)


@pytest.mark.parametrize("method", [*AVERAGES, "slerp", "karcher", "model_stock"])
def test_the_number_of_workers_does_not_change_a_byte(study: Study, method: str) -> None:
    experts = study.task_vectors[:2]
    one, two = (study.merge(method, experts=experts, workers=workers) for workers in (1, 2))
    assert all(np.array_equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("method", AVERAGES)
def test_it_does_not_matter_whether_parameters_are_taken_apart(
    folder: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Study(folder, tasks=3, shapes={"visual.proj": (512, 300), "visual.a": (2**16 + 1,)})
    whole = study.merge(method)
    monkeypatch.setattr(group, "_ELEMENTS", 1)
    parts = study.merge(method)
    assert all(np.array_equal(whole[key], parts[key]) for key in whole)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
@pytest.mark.parametrize("method", [*AVERAGES, "slerp", "karcher", "model_stock"])
def test_tensors_of_one_element_are_merged(
    folder: Path, method: str, shape: tuple[int, ...]
) -> None:
    study = Study(folder, tasks=2, shapes={"visual.scale": shape or (1,)})
    files = dict(zip([study.base, *study.checkpoints], (1.0, 1.5, 2.5), strict=True))
    for path, value in files.items():
        save_file({"visual.scale": np.full(shape, value, np.float32)}, path)
    result = study.merge(method, experts=study.checkpoints, checkpoints=True)["visual.scale"]
    expected = {"zeroshot": 0.0, "task_arithmetic": 2.0}.get(method, 1.0)
    np.testing.assert_allclose(result, np.full(shape, expected), rtol=1e-6)
    assert result.shape == shape


@pytest.mark.parametrize("method", ["slerp", "karcher", "model_stock"])
def test_what_no_task_changed_stays(study: Study, method: str) -> None:
    result = study.merge(method, experts=[study.base] * 2, checkpoints=True)
    assert all(np.abs(tensor).max() <= 1e-6 for tensor in result.values())
