"""Spectral kernels against float64 SVDs of numpy, over condition numbers and shapes."""

import numpy as np
import pytest
import torch

from mergeloom.linalg.spectral import polar, truncated_svd

SHAPES = [(40, 40), (90, 30), (30, 90)]
CONDITIONS = [1.0, 1e2, 1e4, 1e5, 1e6, 1e7]


def matrix(shape: tuple[int, int], condition: float, dtype: type = np.float32) -> np.ndarray:
    """A matrix whose singular values fall geometrically from 1 to 1/condition."""
    rng = np.random.default_rng(0)
    size = min(shape)
    left, _ = np.linalg.qr(rng.standard_normal((shape[0], size)))
    right, _ = np.linalg.qr(rng.standard_normal((shape[1], size)))
    values = np.geomspace(1, 1 / condition, size)
    return ((left * values) @ right.T).astype(dtype)


def exact_polar(values: np.ndarray) -> np.ndarray:
    left, _, right = np.linalg.svd(values.astype(np.float64), full_matrices=False)
    return left @ right


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("condition", CONDITIONS)
def test_polar_is_the_exact_factor_at_every_condition(
    shape: tuple[int, int], condition: float
) -> None:
    values = matrix(shape, condition)
    result = polar(torch.from_numpy(values))
    expected = exact_polar(values)
    assert result.dtype == torch.float32
    assert np.linalg.norm(result.numpy() - expected) <= 1e-6 * np.linalg.norm(expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_polar_gives_the_faintest_directions_of_a_float64_matrix_their_full_weight(
    shape: tuple[int, int],
) -> None:
    values = matrix(shape, 1e12, np.float64)
    result = polar(torch.from_numpy(values))
    np.testing.assert_allclose(np.linalg.svd(result.numpy(), compute_uv=False), 1, atol=1e-9)
    expected = exact_polar(values)
    assert np.linalg.norm(result.numpy() - expected) <= 1e-3 * np.linalg.norm(expected)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("rank", [0, 1, 7, 30])
def test_truncated_svd_is_the_best_approximation_at_every_condition(
    shape: tuple[int, int], condition: float, rank: int
) -> None:
    values = matrix(shape, condition)
    U, S, Vt = (part.double().numpy() for part in truncated_svd(torch.from_numpy(values), rank))
    left, exact, right = np.linalg.svd(values.astype(np.float64), full_matrices=False)
    assert U.shape == (shape[0], rank)
    assert Vt.shape == (rank, shape[1])
    np.testing.assert_allclose(S, exact, atol=3e-7)
    np.testing.assert_allclose(U.T @ U, np.eye(rank), atol=1e-5)
    np.testing.assert_allclose(Vt @ Vt.T, np.eye(rank), atol=1e-5)
    if condition > 1 and rank > 0:  # equal singular values have no leading vectors of their own
        expected = (left[:, :rank] * exact[:rank]) @ right[:rank]
        assert np.linalg.norm((U * S[:rank]) @ Vt - expected, 2) <= 1e-5


def test_leading_vectors_are_those_of_the_exact_svd_up_to_sign() -> None:
    values = matrix((50, 20), 1e3)
    U, _, Vt = truncated_svd(torch.from_numpy(values), 12)
    left, _, right = np.linalg.svd(values.astype(np.float64), full_matrices=False)
    np.testing.assert_allclose(np.abs(left[:, :12].T @ U.numpy()), np.eye(12), atol=1e-5)
    np.testing.assert_allclose(np.abs(right[:12] @ Vt.numpy().T), np.eye(12), atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_signs_make_the_largest_entry_of_each_left_vector_positive(shape: tuple[int, int]) -> None:
    values = torch.from_numpy(matrix(shape, 1e3))
    U, _, Vt = truncated_svd(values, 10)
    negated, _, right = truncated_svd(-values, 10)
    assert (U.gather(0, U.abs().argmax(0, keepdim=True)) > 0).all()
    torch.testing.assert_close(negated, U)
    torch.testing.assert_close(right, -Vt)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_rank_deficient_matrix_has_a_partial_isometry_and_no_made_up_vectors(
    shape: tuple[int, int],
) -> None:
    # A small integer matrix: its rank is exactly 3, also in float32.
    rng = np.random.default_rng(1)
    values = rng.integers(-3, 4, (shape[0], 3)) @ rng.integers(-3, 4, (3, shape[1]))
    assert np.linalg.matrix_rank(values) == 3
    left, _, right = np.linalg.svd(values.astype(np.float64), full_matrices=False)
    tensor = torch.from_numpy(values.astype(np.float32))
    expected = left[:, :3] @ right[:3]
    np.testing.assert_allclose(polar(tensor).numpy(), expected, atol=1e-5)
    U, S, Vt = truncated_svd(tensor, 6)
    assert (U[:, 3:] == 0).all()
    assert (S[3:] == 0).all()
    assert (Vt[3:] == 0).all()
    np.testing.assert_allclose((U * S[:6] @ Vt).numpy(), values, atol=1e-4)


def test_zero_has_zero_factors() -> None:
    zero = torch.zeros(6, 4)
    assert torch.equal(polar(zero), zero)
    for part, shape in zip(truncated_svd(zero, 3), [(6, 3), (4,), (3, 4)], strict=True):
        assert torch.equal(part, torch.zeros(shape))


def test_a_batch_is_its_matrices_one_by_one() -> None:
    # One easy, one that needs the exact route, one zero.
    batch = torch.stack(
        [torch.from_numpy(matrix((30, 20), c)) for c in (10.0, 1e7)] + [torch.zeros(30, 20)]
    )
    torch.testing.assert_close(polar(batch), torch.stack([polar(m) for m in batch]))
    for together, alone in zip(
        truncated_svd(batch, 20), zip(*(truncated_svd(m, 20) for m in batch), strict=True),
        strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(together, torch.stack(alone))


def test_scale_does_not_matter() -> None:
    values = torch.from_numpy(matrix((30, 20), 1e3))
    torch.testing.assert_close(polar(values * 1e-12), polar(values), atol=1e-5, rtol=0)
    torch.testing.assert_close(polar(values * 1e12), polar(values), atol=1e-5, rtol=0)


def test_equal_input_gives_equal_bits() -> None:
    values = torch.from_numpy(matrix((60, 40), 1e4))
    assert torch.equal(polar(values), polar(values.clone()))
    for one, two in zip(truncated_svd(values, 9), truncated_svd(values.clone(), 9), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("rank", [-1, 5])
def test_an_impossible_rank_is_refused(rank: int) -> None:
    with pytest.raises(ValueError, match="rank"):
        truncated_svd(torch.ones(6, 4), rank)
