"""Similarities do not depend on how the work is cut, nor on which way it goes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_similarity import related_features

from mergeloom.similarity import features, linear
from mergeloom.similarity.feature_sets import FeatureSet, open_feature_sets
from mergeloom.similarity.features import Features
from mergeloom.similarity.matrix import compare
from mergeloom.similarity.measure import get_measure, measures
from mergeloom.similarity.measures import rsa

TILES = [(9, 9), (9, 30), (64, 64), (64, 200), (1000, 1000)]
CUT = ["cka_linear", "cka_rbf", "rsa_pearson", "rsa_spearman", "mutual_knn"]


@pytest.fixture
def sets(tmp_path: Path) -> list[FeatureSet]:
    """Of four models on 130 rows."""
    paths = [tmp_path / f"{letter}.npy" for letter in "abcd"]
    for path, array in zip(paths, related_features(rows=130), strict=True):
        np.save(path, array)
    return open_feature_sets(paths)


def rows_of(measure: str, made: Features, **parameters: Any) -> np.ndarray:
    chosen = get_measure(measure)
    return chosen.function(made, **chosen.settings(parameters)).numpy()


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("measure", CUT)
def test_tiles_of_any_size_give_the_same(
    sets: list[FeatureSet], measure: str, tile: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "features_are_cheaper", lambda *_: False)
    whole = rows_of(measure, Features(sets, tile=(130, 130)))
    np.testing.assert_allclose(rows_of(measure, Features(sets, tile=tile)), whole, atol=1e-12)


@pytest.mark.parametrize("held", [0, 2**30])
@pytest.mark.parametrize("tile", TILES)
def test_ranks_by_cells_are_those_by_sorting(
    sets: list[FeatureSet], tile: tuple[int, int], held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rsa, "_HELD", held)
    found = rsa._spearman(Features(sets, tile=tile), streamed=True)
    expected = rsa._spearman(Features(sets), streamed=False)
    # Distances of the 8385 pairs that are closer than 1e-6 count as equal.
    np.testing.assert_allclose(found, expected, atol=3e-6)


@pytest.mark.parametrize("known", [0, 3])
@pytest.mark.parametrize("measure", ["cka_linear", "rsa_pearson"])
def test_kernels_and_features_give_the_same_products(
    sets: list[FeatureSet], measure: str, known: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for by_features in (True, False):
        monkeypatch.setattr(linear, "features_are_cheaper", lambda *_, way=by_features: way)
        found.append(rows_of(measure, Features(sets, known)))
    np.testing.assert_allclose(*found, atol=1e-12)


def test_the_way_with_fewer_operations_is_taken(sets: list[FeatureSet]) -> None:
    """n² Σ d against 2 n Σ d d': few features take the second, many the first."""
    made = Features(sets)
    assert linear.features_are_cheaper(made, [4, 4, 4, 4])
    assert not linear.features_are_cheaper(made, [400, 400, 400, 400])
    assert not linear.features_are_cheaper(made, [40, 40, 40, 20])
    assert linear.features_are_cheaper(Features(sets, known=3), [40, 40, 40, 20])


@pytest.mark.parametrize("measure", sorted(measures()))
def test_threads_change_nothing(sets: list[FeatureSet], measure: str) -> None:
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(rows_of(measure, Features(sets)))
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_allclose(*found, atol=1e-12)


@pytest.mark.parametrize("measure", ["cka_linear", "cka_rbf", "svcca"])
def test_features_in_temporary_files_give_the_same(
    sets: list[FeatureSet], measure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = rows_of(measure, Features(sets))
    monkeypatch.setattr(features, "_HELD", 0)
    np.testing.assert_array_equal(rows_of(measure, Features(sets)), expected)


def test_what_is_known_is_not_computed_again(
    sets: list[FeatureSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of four models are known: five of six pairs are left, and nothing but those is done."""
    known = compare(sets[:2], "procrustes")
    seen: list[tuple[int, ...]] = []
    svdvals = torch.linalg.svdvals
    monkeypatch.setattr(
        torch.linalg, "svdvals", lambda m: seen.append(tuple(m.shape)) or svdvals(m)
    )
    compare(sets, "procrustes", known=known)
    assert sorted(seen) == sorted([(7, 12), (7, 20), (31, 12), (31, 20), (31, 7)])
    seen.clear()
    compare(sets[:2], "procrustes", known=known)
    assert not seen


def test_new_models_may_stand_anywhere_among_the_files(sets: list[FeatureSet]) -> None:
    known = compare([sets[3], sets[1]], "cka_linear")
    found = compare(sets, "cka_linear", known=known)
    assert found.models == ("d", "b", "a", "c")
    whole = compare(sets, "cka_linear")
    order = [3, 1, 0, 2]
    np.testing.assert_allclose(found.values, whole.values[np.ix_(order, order)], atol=1e-12)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("measure", sorted(measures()))
def test_a_gpu_gives_what_the_processor_gives(tmp_path: Path, measure: str) -> None:
    paths = [tmp_path / f"{letter}.npy" for letter in "abcd"]
    for path, array in zip(paths, related_features(rows=1500), strict=True):
        np.save(path, np.float32(array))
    sets = open_feature_sets(paths)
    found = compare(sets, measure, device="cuda")
    np.testing.assert_allclose(found.values, compare(sets, measure).values, atol=2e-6)
