"""Methods that trim, drop or select elements, against their formulas over whole models."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from study import ELEMENTWISE, Model, Study, assert_agree
from variants import (
    Given,
    assert_neither_workers_nor_runs_matter,
    assert_permuting_tasks_changes_nothing,
    bytes_of,
    coarse,
    flat,
    like,
    numbers,
    wide,
)

from mergeloom.errors import MergeloomError

METHODS = {
    "ties": [{}, {"scope": "tensor"}, {"merge": "sum", "density": 0.5}],
    "dare_average": [{}],
    "dare_ta": [{"drop": 0.9}],
    "dare_ties": [{}, {"merge": "sum"}],
    "della": [{}],
    "breadcrumbs": [{}, {"scope": "model"}],
    "sce": [{}, {"select": 1.0}],
    "magmax": [{}],
}
VARIANTS = [(method, settings) for method, some in METHODS.items() for settings in some]


@pytest.fixture(params=["smooth", "coarse"])
def any_study(request: pytest.FixtureRequest, study: Study, tmp_path: Path) -> Study:
    """The study of all tests, and one in which magnitudes tie and sums are zero."""
    return study if request.param == "smooth" else coarse(tmp_path / "coarse")


def by_tensor(model: Model, function: Callable[[np.ndarray], np.ndarray]) -> Model:
    """A function of task vectors [T, n], parameter by parameter."""
    return {
        key: function(deltas.reshape(len(deltas), -1)).reshape(deltas.shape)
        for key, deltas in model.items()
    }


def trim(deltas: np.ndarray, density: float) -> np.ndarray:
    """Keep of each row what is at least the (⌊density · n⌋ + 1)-th largest magnitude."""
    count = deltas.shape[1]
    index = max(count - int(density * count) - 1, 0)
    return np.where(np.abs(deltas) >= np.sort(np.abs(deltas))[:, [index]], deltas, 0)


def elected(kept: np.ndarray, mean: bool, draw: float | None = None) -> np.ndarray:
    """Mean or sum of what has the sign of the sum [n]; draws go to the majority of signs."""
    sums = kept.sum(0)
    if draw is None:
        draw = 1 if np.sign(sums).sum() > 0 else -1
    signs = np.where(sums == 0, draw, np.sign(sums))
    agree = (kept != 0) & (np.sign(kept) == signs)
    return (kept * agree).sum(0) / (np.maximum(agree.sum(0), 1) if mean else 1)


def ties(study: Study, deltas: Model, density: float, scope: str, merge: str) -> Model:
    if scope == "model":
        kept = trim(flat(deltas), density)
    else:
        kept = flat(by_tensor(deltas, lambda one: trim(one, density)))
    return like(elected(kept, merge == "mean"), study.shapes)


@pytest.mark.parametrize("density", [0.05, 0.2, 1.0])
@pytest.mark.parametrize("scope", ["model", "tensor"])
@pytest.mark.parametrize("merge", ["mean", "sum"])
def test_ties_trims_elects_and_merges(
    any_study: Study, density: float, scope: str, merge: str
) -> None:
    result = any_study.merge("ties", {"density": density, "scope": scope, "merge": merge})
    expected = ties(any_study, any_study.deltas, density, scope, merge)
    assert_agree(result, expected, ELEMENTWISE)


def test_ties_is_by_default_of_a_fifth_of_the_whole_model_and_its_mean(study: Study) -> None:
    assert_agree(study.merge("ties"), ties(study, study.deltas, 0.2, "model", "mean"), ELEMENTWISE)


@pytest.mark.parametrize("scope", ["model", "tensor"])
def test_ties_vectors_are_each_tasks_own_share_of_the_sum_that_ties_makes(
    any_study: Study, scope: str
) -> None:
    deltas = any_study.deltas
    if scope == "model":
        kept = trim(flat(deltas), 0.2)
    else:
        kept = flat(by_tensor(deltas, lambda one: trim(one, 0.2)))
    sums = kept.sum(0)
    signs = np.where(sums == 0, 1 if np.sign(sums).sum() > 0 else -1, np.sign(sums))
    vectors = any_study.merge("ties_vectors", {"scope": scope})
    for task, own in enumerate(np.where(np.sign(kept) == signs, kept, 0)):
        found = {key: values[task] for key, values in vectors.items()}
        assert_agree(found, like(own, any_study.shapes), ELEMENTWISE)
    summed = {key: values.sum(0) for key, values in vectors.items()}
    assert_agree(summed, any_study.merge("ties", {"scope": scope, "merge": "sum"}), ELEMENTWISE)


# Without a majority the paper's code takes the negative values.
@pytest.mark.parametrize(
    ("others", "expected"), [([1.0, 1.0], 1.0), ([-1.0, -1.0], -1.0), ([1.0, -1.0], -1.0)]
)
def test_ties_gives_a_draw_to_the_majority_of_the_model(
    folder: Path, others: list[float], expected: float
) -> None:
    model = {"visual.draw": np.array([[1.0], [-1.0]]), "visual.others": np.array([others, others])}
    merged = Given(folder, model=model).merge("ties", {"density": 1.0})
    assert merged["visual.draw"] == expected


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (2, 1, 0)])
def test_ties_elects_by_a_sum_that_rounds_nothing_away(
    folder: Path, order: tuple[int, ...]
) -> None:
    # In float32 1 + 1e-9 - 1 is a draw, which the others would turn.
    model = {"visual.close": np.array([[1.0], [1e-9], [-1.0]]), "visual.others": -np.ones((3, 2))}
    study = Given(folder, model=model)
    merged = study.merge("ties", {"density": 1.0}, experts=[study.task_vectors[i] for i in order])
    assert merged["visual.close"] == 0.5


def test_ties_of_one_task_that_is_not_trimmed_is_that_task(study: Study) -> None:
    merged = study.merge("ties", {"density": 1.0}, experts=study.task_vectors[:1])
    assert_agree(merged, {key: deltas[0] for key, deltas in study.deltas.items()}, 0)


def test_ties_keeps_nothing_of_a_task_that_equals_the_base(folder: Path) -> None:
    rng = np.random.default_rng(0)
    deltas = np.float32(rng.normal(size=(2, 10, 10)))
    deltas[1] = 0
    merged = Given(folder, model={"visual.proj": deltas}).merge("ties")
    assert np.count_nonzero(merged["visual.proj"]) == 21
    assert_agree(merged, {"visual.proj": trim(deltas[:1].reshape(1, -1), 0.2).reshape(10, 10)}, 0)


def dropped(study: Study, drop: float, seed: int = 0) -> Model:
    uniform = numbers(study, seed)
    return {k: np.where(uniform[k] < drop, 0, d) / (1 - drop) for k, d in study.deltas.items()}


@pytest.mark.parametrize("drop", [0.5, 0.9])
def test_dare_drops_at_random_and_rescales(any_study: Study, drop: float) -> None:
    left = dropped(any_study, drop)
    total = {key: deltas.sum(0) for key, deltas in left.items()}
    mean = {key: deltas.mean(0) for key, deltas in left.items()}
    assert_agree(any_study.merge("dare_ta", {"drop": drop}), total, ELEMENTWISE)
    assert_agree(any_study.merge("dare_average", {"drop": drop}), mean, ELEMENTWISE)


@pytest.mark.parametrize(("drop", "density"), [(0.5, 0.2), (0.9, 0.2), (0.2, 1.0)])
@pytest.mark.parametrize("merge", ["mean", "sum"])
def test_dare_ties_trims_what_is_left_over_the_whole_model(
    any_study: Study, drop: float, density: float, merge: str
) -> None:
    settings = {"drop": drop, "density": density, "merge": merge}
    # Ranks are those of the values before rescaling, which float64 rounds otherwise.
    left = {key: deltas * (1 - drop) for key, deltas in dropped(any_study, drop).items()}
    left = {key: np.float64(np.float32(deltas)) for key, deltas in left.items()}
    expected = ties(any_study, left, density, "model", merge)
    expected = {key: merged / (1 - drop) for key, merged in expected.items()}
    assert_agree(any_study.merge("dare_ties", settings), expected, ELEMENTWISE)


@pytest.mark.parametrize(
    ("method", "plain"),
    [("dare_average", "weight_average"), ("dare_ta", "task_arithmetic"), ("dare_ties", "ties")],
)
def test_dare_that_drops_nothing_is_the_method_that_it_serves(
    study: Study, method: str, plain: str
) -> None:
    assert_agree(study.merge(method, {"drop": 0.0}), study.merge(plain), 1e-6)


@pytest.mark.parametrize("method", ["dare_average", "dare_ta", "dare_ties", "della"])
def test_random_methods_follow_their_seed(study: Study, method: str) -> None:
    one = bytes_of(study, method, seed=1)
    assert bytes_of(study, method, seed=1) == one
    assert bytes_of(study, method, seed=2) != one


def della(study: Study, density: float, epsilon: float) -> Model:
    uniform = numbers(study)
    merged = {}
    for key, deltas in study.deltas.items():
        rows = deltas.shape[1] if deltas.ndim > 2 else 1
        kept = []
        for delta, number in zip(deltas, uniform[key], strict=True):
            values, number = delta.reshape(rows, -1), number.reshape(rows, -1)
            size, count = np.abs(values), values.shape[1]
            # The rank of a value: the number of those in its row that are not larger, less one.
            rank = (size[:, None, :] <= size[:, :, None]).sum(-1) - 1
            ramp = rank / (count - 1) if count > 1 else 0.5
            left = np.where(number < density - epsilon + 2 * epsilon * ramp, values, 0)
            norm = np.abs(left).sum()
            kept.append((left * (size.sum() / norm if norm else 1)).reshape(-1))
        merged[key] = elected(np.stack(kept), mean=True, draw=1).reshape(deltas.shape[1:])
    return merged


@pytest.mark.parametrize(("density", "epsilon"), [(0.5, 0.15), (0.7, 0.3), (0.3, 0.0), (1.0, 0.0)])
def test_della_drops_by_rank_in_the_row_rescales_and_elects(
    any_study: Study, density: float, epsilon: float
) -> None:
    result = any_study.merge("della", {"density": density, "epsilon": epsilon})
    assert_agree(result, della(any_study, density, epsilon), ELEMENTWISE)


def test_della_of_one_task_keeps_the_l1_norm_of_every_tensor(study: Study) -> None:
    merged = study.merge("della", experts=study.task_vectors[:1])
    for key, deltas in study.deltas.items():
        assert 0 < np.count_nonzero(merged[key]) < merged[key].size, key
        assert np.abs(merged[key]).sum() == pytest.approx(np.abs(deltas[0]).sum(), rel=1e-6)


def test_della_refuses_probabilities_that_are_none(study: Study) -> None:
    with pytest.raises(MergeloomError, match=r"epsilon of at most 0\.1, or another density"):
        study.merge("della", {"density": 0.9})


def crumbs(deltas: np.ndarray, density: float, gamma: float) -> np.ndarray:
    size = np.abs(deltas)
    count = deltas.shape[1]
    kept = max(1, int(density * count))
    above = min(int(gamma * count), count - kept)
    falling = -np.sort(-size)
    most, least = falling[:, [above]], falling[:, [above + kept - 1]]
    return np.where((size <= most) & (size >= least), deltas, 0)


@pytest.mark.parametrize(
    ("density", "gamma"), [(0.9, 0.01), (0.1, 0.2), (0.95, 0.3), (0.01, 0.0), (1.0, 0.5)]
)
@pytest.mark.parametrize("scope", ["tensor", "model"])
def test_breadcrumbs_sums_what_is_neither_large_nor_small(
    any_study: Study, density: float, gamma: float, scope: str
) -> None:
    settings = {"density": density, "gamma": gamma, "scope": scope}
    if scope == "model":
        total = crumbs(flat(any_study.deltas), density, gamma).sum(0)
        expected = like(total, any_study.shapes)
    else:
        kept = by_tensor(any_study.deltas, lambda deltas: crumbs(deltas, density, gamma))
        expected = {key: deltas.sum(0) for key, deltas in kept.items()}
    assert_agree(any_study.merge("breadcrumbs", settings), expected, ELEMENTWISE)


@pytest.mark.parametrize("shape", [(), (1,), (9,), (99,)])
def test_breadcrumbs_leaves_something_of_small_tensors(folder: Path, shape: tuple) -> None:
    deltas = np.random.default_rng(0).normal(size=(1, *shape))
    merged = Given(folder, model={"visual.small": deltas}).merge("breadcrumbs")
    assert np.count_nonzero(merged["visual.small"]) == max(1, int(0.9 * deltas.size))


def test_breadcrumbs_that_drop_nothing_are_task_arithmetic(study: Study) -> None:
    merged = study.merge("breadcrumbs", {"density": 1.0})
    assert_agree(merged, study.merge("task_arithmetic"), 1e-6)


def sce(deltas: np.ndarray, select: float) -> np.ndarray:
    # Variances are compared as float32 holds them.
    variance = np.float32(deltas.var(0))
    least = -np.sort(-variance)[max(1, int(select * variance.size)) - 1]
    values = np.where(variance >= least, deltas, 0)
    weights = (values**2).mean(1)
    signs = np.where(values.sum(0) >= 0, 1, -1)
    share = weights[:, None] * (np.sign(values) == signs)
    total = share.sum(0)
    return np.divide((share * values).sum(0), total, out=np.zeros_like(total), where=total > 0)


@pytest.mark.parametrize("select", [0.1, 0.5, 1.0])
def test_sce_selects_weighs_and_erases(any_study: Study, select: float) -> None:
    expected = {
        key: sce(deltas.reshape(len(deltas), -1), select).reshape(deltas.shape[1:])
        for key, deltas in any_study.deltas.items()
    }
    assert_agree(any_study.merge("sce", {"select": select}), expected, ELEMENTWISE)


def test_sce_weighs_task_vectors_as_small_as_those_of_fine_tuning(folder: Path) -> None:
    # With values around 1e-5 mergekit weighs all tasks alike.
    deltas = np.full((2, 8), 1e-5) * np.array([[1.0], [3.0]])
    merged = Given(folder, model={"visual.bias": deltas}).merge("sce", {"select": 1.0})
    assert_agree(merged, {"visual.bias": np.full(8, 2.8e-5)}, 1e-6)


@pytest.mark.parametrize("method", ["sce", "magmax"])
def test_one_task_alone_is_itself(study: Study, method: str) -> None:
    merged = study.merge(method, experts=study.task_vectors[:1])
    assert_agree(merged, {key: deltas[0] for key, deltas in study.deltas.items()}, 1e-6)


def test_magmax_takes_the_largest_magnitude_and_of_equal_ones_the_positive(
    any_study: Study,
) -> None:
    expected = {}
    for key, deltas in any_study.deltas.items():
        # A little more for positive values decides ties and nothing else.
        winner = (np.abs(deltas) + 1e-12 * (deltas > 0)).argmax(0)
        expected[key] = np.take_along_axis(deltas, winner[None], axis=0)[0]
    assert_agree(any_study.merge("magmax"), expected, 0)


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


@pytest.mark.parametrize("method", METHODS)
def test_task_vectors_that_are_zero_merge_into_zero(folder: Path, method: str) -> None:
    study = Given(
        folder, model={"visual.proj": np.zeros((3, 6, 5)), "visual.one": np.zeros((3, 1))}
    )
    assert not any(tensor.any() for tensor in study.merge(method).values())
