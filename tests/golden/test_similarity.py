"""Measures of similarity against statements in numpy and scipy, and what they do not depend on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import similarity_in_numpy as statement
from scipy.stats import ortho_group
from similarity_in_numpy import Array

from mergeloom.similarity.feature_sets import open_feature_sets
from mergeloom.similarity.matrix import SimilarityMatrix, compare
from mergeloom.similarity.measure import measures

Compare = Callable[..., Array]
ROWS = 90
MEASURES = sorted(measures())


def related_features(rows: int = ROWS, seed: int = 0) -> list[Array]:
    """Four models that see the same factors more or less, with sizes and means of their own."""
    rng = np.random.default_rng(seed)
    factors = rng.standard_normal((rows, 6))
    return [
        np.maximum(
            factors @ rng.standard_normal((6, d)) + noise * rng.standard_normal((rows, d)), 0
        )
        + rng.standard_normal(d)
        for d, noise in ((12, 0.1), (20, 0.5), (7, 1.0), (31, 2.0))
    ]


@pytest.fixture
def compared(tmp_path: Path) -> Compare:
    """The matrix of arrays, by way of files."""

    def call(arrays: list[Array], measure: str, **options: Any) -> Array:
        return matrix_of(tmp_path, arrays, measure, **options).values

    return call


def matrix_of(
    folder: Path, arrays: list[Array], measure: str, normalise: bool = True,
    known: SimilarityMatrix | None = None, **parameters: Any,
) -> SimilarityMatrix:  # fmt: skip
    paths = [folder / f"{letter}.npy" for letter in "abcdefgh"[: len(arrays)]]
    for path, array in zip(paths, arrays, strict=True):
        np.save(path, array)
    sets = open_feature_sets(paths)
    return compare(sets, measure, parameters, normalise=normalise, known=known)


def by_pairs(function: Callable[[Array, Array], float], arrays: list[Array]) -> Array:
    return np.array([[function(x, y) for y in arrays] for x in arrays])


STATEMENTS: list[tuple[str, dict[str, Any], Callable[[Array, Array], float]]] = [
    ("cka_linear", {}, lambda x, y: statement.cka(x @ x.T, y @ y.T, biased=False)),
    ("cka_linear", {"biased": True}, lambda x, y: statement.cka(x @ x.T, y @ y.T, biased=True)),
    *(
        (
            "cka_rbf",
            {"sigma": sigma, "biased": biased},
            lambda x, y, s=sigma, b=biased: statement.cka(
                statement.rbf(x, s), statement.rbf(y, s), biased=b
            ),
        )
        for sigma in (0.2, 0.4, 3.0)
        for biased in (False, True)
    ),
    ("rsa_pearson", {}, lambda x, y: statement.rsa(x, y, "pearson")),
    ("rsa_spearman", {}, lambda x, y: statement.rsa(x, y, "spearman")),
    ("procrustes", {}, statement.procrustes),
    ("mutual_knn", {"k": 4}, lambda x, y: statement.mutual_knn(x, y, 4)),
    ("svcca", {}, lambda x, y: statement.svcca(x, y, 0.99)),
    ("svcca", {"variance": 0.8}, lambda x, y: statement.svcca(x, y, 0.8)),
    ("pwcca", {}, statement.pwcca),
]


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize(("measure", "parameters", "expected"), STATEMENTS)
def test_a_measure_is_what_its_paper_states(
    compared: Compare, measure: str, parameters: dict[str, Any], expected: Any, normalise: bool
) -> None:
    arrays = [x / 10 for x in related_features()]  # so that raw distances suit every sigma
    found = compared(arrays, measure, normalise=normalise, **parameters)
    rows = [statement.unit_rows(x) for x in arrays] if normalise else arrays
    np.testing.assert_allclose(found, by_pairs(expected, rows), rtol=0, atol=1e-6)


@pytest.mark.parametrize("measure", ["cka_linear", "cka_rbf"])
@pytest.mark.parametrize("biased", [False, True])
def test_cka_of_many_rows_in_float32_is_that_of_float64(
    compared: Compare, measure: str, biased: bool
) -> None:
    arrays = [np.float32(x) for x in related_features(rows=1100)]
    rows = [statement.unit_rows(np.float64(x)) for x in arrays]
    kernel = (lambda x: x @ x.T) if measure == "cka_linear" else (lambda x: statement.rbf(x, 0.4))
    kernels = [kernel(x) for x in rows]
    expected = by_pairs(lambda x, y: statement.cka(x, y, biased), kernels)
    found = compared(arrays, measure, biased=biased)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", ["pearson", "spearman"])
def test_rsa_of_many_rows_in_float32_is_that_of_float64(compared: Compare, method: str) -> None:
    arrays = [np.float32(x) for x in related_features(rows=1100)]
    expected = by_pairs(lambda x, y: statement.rsa(x, y, method), [np.float64(x) for x in arrays])
    found = compared(arrays, f"rsa_{method}")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("rows", [60, 1100])
def test_spearman_gives_equal_distances_their_mean_rank(compared: Compare, rows: int) -> None:
    """Rows of a few kinds: most distances are equal to many others."""
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((5, 8))[rng.integers(5, size=rows)] for _ in range(3)]
    arrays.append(np.float64(rng.integers(0, 2, (rows, 6)) + np.arange(6) % 2))
    arrays[3][:, 5] = 5.0
    expected = by_pairs(lambda x, y: statement.rsa(x, y, "spearman"), arrays)
    found = compared(arrays, "rsa_spearman")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_sigma_may_be_a_multiple_of_the_median_distance(compared: Compare) -> None:
    arrays = related_features()
    rows, columns = np.triu_indices(ROWS, 1)

    def kernel(x: Array) -> Array:
        squares = statement.squared_distances(x)
        return np.exp(-squares / (2 * (0.5 * np.median(np.sqrt(squares[rows, columns]))) ** 2))

    expected = by_pairs(lambda x, y: statement.cka(kernel(x), kernel(y), False), arrays)
    found = compared(arrays, "cka_rbf", sigma_of_median=0.5, normalise=False)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("offset", [3.0, 30.0])
def test_features_far_from_zero_keep_their_digits(compared: Compare, offset: float) -> None:
    """Cosines of all rows are near 1 then, as they are in many networks."""
    arrays = [x / 10 + offset for x in related_features()]
    rows = [statement.unit_rows(x) for x in arrays]
    expected = by_pairs(lambda x, y: statement.cka(x @ x.T, y @ y.T, False), rows)
    np.testing.assert_allclose(compared(arrays, "cka_linear"), expected, rtol=0, atol=1e-6)
    expected = by_pairs(
        lambda x, y: statement.cka(statement.rbf(x, 0.4), statement.rbf(y, 0.4), False), rows
    )
    np.testing.assert_allclose(compared(arrays, "cka_rbf"), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("measure", MEASURES)
def test_a_matrix_is_symmetric_and_one_for_equal_models(compared: Compare, measure: str) -> None:
    arrays = related_features()
    found = compared([*arrays, arrays[1]], measure)
    np.testing.assert_array_equal(found, found.T)
    np.testing.assert_array_equal(np.diag(found), 1.0)
    assert found[1, 4] == pytest.approx(1, abs=1e-9)
    np.testing.assert_allclose(found[4], found[1], atol=1e-9)


@pytest.mark.parametrize("measure", MEASURES)
def test_another_order_of_models_is_another_order_of_the_matrix(
    compared: Compare, measure: str
) -> None:
    arrays, order = related_features(), [2, 0, 3, 1]
    found = compared(arrays, measure)
    permuted = compared([arrays[m] for m in order], measure)
    np.testing.assert_allclose(permuted, found[np.ix_(order, order)], atol=1e-12)


@pytest.mark.parametrize("measure", [m for m in MEASURES if not m.startswith(("rsa", "pwcca"))])
def test_a_rotation_of_features_changes_nothing(compared: Compare, measure: str) -> None:
    arrays = related_features()
    turned = [x @ ortho_group.rvs(x.shape[1], random_state=0) for x in arrays]
    np.testing.assert_allclose(compared(turned, measure), compared(arrays, measure), atol=1e-9)


@pytest.mark.parametrize("measure", ["cka_linear", "procrustes", "svcca", "pwcca", "mutual_knn"])
def test_a_scale_of_features_changes_nothing(compared: Compare, measure: str) -> None:
    arrays = related_features()
    scaled = [x * factor for x, factor in zip(arrays, (0.01, 1, 7, 1e3), strict=True)]
    found = compared(scaled, measure, normalise=False)
    np.testing.assert_allclose(found, compared(arrays, measure, normalise=False), atol=1e-9)


def test_a_scale_changes_nothing_where_sigma_goes_with_the_median(compared: Compare) -> None:
    arrays = related_features()
    options = {"sigma_of_median": 1.0, "normalise": False}
    found = compared([x * 50 for x in arrays], "cka_rbf", **options)
    np.testing.assert_allclose(found, compared(arrays, "cka_rbf", **options), atol=1e-9)


@pytest.mark.parametrize("measure", ["rsa_pearson", "rsa_spearman"])
def test_an_affine_map_of_each_row_leaves_rsa_as_it_is(compared: Compare, measure: str) -> None:
    arrays, rng = related_features(), np.random.default_rng(1)
    mapped = [rng.uniform(0.1, 9, (ROWS, 1)) * x + rng.standard_normal((ROWS, 1)) for x in arrays]
    found = compared(mapped, measure, normalise=False)
    np.testing.assert_allclose(found, compared(arrays, measure), atol=1e-9)


def test_unrelated_models_have_an_unbiased_cka_of_zero(compared: Compare) -> None:
    rng = np.random.default_rng(0)
    found = compared([rng.standard_normal((400, 300)) for _ in range(6)], "cka_linear")
    assert abs(found[np.triu_indices(6, 1)]).max() < 0.02


@pytest.mark.parametrize("measure", MEASURES)
def test_models_added_to_a_matrix_give_the_matrix_of_all(tmp_path: Path, measure: str) -> None:
    arrays = related_features()
    whole = matrix_of(tmp_path, arrays, measure)
    known = matrix_of(tmp_path, arrays[:2], measure)
    extended = matrix_of(tmp_path, arrays, measure, known=known)
    assert extended.models == whole.models
    np.testing.assert_allclose(extended.values, whole.values, atol=1e-12)
    np.testing.assert_array_equal(extended.values[:2, :2], known.values)
