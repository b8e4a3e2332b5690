"""Modifiers of merged task vectors, against their formulas."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from spectra import svd
from study import BLOCK, ELEMENTWISE, SPECTRAL, Study, assert_agree

from mergeloom.errors import MergeloomError
from mergeloom.merging import engine, group
from mergeloom.merging.engine import plan_merge
from mergeloom.merging.task_vector import write_svd_cache


def calibrated(merged: np.ndarray, deltas: np.ndarray, floor: float) -> np.ndarray:
    """SVC, direction by direction."""
    left, values, right = svd(merged)
    result = np.zeros_like(merged)
    for u, value, v in zip(left.T, values, right, strict=True):
        shares = []
        for delta in deltas:
            own = u @ delta
            shares.append(u @ merged @ own / (own @ own) if own.any() else 0)
        result += len(deltas) / sum(max(floor, share) for share in shares) * value * np.outer(u, v)
    return result


@pytest.mark.parametrize("floor", [0.05, 0.1, 1.0])
@pytest.mark.parametrize(("method", "factor"), [("task_arithmetic", 1), ("weight_average", 1 / 4)])
def test_svc_divides_each_direction_by_how_often_it_is_counted(
    study: Study, method: str, factor: float, floor: float
) -> None:
    expected = {}
    for key, delta in study.deltas.items():
        merged = factor * delta.sum(0)
        expected[key] = calibrated(merged, delta, floor) if delta.ndim == 3 else merged
    result = study.merge(method, modifiers=[{"svc": {"floor": floor}}])
    assert_agree(result, expected, SPECTRAL)


def test_the_default_floor_of_svc_is_a_tenth(study: Study) -> None:
    result = study.merge("task_arithmetic", modifiers=[{"svc": {}}])
    same = study.merge("task_arithmetic", modifiers=[{"svc": {"floor": 0.1}}])
    assert all(np.array_equal(result[key], same[key]) for key in same)


@pytest.mark.parametrize("tasks", [1, 3])
def test_svc_of_the_sum_of_equal_task_vectors_is_the_task_vector(study: Study, tasks: int) -> None:
    experts = study.task_vectors[:1] * tasks
    result = study.merge("task_arithmetic", modifiers=[{"svc": {}}], experts=experts)
    expected = {
        key: delta[0] * (1 if delta.ndim == 3 else tasks) for key, delta in study.deltas.items()
    }
    assert_agree(result, expected, SPECTRAL)


def test_a_task_that_has_nothing_in_a_direction_counts_with_the_floor(
    study: Study, tmp_path: Path
) -> None:
    # The base as an expert of its own: a task vector of zero.
    experts = [*study.checkpoints[:2], study.base]
    deltas = {key: np.stack([d[0], d[1], 0 * d[0]]) for key, d in study.deltas.items()}
    result = study.merge(
        "task_arithmetic", modifiers=[{"svc": {"floor": 0.2}}], experts=experts, checkpoints=True
    )
    expected = {
        key: calibrated(delta.sum(0), delta, 0.2) if delta.ndim == 3 else delta.sum(0)
        for key, delta in deltas.items()
    }
    assert_agree(result, expected, SPECTRAL)


def test_svc_takes_the_spectrum_of_a_sum_from_its_cache_and_of_nothing_else(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "sum.safetensors"
    write_svd_cache(study.task_vectors, cache, "clip", 1.0, "cpu")
    svc = [{"svc": {"floor": 0.3}}]
    expected = study.merge("task_arithmetic", modifiers=svc)
    average = study.merge("weight_average", modifiers=svc)
    assert "summed" in plan_merge("task_arithmetic", modifiers=svc).inputs
    assert "summed" not in plan_merge("weight_average", modifiers=svc).inputs
    # Behind another modifier it is not the sum that SVC gets.
    scaled = [{"lines": {"first": 0.5, "last": 0.5}}, *svc]
    assert_agree(
        study.merge("task_arithmetic", modifiers=scaled, summed=cache),
        study.merge("task_arithmetic", modifiers=scaled),
        0,
    )
    assert_agree(study.merge("weight_average", modifiers=svc, summed=cache), average, 0)

    def refuse(*_: object) -> None:
        raise AssertionError("was decomposed again")

    monkeypatch.setattr(engine, "truncated_svd", refuse)
    assert_agree(study.merge("task_arithmetic", modifiers=svc, summed=cache), expected, SPECTRAL)


def test_svc_of_nothing_is_nothing(study: Study) -> None:
    result = study.merge("zeroshot", modifiers=[{"svc": {}}])
    assert not any(tensor.any() for tensor in result.values())


@pytest.mark.parametrize(
    ("parameters", "factors"),
    [
        ({}, (0, 0.5, 1)),
        ({"first": 0.25, "last": 1.25}, (0.25, 0.75, 1.25)),
        ({"first": 1, "last": 0.5}, (1, 0.75, 0.5)),
    ],
)
@pytest.mark.parametrize("method", ["task_arithmetic", "isotropic", "tsv_c"])
def test_lines_scales_blocks_linearly_and_what_is_outside_as_the_nearest_block(
    study: Study, method: str, parameters: dict[str, Any], factors: tuple[float, float, float]
) -> None:
    expected = study.merge(method)
    for key in expected:
        layer = next((i for i in range(3) if key.startswith(BLOCK.format(i))), None)
        if layer is None:
            layer = 2 if key.startswith(("visual.ln_post", "visual.proj")) else 0
        expected[key] = expected[key] * factors[layer]
    assert_agree(study.merge(method, modifiers=[{"lines": parameters}]), expected, ELEMENTWISE)


def test_lines_of_a_model_of_one_block_scales_it_as_the_first(folder: Path) -> None:
    study = Study(folder, tasks=2, shapes={BLOCK.format(0) + "ln_1.weight": (8,)})
    lines = [{"lines": {"first": 0.5, "last": 2}}]
    expected = {key: 0.5 * delta.sum(0) for key, delta in study.deltas.items()}
    assert_agree(study.merge("task_arithmetic", modifiers=lines), expected, ELEMENTWISE)


def test_modifiers_are_applied_in_their_order(study: Study) -> None:
    # The floor does not scale with the merge, so the order shows.
    lines, svc = {"lines": {"first": 0.1, "last": 0.1}}, {"svc": {"floor": 0.5}}
    for modifiers, factors in ([lines, svc], (0.1, 1)), ([svc, lines], (1, 0.1)):
        before, after = factors
        expected = {
            key: after * calibrated(before * delta.sum(0), delta, 0.5)
            if delta.ndim == 3
            else 0.1 * delta.sum(0)
            for key, delta in study.deltas.items()
        }
        result = study.merge("task_arithmetic", modifiers=modifiers)
        assert_agree(result, expected, SPECTRAL)


@pytest.mark.parametrize("modifiers", [[{"svc": {}}], [{"lines": {}}]])
def test_neither_workers_nor_the_order_of_tasks_matter(
    study: Study, modifiers: list[dict[str, Any]]
) -> None:
    one = study.merge("task_arithmetic", modifiers=modifiers, workers=1)
    two = study.merge("task_arithmetic", modifiers=modifiers, workers=2)
    assert all(np.array_equal(one[key], two[key]) for key in one)
    turned = study.merge("task_arithmetic", modifiers=modifiers, experts=study.task_vectors[::-1])
    assert_agree(turned, one, 2e-5)


def test_lines_is_the_same_whether_parameters_are_taken_apart(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = {BLOCK.format(layer) + "mlp.c_fc.weight": (512, 300) for layer in range(2)}
    study = Study(folder, tasks=2, shapes=shapes)
    lines = [{"lines": {"first": 0.3, "last": 0.7}}]
    whole = study.merge("weight_average", modifiers=lines)
    monkeypatch.setattr(group, "_ELEMENTS", 1)
    parts = study.merge("weight_average", modifiers=lines)
    assert all(np.array_equal(whole[key], parts[key]) for key in whole)


def test_svc_does_not_go_with_one_model_per_task() -> None:
    with pytest.raises(MergeloomError, match=r"svc modifies one merged model, but tsv_c"):
        plan_merge("tsv_c", modifiers=[{"svc": {}}])


@pytest.mark.parametrize("floor", [0, 1.5])
def test_a_floor_out_of_range_is_refused(floor: float) -> None:
    with pytest.raises(MergeloomError, match=r"floor is .* expected a number in \(0, 1\]"):
        plan_merge("task_arithmetic", modifiers=[{"svc": {"floor": floor}}])
