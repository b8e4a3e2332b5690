"""The examples that statistics are taken of, and equations with singular matrices."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from mergeloom.linalg.regression import solve_semidefinite
from mergeloom.statistics.examples import draw_examples


@pytest.fixture
def train(tmp_path: Path) -> Path:
    """Fifty images that can be told apart."""
    images = np.broadcast_to(np.arange(50, dtype=np.uint8)[:, None, None, None], (50, 2, 2, 3))
    path = tmp_path / "train_2px.safetensors"
    save_file({"images": np.ascontiguousarray(images), "labels": np.arange(50)}, path)
    return path


def test_examples_are_distinct_and_depend_on_the_seed_alone(train: Path) -> None:
    once, again, other = (draw_examples(train, 12, seed) for seed in (3, 3, 4))
    assert len(once) == 12
    assert len(set(once.labels.tolist())) == 12
    assert torch.equal(once.images[:, 0, 0, 0].long(), once.labels)
    assert torch.equal(once.images, again.images)
    assert set(once.labels.tolist()) != set(other.labels.tolist())


def test_fewer_examples_are_among_more(train: Path) -> None:
    few, many = (set(draw_examples(train, n, 0).labels.tolist()) for n in (5, 20))
    assert few < many


def test_all_are_taken_where_there_are_fewer(train: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        assert draw_examples(train, 60, 0).labels.tolist() == list(range(50))
    assert "has 50 images, fewer than the 60 asked for" in caplog.text


def gram(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, columns)) * 10 ** rng.uniform(-3, 3, columns)
    return x.T @ x


def solve(matrix: np.ndarray, right: np.ndarray, least: float = 0.0) -> np.ndarray:
    return solve_semidefinite(torch.tensor(matrix), torch.tensor(right), least).numpy()


@pytest.mark.parametrize("least", [0.0, 0.05])
def test_regular_equations_are_solved_whatever_the_units(least: float) -> None:
    matrix = gram(60, 20)
    matrix = 0.95 * matrix + 0.05 * np.diag(np.diag(matrix))
    right = matrix @ np.random.default_rng(1).standard_normal((20, 3))
    found = solve(matrix, right, least)
    np.testing.assert_allclose(found, np.linalg.solve(matrix, right), rtol=1e-6)


def test_singular_equations_get_the_smallest_solution() -> None:
    matrix = gram(8, 20)
    right = matrix @ np.random.default_rng(1).standard_normal((20, 3))
    found = solve(matrix, right)
    scale = np.sqrt(np.diag(matrix))[:, None]
    np.testing.assert_allclose(matrix @ found / scale, right / scale, atol=1e-6 * scale.max())
    # The smallest one is in the span of the rows.
    rows = np.random.default_rng(0).standard_normal((8, 20))
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((8, 20)) * 10 ** rng.uniform(-3, 3, 20)
    beside = np.linalg.svd(rows)[2][8:]
    assert np.abs(beside @ found).max() < 1e-6 * np.abs(found).max()


@pytest.mark.parametrize("least", [0.0, 0.05])
def test_rows_of_zeros_have_a_solution_of_zero(least: float) -> None:
    matrix = gram(60, 10)
    matrix = 0.95 * matrix + 0.05 * np.diag(np.diag(matrix))
    matrix[3], matrix[:, 3] = 0, 0
    right = matrix @ np.random.default_rng(1).standard_normal((10, 2))
    found = solve(matrix, right, least)
    assert (found[3] == 0).all()
    others = np.delete(np.arange(10), 3)
    expected = np.linalg.solve(matrix[np.ix_(others, others)], right[others])
    np.testing.assert_allclose(found[others], expected, rtol=1e-6)
    assert (solve(np.zeros((4, 4)), np.zeros((4, 2)), least) == 0).all()
