"""Spectral kernels against float64 SVDs of numpy, over condition numbers and shapes."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from mergeloom.linalg import lapack
from mergeloom.linalg.iteration import polar_by_iteration
from mergeloom.linalg.lapack import eigenvalues_and_leading
from mergeloom.linalg.spectral import polar, polar_and_nuclear_norm, truncated_svd

# Small ones take one batched call, the others LAPACK's routines one by one.
SHAPES = [(40, 40), (90, 30), (30, 90), (96, 96), (160, 80), (80, 160)]
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
@pytest.mark.parametrize("rank", [0, 1, 7, 20, 30])
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


@pytest.mark.parametrize("shape", [(50, 20), (130, 70), (70, 130)])
def test_leading_vectors_are_those_of_the_exact_svd_up_to_sign(shape: tuple[int, int]) -> None:
    values = matrix(shape, 1e3)
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


@pytest.mark.parametrize(("rows", "columns"), [(6, 4), (90, 80), (80, 90)])
def test_zero_has_zero_factors(rows: int, columns: int) -> None:
    zero = torch.zeros(rows, columns)
    factor, norm = polar_and_nuclear_norm(zero)
    assert torch.equal(factor, zero)
    assert norm == 0
    shapes = [(rows, 3), (min(rows, columns),), (3, columns)]
    for part, shape in zip(truncated_svd(zero, 3), shapes, strict=True):
        assert torch.equal(part, torch.zeros(shape))


@pytest.mark.parametrize("shape", [(30, 20), (100, 80), (80, 100)])
def test_a_batch_is_its_matrices_one_by_one(shape: tuple[int, int]) -> None:
    # Two easy ones, two that need the exact route, one zero.
    conditions = (10.0, 1e7, 1e3, 1e12)
    matrices = [torch.from_numpy(matrix(shape, c, np.float64)) for c in conditions]
    batch = torch.stack([*matrices, torch.zeros(shape, dtype=torch.float64)])
    torch.testing.assert_close(polar(batch), torch.stack([polar(m) for m in batch]))
    for together, alone in zip(
        truncated_svd(batch, 20), zip(*(truncated_svd(m, 20) for m in batch), strict=True),
        strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(together, torch.stack(alone))


def test_leading_dimensions_are_kept() -> None:
    batch = torch.randn(2, 3, 9, 5, generator=torch.Generator().manual_seed(0))
    factor, norm = polar_and_nuclear_norm(batch)
    assert factor.shape == batch.shape
    torch.testing.assert_close(norm, torch.linalg.svdvals(batch).sum(-1))
    U, S, Vt = truncated_svd(batch, 5)
    torch.testing.assert_close(U * S.unsqueeze(-2) @ Vt, batch)
    U, S, Vt = truncated_svd(batch, 0)
    assert (U.shape, S.shape, Vt.shape) == ((2, 3, 9, 0), (2, 3, 5), (2, 3, 0, 5))


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (1, 200), (200, 1)])
def test_a_single_row_or_column_is_its_direction_and_its_length(shape: tuple[int, int]) -> None:
    values = np.random.default_rng(0).standard_normal(shape)
    length = np.linalg.norm(values)
    factor, norm = polar_and_nuclear_norm(torch.from_numpy(values))
    np.testing.assert_allclose(factor.numpy(), values / length, atol=1e-14)
    np.testing.assert_allclose(norm.item(), length)
    U, S, Vt = (part.numpy() for part in truncated_svd(torch.from_numpy(values), 1))
    np.testing.assert_allclose(S, [length])
    np.testing.assert_allclose(U * S @ Vt, values, atol=1e-13)


@pytest.mark.parametrize("levels", [[1.0], [4.0, 3.0, 2.0, 1.0], [1.0, 1e-3], [2.0, 0.0]])
@pytest.mark.parametrize("rotated", [True, False])
@pytest.mark.parametrize("parts", [1, 4])
def test_repeated_singular_values_have_orthonormal_vectors_and_an_exact_factor(
    levels: list[float], rotated: bool, parts: int
) -> None:
    size = 80
    rng = np.random.default_rng(2)
    left, right = (np.linalg.qr(rng.standard_normal((size, size)))[0] for _ in range(2))
    if not rotated:  # the tridiagonal form falls apart into single entries
        left = right = np.eye(size)
    spectrum = np.repeat(levels, size // len(levels))
    values = (left * spectrum) @ right.T
    rank = size // parts
    U, S, Vt = (part.numpy() for part in truncated_svd(torch.from_numpy(values), rank))
    np.testing.assert_allclose(S, spectrum, atol=1e-7 * levels[0])
    present = np.diag((spectrum[:rank] > 0).astype(float))
    np.testing.assert_allclose(U.T @ U, present, atol=1e-8)
    np.testing.assert_allclose(Vt @ Vt.T, present, atol=1e-8)
    if parts == 1:
        np.testing.assert_allclose(U * S @ Vt, values, atol=1e-7)
    positive = spectrum > 0
    expected = left[:, positive] @ right[:, positive].T
    np.testing.assert_allclose(polar(torch.from_numpy(values)).numpy(), expected, atol=1e-8)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("condition", CONDITIONS)
def test_the_nuclear_norm_is_the_sum_of_the_singular_values(
    shape: tuple[int, int], condition: float
) -> None:
    values = matrix(shape, condition, np.float64)
    _, norm = polar_and_nuclear_norm(torch.from_numpy(values))
    np.testing.assert_allclose(norm, np.linalg.svd(values, compute_uv=False).sum(), rtol=1e-9)


@pytest.mark.parametrize("shape", [(60, 60), (120, 40)])
@pytest.mark.parametrize("condition", [1.0, 1e2, 1e4, 1e6])
def test_the_iteration_finds_the_exact_factor(shape: tuple[int, int], condition: float) -> None:
    values = matrix(shape, condition)
    factor, holds = polar_by_iteration(torch.from_numpy(values).double())
    assert holds
    expected = exact_polar(values)
    assert np.linalg.norm(factor.numpy() - expected) <= 1e-6 * np.linalg.norm(expected)


def test_the_iteration_says_of_each_matrix_in_a_batch_whether_it_has_its_factor() -> None:
    good = [matrix((50, 30), condition, np.float64) for condition in (10.0, 1e5)]
    deficient = matrix((50, 4), 10.0, np.float64) @ matrix((4, 30), 10.0, np.float64)
    bad = [matrix((50, 30), 1e12, np.float64), deficient, np.zeros((50, 30))]
    batch = torch.from_numpy(np.stack([*good, *bad]))
    factor, holds = polar_by_iteration(batch * 1e-6)
    assert holds.tolist() == [True, True, False, False, False]
    assert factor.isfinite().all()
    for found, values in zip(factor, good, strict=False):
        np.testing.assert_allclose(found.numpy(), exact_polar(values), atol=1e-7)


@pytest.mark.parametrize("count", [0, 1, 20, 21, 80])
@pytest.mark.parametrize("condition", [1.0, 1e5, 1e12])
@pytest.mark.parametrize("inverse_iteration_fails", [False, True])
def test_eigenvectors_are_those_of_the_largest_values_by_either_route(
    count: int, condition: float, inverse_iteration_fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if inverse_iteration_fails:
        monkeypatch.setattr(lapack, "_by_inverse_iteration", lambda *_: None)
    root = matrix((80, 80), condition, np.float64)
    symmetric = root + root.T
    values, vectors = eigenvalues_and_leading(symmetric.copy(), count)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(symmetric), atol=1e-13)
    assert vectors.shape == (count, 80)
    residual = symmetric @ vectors.T - vectors.T * values[80 - count :]
    np.testing.assert_allclose(residual, 0, atol=1e-12)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(count), atol=1e-11)


def test_vectors_of_inverse_iteration_that_are_not_orthogonal_are_refused() -> None:
    tridiagonal = lapack._tridiagonal(np.diag(np.arange(80.0)))
    # The same value twice, where the matrix has it once.
    assert lapack._by_inverse_iteration(tridiagonal, np.array([78.0, 79.0])) is not None
    assert lapack._by_inverse_iteration(tridiagonal, np.array([79.0, 79.0])) is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_matrix_that_is_not_finite_is_refused(bad: float) -> None:
    values = torch.ones(90, 80)
    values[3, 5] = bad
    with pytest.raises(ValueError, match="finite"):
        truncated_svd(values, 3)


def test_threads_find_the_bits_that_one_finds() -> None:
    matrices = [torch.from_numpy(matrix((120, 90), c)) for c in (10.0, 1e3, 1e6, 1e7)] * 4
    with ThreadPoolExecutor(4) as pool:
        factors = list(pool.map(polar, matrices))
        leading = list(pool.map(lambda values: truncated_svd(values, 9), matrices))
    for values, factor, parts in zip(matrices, factors, leading, strict=True):
        assert torch.equal(factor, polar(values))
        assert all(map(torch.equal, parts, truncated_svd(values, 9)))


def test_scale_does_not_matter() -> None:
    values = torch.from_numpy(matrix((30, 20), 1e3))
    torch.testing.assert_close(polar(values * 1e-12), polar(values), atol=1e-5, rtol=0)
    torch.testing.assert_close(polar(values * 1e12), polar(values), atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_equal_input_gives_equal_bits(shape: tuple[int, int]) -> None:
    values = torch.from_numpy(matrix(shape, 1e4))
    assert torch.equal(polar(values), polar(values.clone()))
    for one, two in zip(truncated_svd(values, 9), truncated_svd(values.clone(), 9), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("rank", [-1, 5])
def test_an_impossible_rank_is_refused(rank: int) -> None:
    with pytest.raises(ValueError, match="rank"):
        truncated_svd(torch.ones(6, 4), rank)
