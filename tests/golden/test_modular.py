"""Dual merging against its formulas."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from spectra import iso_cts, polar, svd, tsv
from study import BLOCK, SPECTRAL, Model, Study, assert_agree

from mergeloom.merging.task_vector import write_svd_cache

METHODS = ["dual", "dual_tsv", "dual_truncated", "dual_cts"]
CONVOLUTION, POSITIONS = "visual.conv1.weight", "visual.positional_embedding"
PROJECTION = "visual.proj"
MAPS = ("attn.in_proj_weight", "attn.out_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")


def average(deltas: np.ndarray) -> np.ndarray:
    return deltas.mean(0)


def truncated_average(deltas: np.ndarray) -> np.ndarray:
    tasks, kept = len(deltas), min(deltas.shape[1:]) // len(deltas)
    triples = [svd(delta) for delta in deltas]
    return sum((u[:, :kept] * s[:kept] @ vt[:kept] for u, s, vt in triples)) / tasks


AGGREGATE = {
    "dual": average,
    "dual_tsv": tsv,
    "dual_truncated": truncated_average,
    "dual_cts": iso_cts,
}


def formula(deltas: Model, method: str, masses: str = "uniform", positional: bool = True) -> Model:
    """Dualised aggregates of a model whose composition is written out here."""
    layers = max(int(key.split(".")[3]) for key in deltas if "resblocks" in key) + 1
    atoms = [CONVOLUTION] + [POSITIONS] * positional
    atoms += [BLOCK.format(layer) + name for layer in range(layers) for name in MAPS]
    atoms += [PROJECTION]
    total = 4 * layers + 2 + positional
    assert len(atoms) == total
    # The projection's number is the number of maps: one is left out before it.
    numbers = [*range(total - 1), total]
    mass = {
        atom: 0.5 if masses == "uniform" else 0.01 + 0.49 * number / total
        for atom, number in zip(atoms, numbers, strict=True)
    }
    result = {}
    for key, delta in deltas.items():
        if key not in atoms:
            result[key] = delta.mean(0)
            continue
        share = mass[key] / sum(mass.values())
        scale = share * math.sqrt(delta.shape[1] / delta.shape[2])
        if delta.ndim == 3:
            result[key] = scale * polar(AGGREGATE[method](delta))
        else:
            mean = delta.mean(0)
            result[key] = np.empty_like(mean)
            kernel = mean.shape[2]
            for i in range(kernel):
                for j in range(kernel):
                    result[key][:, :, i, j] = scale / kernel**2 * polar(mean[:, :, i, j])
    return result


@pytest.mark.parametrize("positional", [True, False])
@pytest.mark.parametrize("masses", ["uniform", "linear"])
@pytest.mark.parametrize("method", METHODS)
def test_every_map_is_dualised_with_its_share_of_the_mass_and_its_units(
    study: Study, method: str, masses: str, positional: bool
) -> None:
    parameters = {"masses": masses, "positional": positional}
    expected = formula(study.deltas, method, masses, positional)
    assert_agree(study.merge(method, parameters), expected, SPECTRAL)


@pytest.mark.parametrize("method", ["dual_tsv", "dual_truncated"])
def test_convolutions_take_the_mean_if_the_rest_is_left_to_it(study: Study, method: str) -> None:
    expected = formula(study.deltas, method)
    expected[CONVOLUTION] = study.deltas[CONVOLUTION].mean(0)
    assert_agree(study.merge(method, {"fallback": "mean"}), expected, SPECTRAL)


@pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0])
def test_dual_cts_takes_the_fraction_of_iso_cts(study: Study, fraction: float) -> None:
    result = study.merge("dual_cts", {"common_space_fraction": fraction})
    isotropic = study.merge("iso_cts", {"common_space_fraction": fraction})
    expected = formula(study.deltas, "dual")
    for key, tensor in isotropic.items():
        if study.deltas[key].ndim == 3:
            scale = np.linalg.norm(expected[key], 2)
            expected[key] = tensor / np.linalg.norm(tensor, 2) * scale
    assert_agree(result, expected, SPECTRAL)


@pytest.mark.parametrize(("one", "other"), [("dual", "isotropic"), ("dual_cts", "iso_cts")])
def test_dual_and_isotropic_merging_share_the_polar_factor(
    study: Study, one: str, other: str
) -> None:
    dual, isotropic = study.merge(one), study.merge(other)
    for key, delta in study.deltas.items():
        if delta.ndim == 3:
            factors = [m[key] / np.linalg.norm(m[key]) for m in (dual, isotropic)]
            assert np.linalg.norm(factors[0] - factors[1]) <= SPECTRAL


def test_scales_of_a_vit_b_32_are_those_of_the_public_study(folder: Path) -> None:
    # Shapes of ViT-B-32 in units of 16 rows or columns; 12 blocks, so 51 maps.
    width = 48
    shapes: dict[str, tuple[int, ...]] = {
        CONVOLUTION: (width, 3, 2, 2),
        POSITIONS: (width // 3, width),
        PROJECTION: (width, 32),
    }
    for layer in range(12):
        sizes = [(3 * width, width), (width, width), (4 * width, width), (width, 4 * width)]
        shapes |= {BLOCK.format(layer) + name: size for name, size in zip(MAPS, sizes, strict=True)}
    study = Study(folder, tasks=2, shapes=shapes)
    result = study.merge("dual")
    block = BLOCK.format(7)
    expected = {
        block + MAPS[0]: math.sqrt(3) / 51,
        block + MAPS[1]: 1 / 51,
        block + MAPS[2]: 2 / 51,
        block + MAPS[3]: 0.5 / 51,
        PROJECTION: math.sqrt(768 / 512) / 51,
        POSITIONS: math.sqrt(1 / 3) / 51,
    }
    for key, scale in expected.items():
        values = np.linalg.svd(result[key], compute_uv=False)
        np.testing.assert_allclose(values, scale, rtol=1e-5)
    pixel = np.linalg.svd(result[CONVOLUTION][:, :, 1, 0], compute_uv=False)
    np.testing.assert_allclose(pixel, math.sqrt(width / 3) / (4 * 51), rtol=1e-5)


def test_a_matrix_of_fewer_directions_than_tasks_gets_the_dual_of_the_average(
    folder: Path,
) -> None:
    shapes = {CONVOLUTION: (8, 3, 2, 2), POSITIONS: (3, 16), PROJECTION: (16, 12)}
    shapes |= {BLOCK.format(0) + name: (16, 16) for name in MAPS}
    study = Study(folder, tasks=4, shapes=shapes)
    expected = formula(study.deltas, "dual")[POSITIONS]
    for method in ("dual_tsv", "dual_truncated"):
        np.testing.assert_allclose(study.merge(method)[POSITIONS], expected, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("tasks", [1, 3])
def test_any_number_of_tasks_can_be_merged(study: Study, method: str, tasks: int) -> None:
    deltas = {key: delta[:tasks] for key, delta in study.deltas.items()}
    result = study.merge(method, experts=study.task_vectors[:tasks])
    assert_agree(result, formula(deltas, method), SPECTRAL)


@pytest.mark.parametrize("method", METHODS)
def test_permuting_tasks_changes_nothing(study: Study, method: str) -> None:
    result = study.merge(method, experts=study.task_vectors[::-1])
    assert_agree(result, study.merge(method), 2e-5)


@pytest.mark.parametrize("method", METHODS)
def test_the_number_of_workers_does_not_change_a_byte(study: Study, method: str) -> None:
    one, two = study.merge(method, workers=1), study.merge(method, workers=2)
    assert all(np.array_equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("method", METHODS)
def test_cached_decompositions_give_the_same_merge(
    study: Study, tmp_path: Path, method: str
) -> None:
    caches: dict[str, Any] = {"summed": tmp_path / "sum.safetensors"}
    write_svd_cache(study.task_vectors, caches["summed"], "clip", 1.0, "cpu")
    caches["svd"] = [tmp_path / path.name for path in study.task_vectors]
    for path, cache in zip(study.task_vectors, caches["svd"], strict=True):
        write_svd_cache([path], cache, "clip", 0.25, "cpu")
    assert_agree(study.merge(method, **caches), study.merge(method), SPECTRAL)


@pytest.mark.parametrize("method", METHODS)
def test_what_no_task_changed_stays(study: Study, method: str) -> None:
    result = study.merge(method, experts=[study.base] * 2, checkpoints=True)
    assert not any(tensor.any() for tensor in result.values())
