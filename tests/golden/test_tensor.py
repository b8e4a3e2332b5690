"""Tensor decomposition across layers, against a higher-order SVD of the unfolded tensor."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from study import BLOCK, SPECTRAL, Model, Study, assert_agree

from mergeloom.errors import MergeloomError
from mergeloom.merging import group

LAYERS = 3
STACKS = ("attn.in_proj_weight", "attn.out_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
ENERGIES = {"energy_task": 0.9, "energy_layer": 0.8, "energy_out": 0.95, "energy_in": 0.7}


def tsv(deltas: np.ndarray) -> np.ndarray:
    """TSV-M of matrices [T, m, n]."""
    kept = min(deltas.shape[1:]) // len(deltas)
    left, values, right = np.linalg.svd(deltas, full_matrices=False)

    def polar(blocks: np.ndarray) -> np.ndarray:
        u, _, vt = np.linalg.svd(blocks, full_matrices=False)
        return u @ vt

    middle = np.concatenate(values[:, :kept])
    return (polar(np.hstack(left[:, :, :kept])) * middle) @ polar(np.vstack(right[:, :kept]))


def projected(tensor: np.ndarray, mode: int, rank: int | None, energy: float | None) -> np.ndarray:
    """The tensor on the leading left singular vectors of its own unfolding along a mode."""
    unfolded = np.moveaxis(tensor, mode, 0).reshape(tensor.shape[mode], -1)
    left, values, _ = np.linalg.svd(unfolded, full_matrices=False)
    if energy is not None:
        shares = np.cumsum(values**2) / np.sum(values**2)
        rank = None if energy >= 1 else int(np.argmax(shares >= energy)) + 1
    return left[:, :rank] @ left[:, :rank].T


def decomposed(
    deltas: Model,
    ranks: tuple[int | None, ...] = (None,) * 4,
    energies: tuple[float, ...] | None = None,
    weights: tuple[float, ...] | None = None,
) -> Model:
    """Merged matrices of all blocks: every factor is from the whole tensor, none from a rest."""
    merged = {}
    for name in STACKS:
        tensor = np.stack([deltas[BLOCK.format(i) + name] for i in range(LAYERS)], axis=1)
        result = tensor
        for mode in range(4):
            energy = energies[mode] if energies else None
            projector = projected(tensor, mode, ranks[mode], energy)
            result = np.moveaxis(np.tensordot(projector, result, (1, mode)), 0, mode)
        shares = np.array(weights or [1.0] * len(tensor))
        merged |= {
            BLOCK.format(i) + name: np.tensordot(shares / shares.sum(), result[:, i], 1)
            for i in range(LAYERS)
        }
    return merged


def expected(deltas: Model, fallback: str = "tsv", **choices: Any) -> Model:
    """The whole merged model: stacks decomposed, the rest by TSV-M or the mean."""
    rest = {
        key: tsv(d) if fallback == "tsv" and d.ndim == 3 else d.mean(0) for key, d in deltas.items()
    }
    return rest | decomposed(deltas, **choices)


def test_at_full_rank_it_is_the_mean(study: Study) -> None:
    result = study.merge("tensor_decomp", {"fallback": "mean"})
    assert_agree(result, {key: d.mean(0) for key, d in study.deltas.items()}, SPECTRAL)


def test_what_is_in_no_stack_is_merged_by_tsv(study: Study) -> None:
    assert_agree(study.merge("tensor_decomp"), expected(study.deltas), SPECTRAL)


@pytest.mark.parametrize("ranks", [(2, 2, 7, 5), (4, 1, None, None), (None, None, 9, None)])
def test_fixed_ranks(study: Study, ranks: tuple[int | None, ...]) -> None:
    names = ("rank_task", "rank_layer", "rank_out", "rank_in")
    result = study.merge("tensor_decomp", dict(zip(names, ranks, strict=True)))
    assert_agree(result, expected(study.deltas, ranks=ranks), SPECTRAL)


def test_ranks_above_the_size_of_a_mode_keep_all_of_it(study: Study) -> None:
    result = study.merge("tensor_decomp", {"rank_task": 99, "rank_out": 999})
    assert_agree(result, expected(study.deltas), SPECTRAL)


def test_energies(study: Study) -> None:
    result = study.merge("tensor_decomp", {"rank_strategy": "energy", **ENERGIES})
    assert_agree(result, expected(study.deltas, energies=tuple(ENERGIES.values())), SPECTRAL)


def test_energies_by_default_reduce_tasks_and_layers(study: Study) -> None:
    result = study.merge("tensor_decomp", {"rank_strategy": "energy"})
    assert_agree(result, expected(study.deltas, energies=(0.95, 0.95, 1.0, 1.0)), SPECTRAL)


def test_weights_are_scaled_to_the_sum_1(study: Study) -> None:
    weights = (3.0, 1.0, 2.0, 2.0)
    result = study.merge("tensor_decomp", {"weights": list(weights), "rank_task": 3})
    wanted = expected(study.deltas, ranks=(3, None, None, None), weights=weights)
    assert_agree(result, wanted, SPECTRAL)


def test_permuting_tasks_changes_nothing(study: Study) -> None:
    parameters = {"rank_strategy": "energy", **ENERGIES}
    one = study.merge("tensor_decomp", parameters)
    other = study.merge("tensor_decomp", parameters, experts=study.task_vectors[::-1])
    assert_agree(other, one, SPECTRAL)


def test_how_the_tensor_is_taken_apart_changes_nothing(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = {"rank_strategy": "energy", **ENERGIES}
    whole = study.merge("tensor_decomp", parameters)
    monkeypatch.setattr(group, "_ELEMENTS", 256)
    assert_agree(study.merge("tensor_decomp", parameters, workers=1), whole, 1e-6)


def test_one_expert_stays_itself(study: Study) -> None:
    result = study.merge("tensor_decomp", experts=study.task_vectors[:1])
    assert_agree(result, {key: d[0] for key, d in study.deltas.items()}, SPECTRAL)


def test_experts_equal_to_the_base_give_nothing(folder: Path) -> None:
    from safetensors.numpy import load_file, save_file

    study = Study(folder, tasks=2)
    for path in study.task_vectors:
        save_file({key: 0 * value for key, value in load_file(path).items()}, path)
    result = study.merge("tensor_decomp", {"rank_strategy": "energy"})
    assert not any(tensor.any() for tensor in result.values())


def test_as_many_weights_as_tasks_are_needed(study: Study) -> None:
    with pytest.raises(MergeloomError, match="2 weights for 4 tasks"):
        study.merge("tensor_decomp", {"weights": [1, 2]})


@pytest.mark.parametrize(
    "parameters",
    [{"rank_task": 0}, {"energy_in": 1.5}, {"weights": [1, -1, 1, 1]}, {"fallback": "ties"}],
)
def test_parameters_out_of_range_are_errors(study: Study, parameters: dict[str, Any]) -> None:
    with pytest.raises(MergeloomError, match=next(iter(parameters))):
        study.merge("tensor_decomp", parameters)
