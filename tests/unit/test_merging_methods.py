"""Merge methods against independent float64 statements of their formulas."""

import numpy as np
import pytest
import torch
from conftest import decaying

from mergeloom.errors import MergeloomError
from mergeloom.merging.method import Factors, check_parameters, describe, get_method, merger

SHAPES = [(24, 24), (72, 24), (24, 96), (5, 24), (24, 16)]


def deltas_of(shape: tuple[int, ...], tasks: int = 4, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(np.stack([decaying(rng, shape) for _ in range(tasks)]))


def factors_of(deltas: torch.Tensor) -> Factors:
    """What the engine gives to a method that asks for `svd`, by numpy in float64."""
    tasks, rows, columns = deltas.shape
    kept = min(rows, columns) // tasks
    U, S, Vt = np.linalg.svd(deltas.double().numpy(), full_matrices=False)
    parts = U[:, :, :kept], S[:, :kept], Vt[:, :kept]
    return Factors(*(torch.from_numpy(np.float32(part)) for part in parts))


def merge(name: str, deltas: torch.Tensor) -> torch.Tensor:
    method = get_method(name)
    inputs = {"deltas": deltas, "svd": factors_of(deltas) if "svd" in method.inputs else None}
    return method.function(*(inputs[i] for i in method.inputs))


def relative_error(result: torch.Tensor, expected: np.ndarray) -> float:
    return float(np.linalg.norm(result.double().numpy() - expected) / np.linalg.norm(expected))


def polar(values: np.ndarray) -> np.ndarray:
    left, _, right = np.linalg.svd(values, full_matrices=False)
    return left @ right


def tsv_of_the_paper(deltas: np.ndarray) -> np.ndarray:
    """Algorithm 1 of arXiv 2412.00081, with factors that hold exactly T·k vectors."""
    tasks, rows, columns = deltas.shape
    kept = int(min(rows, columns) * (1 / tasks))
    triples = [np.linalg.svd(delta, full_matrices=False) for delta in deltas]
    left = np.hstack([u[:, :kept] for u, _, _ in triples])
    values = np.concatenate([s[:kept] for _, s, _ in triples])
    right = np.vstack([vt[:kept] for _, _, vt in triples])
    return polar(left) @ np.diag(values) @ polar(right)


def tsv_of_the_code(deltas: np.ndarray) -> np.ndarray:
    """The same as the paper's code writes it: factors padded with zeros to r vectors."""
    tasks, rows, columns = deltas.shape
    rank = min(rows, columns)
    kept = int(rank * (1 / tasks))
    left, values, right = np.zeros((rows, rank)), np.zeros(rank), np.zeros((rank, columns))
    for task, delta in enumerate(deltas):
        u, s, vt = np.linalg.svd(delta, full_matrices=False)
        span = slice(task * kept, (task + 1) * kept)
        left[:, span], values[span], right[span] = u[:, :kept], s[:kept], vt[:kept]
    return polar(left) @ np.diag(values) @ polar(right)


@pytest.mark.parametrize("shape", [(7,), (24, 3, 4, 4), (), *SHAPES])
def test_averaging_methods_are_their_formulas(shape: tuple[int, ...]) -> None:
    deltas = deltas_of(shape)
    exact = deltas.double().numpy()
    expected = {
        "zeroshot": np.zeros(shape),
        "weight_average": exact.sum(0) / 4,
        "task_arithmetic": exact.sum(0),
    }
    for name, values in expected.items():
        result = merge(name, deltas)
        assert result.dtype == torch.float32
        assert result.shape == shape
        np.testing.assert_allclose(result.numpy(), values, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("tasks", [1, 2, 3, 5])
def test_tsv_is_algorithm_1_of_its_paper(shape: tuple[int, int], tasks: int) -> None:
    deltas = deltas_of(shape, tasks)
    result = merge("tsv", deltas)
    exact = deltas.double().numpy()
    assert result.dtype == torch.float32
    assert relative_error(result, tsv_of_the_paper(exact)) < 1e-4
    assert relative_error(result, tsv_of_the_code(exact)) < 1e-4


@pytest.mark.parametrize("shape", SHAPES)
def test_isotropic_is_the_mean_singular_value_times_the_polar_factor(
    shape: tuple[int, int],
) -> None:
    deltas = deltas_of(shape)
    left, values, right = np.linalg.svd(deltas.double().numpy().sum(0), full_matrices=False)
    result = merge("isotropic", deltas)
    assert result.dtype == torch.float32
    assert relative_error(result, values.mean() * left @ right) < 1e-4


def test_isotropic_keeps_the_nuclear_norm_and_flattens_the_spectrum() -> None:
    deltas = deltas_of((72, 24))
    spectrum = np.linalg.svd(merge("isotropic", deltas).double().numpy(), compute_uv=False)
    expected = np.linalg.svd(deltas.sum(0).double().numpy(), compute_uv=False).mean()
    np.testing.assert_allclose(spectrum, expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["weight_average", "task_arithmetic", "tsv"])
@pytest.mark.parametrize("shape", SHAPES)
def test_merging_one_task_gives_its_task_vector(name: str, shape: tuple[int, int]) -> None:
    deltas = deltas_of(shape, tasks=1)
    assert relative_error(merge(name, deltas), deltas[0].double().numpy()) < 1e-5


@pytest.mark.parametrize("name", ["weight_average", "task_arithmetic", "tsv", "isotropic"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_order_of_tasks_does_not_matter(name: str, shape: tuple[int, int]) -> None:
    deltas = deltas_of(shape)
    expected = merge(name, deltas).double().numpy()
    assert relative_error(merge(name, deltas[[2, 0, 3, 1]]), expected) < 1e-5


@pytest.mark.parametrize("name", ["weight_average", "task_arithmetic", "tsv", "isotropic"])
@pytest.mark.parametrize("shape", SHAPES)
def test_scaling_all_task_vectors_scales_the_merge(name: str, shape: tuple[int, int]) -> None:
    deltas = deltas_of(shape)
    expected = -3e-3 * merge(name, deltas).double().numpy()
    assert relative_error(merge(name, -3e-3 * deltas), expected) < 1e-5


@pytest.mark.parametrize("name", ["weight_average", "task_arithmetic", "tsv", "isotropic"])
def test_merging_zero_gives_zero(name: str) -> None:
    assert torch.equal(merge(name, torch.zeros(3, 8, 6)), torch.zeros(8, 6))


def test_a_task_that_learned_nothing_does_not_disturb_tsv() -> None:
    deltas = torch.cat([deltas_of((24, 16), tasks=3), torch.zeros(1, 24, 16)])
    with_zero, without = factors_of(deltas), factors_of(deltas)
    # What truncated_svd gives for a zero matrix: no vectors made up.
    for part in (with_zero.U, with_zero.Vt):
        part[3] = 0
    without = Factors(without.U[:3], without.S[:3], without.Vt[:3])
    function = get_method("tsv").function
    torch.testing.assert_close(function(with_zero), function(without))


def test_tsv_with_more_tasks_than_singular_values_is_an_error() -> None:
    with pytest.raises(MergeloomError, match=r"6 tasks.*5 rows and 24 columns"):
        merge("tsv", deltas_of((5, 24), tasks=6))


def test_published_scales() -> None:
    names = ("zeroshot", "weight_average", "task_arithmetic", "tsv", "isotropic")
    assert [get_method(n).alpha for n in names] == [0.0, 1.0, 0.3, 1.0, 1.0]
    assert [get_method(n).on for n in names] == ["all"] * 3 + ["matrices"] * 2


def test_an_unknown_method_is_an_error_that_lists_those_that_exist() -> None:
    with pytest.raises(MergeloomError, match=r"tsvm.*isotropic, task_arithmetic, tsv") as caught:
        get_method("tsvm")
    assert "'tsvm'" in str(caught.value)


def test_inputs_and_parameters_are_read_from_the_signature() -> None:
    def function(deltas: torch.Tensor, svd: Factors, *, density: float = 0.2) -> torch.Tensor:
        return deltas[0]

    method = describe(function, "example", arxiv="1234.56789", alpha=0.5, on="matrices")
    assert method.inputs == ("deltas", "svd")
    assert method.parameters == {"density": 0.2}
    assert check_parameters(method, {}) == {"density": 0.2}
    assert check_parameters(method, {"density": 0.4}) == {"density": 0.4}
    with pytest.raises(MergeloomError, match=r"no parameter densty.*density \(default 0\.2\)"):
        check_parameters(method, {"densty": 0.4})
    with pytest.raises(MergeloomError, match="It has: none"):
        check_parameters(get_method("tsv"), {"density": 0.4})


def test_a_method_with_unknown_inputs_or_parameters_without_default_is_a_programming_error() -> (
    None
):
    with pytest.raises(TypeError, match="gradients"):
        describe(lambda gradients: gradients, "example")
    with pytest.raises(TypeError, match="density"):
        describe(lambda deltas, *, density: deltas, "example")
    get_method("tsv")
    with pytest.raises(ValueError, match="tsv"):
        merger("tsv")(lambda deltas: deltas)
