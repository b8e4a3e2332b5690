"""Methods on singular values and vectors, against their formulas."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from spectra import iso_c, iso_cts, of_matrices, polar, svd, tsv
from study import SPECTRAL, Study, assert_agree, matrices

from mergeloom.merging.task_vector import write_svd_cache

POSITIONS = "visual.positional_embedding"
METHODS = ["tsv", "tsv_c", "isotropic", "iso_cts", "knots", "wudi"]


def save(folder: Path, deltas: dict[str, np.ndarray]) -> list[Path]:
    """Write task vectors [T, *shape] to T files."""
    folder.mkdir(parents=True, exist_ok=True)
    tasks = len(next(iter(deltas.values())))
    paths = [folder / f"{task}.safetensors" for task in range(tasks)]
    for task, path in enumerate(paths):
        save_file({key: np.float32(delta[task]) for key, delta in deltas.items()}, path)
    return paths


def first(deltas: dict[str, np.ndarray], tasks: int) -> dict[str, np.ndarray]:
    return {key: delta[:tasks] for key, delta in deltas.items()}


def with_zero(study: Study) -> dict[str, np.ndarray]:
    """The task vectors of a study, the third replaced by zero."""
    deltas = study.deltas
    for delta in deltas.values():
        delta[2] = 0
    return deltas


def own_of_vectors(deltas: dict[str, np.ndarray], formula: Any) -> dict[str, np.ndarray]:
    return {k: np.stack([formula(d) for d in v]) if v.ndim == 3 else v for k, v in deltas.items()}


def knots_of_the_paper(deltas: np.ndarray, density: float = 0.2) -> np.ndarray:
    left, values, right = np.linalg.svd(np.concatenate(deltas, axis=1), full_matrices=False)
    kept = values > 1e-4 * values[0]
    blocks = np.stack(np.split(right[kept], len(deltas), axis=1))
    for block in blocks:
        few = min(int(density * block.size) + 1, block.size)
        block[np.abs(block) < np.sort(np.abs(block), axis=None)[-few]] = 0
    sign = np.sign(blocks.sum(0))
    agree = (np.sign(blocks) == sign) & (blocks != 0)
    merged = np.where(agree, blocks, 0).sum(0) / np.maximum(agree.sum(0), 1)
    return left[:, kept] * values[kept] @ merged


def interference(merged: np.ndarray, deltas: np.ndarray) -> float:
    """What WUDI minimises."""
    squares = [np.linalg.norm((merged - d) @ d.T) ** 2 / np.linalg.norm(d) ** 2 for d in deltas]
    return float(sum(squares))


def wudi_of_the_paper(
    deltas: np.ndarray, iterations: int = 300, learning_rate: float = 1e-5
) -> np.ndarray:
    merged = deltas.sum(0)
    moments = np.zeros((2, *merged.shape))
    for step in range(1, iterations + 1):
        gradient = sum(
            2 * (merged - d) @ d.T @ d / np.linalg.norm(d) ** 2 for d in deltas if d.any()
        )
        moments[0] = 0.9 * moments[0] + 0.1 * gradient
        moments[1] = 0.999 * moments[1] + 0.001 * gradient**2
        mean, square = moments[0] / (1 - 0.9**step), moments[1] / (1 - 0.999**step)
        merged = merged - learning_rate * mean / (np.sqrt(square) + 1e-8)
    return merged


@pytest.mark.parametrize("tasks", [1, 2, 3, 4])
def test_tsv_is_algorithm_1_of_its_paper(study: Study, tasks: int) -> None:
    result = study.merge("tsv", experts=study.task_vectors[:tasks])
    assert_agree(result, of_matrices(tsv, first(study.deltas, tasks)), SPECTRAL)


def test_tsv_is_what_the_papers_code_writes_with_factors_padded_to_the_rank(study: Study) -> None:
    def padded(deltas: np.ndarray) -> np.ndarray:
        tasks, rows, columns = deltas.shape
        rank = min(rows, columns)
        kept = int(rank * (1 / tasks))
        left, values, right = np.zeros((rows, rank)), np.zeros(rank), np.zeros((rank, columns))
        for task, delta in enumerate(deltas):
            u, s, vt = svd(delta)
            span = slice(task * kept, (task + 1) * kept)
            left[:, span], values[span], right[span] = u[:, :kept], s[:kept], vt[:kept]
        return polar(left) @ np.diag(values) @ polar(right)

    # The embedding of 10 positions keeps 2 directions of each of 4 tasks: 2 columns are padding.
    assert study.shapes[POSITIONS][0] % study.tasks
    assert_agree(study.merge("tsv"), of_matrices(padded, study.deltas), SPECTRAL)


def test_a_task_that_learned_nothing_does_not_disturb_tsv(study: Study, tmp_path: Path) -> None:
    def without_zeros(deltas: np.ndarray) -> np.ndarray:
        kept = min(deltas.shape[1:]) // len(deltas)
        triples = [svd(delta) for delta in deltas if delta.any()]
        left = np.hstack([u[:, :kept] for u, _, _ in triples])
        values = np.concatenate([s[:kept] for _, s, _ in triples])
        return polar(left) * values @ polar(np.vstack([vt[:kept] for _, _, vt in triples]))

    deltas = with_zero(study)
    result = study.merge("tsv", experts=save(tmp_path, deltas))
    assert_agree(result, of_matrices(without_zeros, deltas), SPECTRAL)


@pytest.mark.parametrize("tasks", [1, 4])
def test_tsv_c_is_the_truncated_svd_of_each_task_and_its_own_vectors(
    study: Study, tasks: int
) -> None:
    def truncated(delta: np.ndarray) -> np.ndarray:
        left, values, right = svd(delta)
        kept = min(delta.shape) // tasks
        return left[:, :kept] * values[:kept] @ right[:kept]

    expected = own_of_vectors(first(study.deltas, tasks), truncated)
    result = study.merge("tsv_c", experts=study.task_vectors[:tasks])
    assert_agree(result, expected, SPECTRAL)


@pytest.mark.parametrize("tasks", [2, 3])
def test_tsv_vectors_are_shares_of_the_sum_that_tsv_makes(study: Study, tasks: int) -> None:
    experts = study.task_vectors[:tasks]
    vectors = study.merge("tsv_vectors", experts=experts)
    summed = {key: values.sum(0) for key, values in vectors.items()}
    assert_agree(summed, study.merge("tsv", experts=experts), SPECTRAL)
    matrix = next(key for key in vectors if key.endswith("c_fc.weight"))
    shares = vectors[matrix].reshape(tasks, -1)
    # Columns and rows of different tasks are orthogonal, so that shares are.
    gram = shares @ shares.T
    np.testing.assert_allclose(gram - np.diag(np.diag(gram)), 0, atol=1e-5 * gram.max())


@pytest.mark.parametrize("method", ["tsv", "tsv_c"])
def test_a_matrix_of_fewer_directions_than_tasks_is_no_matrix_to_tsv(
    folder: Path, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    shapes = {POSITIONS: (3, 16), "visual.proj": (16, 12)}
    study = Study(folder, tasks=4, shapes=shapes)
    with caplog.at_level(logging.WARNING):
        result = study.merge(method)
    expected = study.deltas[POSITIONS]
    np.testing.assert_allclose(
        result[POSITIONS], expected if method == "tsv_c" else expected.mean(0), rtol=1e-5, atol=1e-9
    )
    assert POSITIONS in caplog.text
    assert "visual.proj" not in caplog.text


def test_isotropic_is_the_mean_singular_value_times_the_polar_factor(study: Study) -> None:
    assert_agree(study.merge("isotropic"), of_matrices(iso_c, study.deltas), SPECTRAL)


def test_isotropic_keeps_the_nuclear_norm_and_flattens_the_spectrum(study: Study) -> None:
    result, deltas = study.merge("isotropic"), study.deltas
    for key in matrices(deltas):
        spectrum = np.linalg.svd(result[key], compute_uv=False)
        mean = np.linalg.svd(deltas[key].sum(0), compute_uv=False).mean()
        np.testing.assert_allclose(spectrum, mean, rtol=1e-5)


@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("tasks", [2, 4])
def test_iso_cts_is_algorithm_2_of_its_paper(study: Study, tasks: int, fraction: float) -> None:
    result = study.merge(
        "iso_cts",
        {"common_space_fraction": fraction},
        experts=study.task_vectors[:tasks],
    )
    expected = of_matrices(iso_cts, first(study.deltas, tasks), fraction=fraction)
    assert_agree(result, expected, SPECTRAL)


@pytest.mark.parametrize(("tasks", "fraction"), [(1, 0.8), (4, 1.0)])
def test_iso_cts_of_one_task_or_of_a_common_space_that_is_all_is_iso_c(
    study: Study, tasks: int, fraction: float
) -> None:
    experts = study.task_vectors[:tasks]
    result = study.merge("iso_cts", {"common_space_fraction": fraction}, experts=experts)
    assert_agree(result, study.merge("isotropic", experts=experts), SPECTRAL)


@pytest.mark.parametrize("fraction", [0.8, 0.0])
def test_where_tasks_outnumber_the_directions_left_iso_cts_is_iso_c_and_says_so(
    folder: Path, fraction: float, caplog: pytest.LogCaptureFixture
) -> None:
    study = Study(folder, tasks=5, shapes={POSITIONS: (3, 40), "visual.proj": (40, 30)})
    with caplog.at_level(logging.WARNING):
        result = study.merge("iso_cts", {"common_space_fraction": fraction})
    assert_agree(result, of_matrices(iso_cts, study.deltas, fraction=fraction), SPECTRAL)
    np.testing.assert_allclose(
        result[POSITIONS], iso_c(study.deltas[POSITIONS]), rtol=1e-4, atol=1e-6
    )
    assert POSITIONS in caplog.text
    assert "visual.proj" not in caplog.text


def of_low_rank(folder: Path) -> tuple[Study, dict[str, np.ndarray]]:
    """Three task vectors, the first two equal, whose sum has rank 8. Integers: exactly so."""
    rng = np.random.default_rng(3)
    study = Study(folder, tasks=1, shapes={"visual.proj": (24, 24), "visual.a": (40, 21)})
    deltas = {}
    for key, (rows, columns) in study.shapes.items():
        parts = [
            rng.integers(-3, 4, (rows, rank)) @ rng.integers(-3, 4, (rank, columns))
            for rank in (3, 5)
        ]
        deltas[key] = np.float64([parts[0], parts[0], parts[1]])
        assert np.linalg.matrix_rank(deltas[key].sum(0)) == 8
    return study, deltas


def test_iso_cts_is_iso_c_where_no_task_has_anything_outside_the_common_space(
    folder: Path,
) -> None:
    study, deltas = of_low_rank(folder)
    result = study.merge("iso_cts", experts=save(folder / "experts", deltas))
    assert_agree(result, of_matrices(iso_c, deltas), SPECTRAL)


def test_iso_cts_counts_directions_that_tasks_share_once(folder: Path) -> None:
    study, deltas = of_low_rank(folder)
    experts = save(folder / "experts", deltas)
    result = study.merge("iso_cts", {"common_space_fraction": 0}, experts=experts)
    assert_agree(result, of_matrices(iso_cts, deltas, fraction=0), SPECTRAL)
    for tensor in result.values():
        values = np.linalg.svd(tensor, compute_uv=False)
        np.testing.assert_allclose(values[:8], values[0], rtol=1e-5)
        np.testing.assert_allclose(values[8:], 0, atol=1e-5 * values[0])


@pytest.mark.parametrize("density", [0.05, 0.2, 0.7, 1.0])
def test_knots_is_ties_in_the_common_singular_basis(study: Study, density: float) -> None:
    expected = of_matrices(knots_of_the_paper, study.deltas, density=density)
    assert_agree(study.merge("knots", {"density": density}), expected, SPECTRAL)


def test_knots_of_one_task_untrimmed_is_its_task_vector(study: Study) -> None:
    result = study.merge("knots", {"density": 1}, experts=study.task_vectors[:1])
    assert_agree(result, {k: d[0] for k, d in study.deltas.items()}, SPECTRAL)


def test_opposite_task_vectors_cancel_in_knots(study: Study, tmp_path: Path) -> None:
    deltas = {key: np.stack([delta[0], -delta[0]]) for key, delta in study.deltas.items()}
    result = study.merge("knots", experts=save(tmp_path, deltas))
    assert not any(tensor.any() for tensor in result.values())


def test_knots_keeps_all_entries_of_equal_magnitude(folder: Path) -> None:
    # A scaled orthogonal matrix of one magnitude: its coordinates have one magnitude, too.
    study = Study(folder, tasks=1, shapes={"visual.proj": (4, 4)})
    hadamard = np.float64([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]])
    experts = save(folder / "experts", {"visual.proj": np.stack([hadamard])})
    result = study.merge("knots", {"density": 0.25}, experts=experts)
    np.testing.assert_allclose(result["visual.proj"], hadamard, atol=1e-6)


@pytest.mark.parametrize(
    "parameters", [{}, {"iterations": 20, "learning_rate": 1e-3}, {"iterations": 0}]
)
def test_wudi_is_its_objective_under_adam(study: Study, parameters: dict[str, Any]) -> None:
    expected = of_matrices(wudi_of_the_paper, study.deltas, **parameters)
    assert_agree(study.merge("wudi", parameters), expected, SPECTRAL)


def test_wudi_lowers_the_interference_of_the_sum(study: Study) -> None:
    result, deltas = study.merge("wudi"), study.deltas
    for key in matrices(deltas):
        start = interference(deltas[key].sum(0), deltas[key])
        assert interference(result[key], deltas[key]) < 0.9 * start


def test_wudi_of_one_task_is_its_task_vector(study: Study) -> None:
    result = study.merge("wudi", experts=study.task_vectors[:1])
    assert_agree(result, {k: d[0] for k, d in study.deltas.items()}, 1e-7)


def test_wudi_leaves_out_a_task_vector_of_zero(study: Study, tmp_path: Path) -> None:
    deltas = with_zero(study)
    result = study.merge("wudi", experts=save(tmp_path, deltas))
    assert_agree(result, of_matrices(wudi_of_the_paper, deltas), SPECTRAL)


@pytest.mark.parametrize("method", ["tsv", "tsv_c", "isotropic"])
def test_merging_one_task_gives_its_task_vector_or_its_flat_spectrum(
    study: Study, method: str
) -> None:
    deltas = first(study.deltas, 1)
    expected = {
        "tsv": {key: delta[0] for key, delta in deltas.items()},
        "tsv_c": deltas,
        "isotropic": of_matrices(iso_c, deltas),
    }
    result = study.merge(method, experts=study.task_vectors[:1])
    assert_agree(result, expected[method], SPECTRAL)


@pytest.mark.parametrize("method", METHODS)
def test_permuting_tasks_changes_nothing(study: Study, method: str) -> None:
    order = [2, 0, 3, 1]
    expected = study.merge(method)
    if method == "tsv_c":
        expected = {key: tensor[order] for key, tensor in expected.items()}
    result = study.merge(method, experts=[study.task_vectors[i] for i in order])
    assert_agree(result, expected, 2e-5)


@pytest.mark.parametrize("method", METHODS)
def test_the_number_of_workers_does_not_change_a_byte(study: Study, method: str) -> None:
    one, two = study.merge(method, workers=1), study.merge(method, workers=2)
    assert all(np.array_equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("method", [m for m in METHODS if m != "wudi"])
def test_scaling_all_task_vectors_scales_the_merge(
    study: Study, tmp_path: Path, method: str
) -> None:
    deltas = {key: -3e-3 * delta for key, delta in study.deltas.items()}
    expected = {key: -3e-3 * tensor for key, tensor in study.merge(method).items()}
    assert_agree(study.merge(method, experts=save(tmp_path, deltas)), expected, 1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_merging_zero_gives_zero(study: Study, tmp_path: Path, method: str) -> None:
    experts = save(tmp_path, {key: 0 * delta for key, delta in study.deltas.items()})
    assert not any(tensor.any() for tensor in study.merge(method, experts=experts).values())


@pytest.mark.parametrize("method", METHODS)
def test_an_expert_equal_to_the_base_leaves_everything_finite(
    study: Study, tmp_path: Path, method: str
) -> None:
    result = study.merge(method, experts=save(tmp_path, with_zero(study)))
    assert all(np.isfinite(tensor).all() and tensor.any() for tensor in result.values())


@pytest.mark.parametrize("method", ["isotropic", "iso_cts"])
def test_a_cached_decomposition_of_the_sum_gives_the_same_merge(
    study: Study, tmp_path: Path, method: str
) -> None:
    cache = tmp_path / "sum.safetensors"
    write_svd_cache(study.task_vectors, cache, "clip", 1.0, "cpu")
    result = study.merge(method, summed=cache)
    assert_agree(result, study.merge(method), SPECTRAL)


def test_a_cached_decomposition_of_the_sum_is_taken_as_it_is(study: Study, tmp_path: Path) -> None:
    cache = tmp_path / "sum.safetensors"
    write_svd_cache(study.task_vectors, cache, "clip", 1.0, "cpu")
    with safe_open(cache, "numpy") as file:
        metadata = file.metadata()
    doubled = {k: (2 if k.endswith(".S") else 1) * v for k, v in load_file(cache).items()}
    save_file(doubled, cache, metadata)
    expected = {
        key: (2 if study.deltas[key].ndim == 3 else 1) * tensor
        for key, tensor in study.merge("isotropic").items()
    }
    assert_agree(study.merge("isotropic", summed=cache), expected, SPECTRAL)


@pytest.mark.parametrize("method", ["tsv", "tsv_c"])
def test_cached_decompositions_of_the_tasks_give_the_same_merge(
    study: Study, tmp_path: Path, method: str
) -> None:
    caches = [tmp_path / path.name for path in study.task_vectors]
    for path, cache in zip(study.task_vectors, caches, strict=True):
        write_svd_cache([path], cache, "clip", 0.25, "cpu")
    assert_agree(study.merge(method, svd=caches), study.merge(method), SPECTRAL)
