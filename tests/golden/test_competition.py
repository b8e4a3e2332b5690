"""PCB merging, against its formula over the whole model."""

from pathlib import Path

import numpy as np
import pytest
from study import ELEMENTWISE, Model, Study, assert_agree
from variants import (
    Given,
    assert_neither_workers_nor_runs_matter,
    assert_permuting_tasks_changes_nothing,
    flat,
    like,
    wide,
)


def normalised(rows: np.ndarray) -> np.ndarray:
    low, high = rows.min(1, keepdims=True), rows.max(1, keepdims=True)
    return np.divide(rows - low, high - low, out=np.zeros_like(rows), where=high > low)


def pcb(model: Model, density: float) -> np.ndarray:
    deltas = flat(model)
    tasks, count = deltas.shape
    rising = np.sort(np.abs(deltas))
    low, high = rising[:, [int(count * 0.0001)]], rising[:, [max(int(count * 0.9999 - 1), 0)]]
    size = np.clip(np.abs(deltas), low, high)
    scores = np.exp(tasks * normalised(size) ** 2) * np.tanh(deltas * deltas.sum(0))
    cut = np.sort(scores)[:, [min(int(count * (1 - density)), count - 1)]]
    weights = normalised(np.maximum(scores, cut))
    total = weights.sum(0)
    merged = (weights * np.sign(deltas) * size).sum(0)
    return np.divide(merged, total, out=np.zeros_like(total), where=total > 0)


@pytest.mark.parametrize("density", [0.05, 0.1, 1.0])
def test_pcb_weighs_by_strength_and_agreement(study: Study, density: float) -> None:
    expected = like(pcb(study.deltas, density), study.shapes)
    assert_agree(study.merge("pcb", {"density": density}), expected, ELEMENTWISE)


@pytest.mark.parametrize("tasks", [1, 2, 3])
def test_pcb_is_the_formula_for_few_tasks(study: Study, tasks: int) -> None:
    some = {key: deltas[:tasks] for key, deltas in study.deltas.items()}
    merged = study.merge("pcb", experts=study.task_vectors[:tasks])
    assert_agree(merged, like(pcb(some, 0.1), study.shapes), ELEMENTWISE)


def test_pcb_of_more_than_ten_thousand_elements_clamps_both_ends(folder: Path) -> None:
    study = wide(folder)
    assert_agree(study.merge("pcb"), like(pcb(study.deltas, 0.1), study.shapes), ELEMENTWISE)


def test_pcb_keeps_the_share_of_one_task_that_it_is_asked_for(study: Study) -> None:
    merged = study.merge("pcb", {"density": 0.05}, experts=study.task_vectors[:1])
    size = sum(tensor.size for tensor in merged.values())
    kept = sum(np.count_nonzero(tensor) for tensor in merged.values())
    assert kept == size - int(size * 0.95) - 1  # the lowest one kept has weight zero


def test_pcb_takes_as_many_tasks_as_exceed_the_range_of_exp(folder: Path) -> None:
    deltas = np.random.default_rng(0).normal(0, 0.01, (100, 20, 20))
    study = Given(folder, model={"visual.proj": deltas})
    assert_agree(study.merge("pcb"), like(pcb(study.deltas, 0.1), study.shapes), ELEMENTWISE)


def test_pcb_of_a_task_that_equals_the_base_is_that_of_the_others(folder: Path) -> None:
    deltas = np.random.default_rng(0).normal(0, 0.01, (3, 20, 20))
    deltas[2] = 0
    model = {
        "visual.proj": deltas,
        "visual.zero": np.zeros((3, 4)),
        "visual.scale": deltas[:, 0, 0],
    }
    study = Given(folder, model=model)
    assert_agree(study.merge("pcb"), like(pcb(study.deltas, 0.1), study.shapes), ELEMENTWISE)


def test_permuting_tasks_changes_nothing(study: Study) -> None:
    assert_permuting_tasks_changes_nothing(study, "pcb")


def test_neither_workers_nor_runs_matter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_neither_workers_nor_runs_matter(wide(folder), "pcb", monkeypatch)
