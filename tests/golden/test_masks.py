"""Methods that mask the merged task vector, against their formulas over whole models."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from study import ELEMENTWISE, Model, Study, assert_agree
from variants import (
    Given,
    assert_neither_workers_nor_runs_matter,
    assert_permuting_tasks_changes_nothing,
    coarse,
    flat,
    like,
    wide,
)

VARIANTS = [
    ("consensus", {}),
    ("consensus", {"agree": 3, "threshold": 0.2}),
    ("tall", {}),
    ("tall", {"threshold": 1.5}),
    ("emr", {}),
]


@pytest.fixture(params=["smooth", "coarse"])
def any_study(request: pytest.FixtureRequest, study: Study, tmp_path: Path) -> Study:
    """The study of all tests, and one in which magnitudes tie and sums are zero."""
    return study if request.param == "smooth" else coarse(tmp_path / "coarse")


def masks(deltas: np.ndarray, threshold: float) -> np.ndarray:
    return np.abs(deltas) > threshold * np.abs(deltas.sum(0) - deltas)


# Thresholds of the coarse study are such that float32 holds the products exactly.
@pytest.mark.parametrize("threshold", [0.0, 0.25, 0.4, 1.5])
@pytest.mark.parametrize("agree", [1, 2, 3, 9])
def test_consensus_is_the_sum_where_enough_masks_agree(
    any_study: Study, threshold: float, agree: int
) -> None:
    expected = {}
    for key, deltas in any_study.deltas.items():
        active = masks(deltas, threshold).sum(0)
        expected[key] = np.where(active >= min(agree, len(deltas)), deltas.sum(0), 0)
    result = any_study.merge("consensus", {"threshold": threshold, "agree": agree})
    assert_agree(result, expected, ELEMENTWISE)


@pytest.mark.parametrize("threshold", [0.0, 0.25, 0.4, 1.5])
def test_tall_masks_the_sum_for_each_task(any_study: Study, threshold: float) -> None:
    expected = {k: masks(d, threshold) * d.sum(0) for k, d in any_study.deltas.items()}
    assert_agree(any_study.merge("tall", {"threshold": threshold}), expected, ELEMENTWISE)


def emr(model: Model) -> np.ndarray:
    deltas = flat(model)
    signs = np.sign(deltas.sum(0))
    agree = deltas * signs > 0
    unified = signs * np.where(agree, np.abs(deltas), 0).max(0)
    masked = agree * unified
    norms = np.abs(masked).sum(1)
    scale = np.divide(np.abs(deltas).sum(1), norms, out=np.zeros_like(norms), where=norms > 0)
    return scale[:, None] * masked


def test_emr_elects_masks_and_rescales(any_study: Study) -> None:
    expected = like(emr(any_study.deltas), any_study.shapes)
    assert_agree(any_study.merge("emr"), expected, ELEMENTWISE)


def test_emr_keeps_the_l1_norm_of_every_task(study: Study) -> None:
    merged = study.merge("emr")
    np.testing.assert_allclose(
        np.abs(flat(merged)).sum(1), np.abs(flat(study.deltas)).sum(1), rtol=1e-6
    )


def test_emr_gives_nothing_to_a_task_that_equals_the_base(folder: Path) -> None:
    deltas = np.random.default_rng(0).normal(size=(2, 6, 5))
    deltas[1] = 0
    merged = Given(folder, model={"visual.proj": deltas}).merge("emr")
    assert_agree(merged, {"visual.proj": deltas}, 1e-6)


@pytest.mark.parametrize("method", ["consensus", "tall", "emr"])
def test_one_task_alone_is_itself(study: Study, method: str) -> None:
    merged = study.merge(method, experts=study.task_vectors[:1])
    merged = {key: tensor.reshape(study.shapes[key]) for key, tensor in merged.items()}
    assert_agree(merged, {key: deltas[0] for key, deltas in study.deltas.items()}, 1e-6)


@pytest.mark.parametrize(("method", "settings"), VARIANTS)
def test_permuting_tasks_changes_nothing(
    any_study: Study, method: str, settings: dict[str, Any]
) -> None:
    assert_permuting_tasks_changes_nothing(any_study, method, parameters=settings)


@pytest.mark.parametrize(("method", "settings"), VARIANTS)
def test_neither_workers_nor_runs_matter(
    folder: Path, monkeypatch: pytest.MonkeyPatch, method: str, settings: dict[str, Any]
) -> None:
    assert_neither_workers_nor_runs_matter(wide(folder), method, monkeypatch, parameters=settings)
