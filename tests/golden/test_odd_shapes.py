"""Models with parameters of odd shapes: every method takes them, or leaves them to the mean."""

from pathlib import Path

import numpy as np
import pytest
from given_data import options_for
from safetensors.numpy import save_file
from study import SPECTRAL, assert_agree

from mergeloom.io.tensors import TensorFile
from mergeloom.merging.engine import merge_files, plan_merge
from mergeloom.merging.method import methods

SHAPES = {
    "layers.0.weight": (90, 3),
    "layers.1.weight": (3, 90),
    "layers.0.empty": (0, 4),
    "layers.1.empty": (0,),
    "scale": (),
    "one": (1, 1),
}


def merge(folder: Path, method: str, tasks: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    paths = [folder / f"{name}.safetensors" for name in ("base", *range(tasks))]
    for path in paths:
        save_file(
            {k: np.array(rng.standard_normal(s), np.float32) for k, s in SHAPES.items()}, path
        )
    maps = {"layers.0.weight": 1, "layers.1.weight": 0}
    given = options_for(method, paths[0], paths[1:], SHAPES, maps)
    out = folder / "out.safetensors"
    merge_files(paths[0], paths[1:], plan_merge(method), out, "generic", **given)
    with TensorFile(folder / "out.safetensors") as file:
        return {key: file.read(key).double().numpy() for key in file}


@pytest.mark.parametrize("method", sorted(methods()))
def test_every_method_gives_every_parameter_a_finite_value(tmp_path: Path, method: str) -> None:
    tasks = 2 if method == "slerp" else 3
    merged = merge(tmp_path, method, tasks)
    lead = (tasks,) if methods()[method].per_task else ()
    assert {key: value.shape for key, value in merged.items()} == {
        key: (*lead, *shape) for key, shape in SHAPES.items()
    }
    assert all(np.isfinite(value).all() for value in merged.values())


def test_knots_takes_the_smaller_gram_matrix_of_a_tall_matrix(tmp_path: Path) -> None:
    """90 rows, and 9 columns of all tasks: against the singular value decomposition itself."""
    merged = merge(tmp_path, "knots")
    with TensorFile(tmp_path / "0.safetensors") as file:
        assert file.shape("layers.0.weight") == (90, 3)
    key = "layers.0.weight"
    deltas = []
    for task in range(3):
        with TensorFile(tmp_path / f"{task}.safetensors") as file:
            deltas.append(file.read(key).double().numpy())
    left, values, right = np.linalg.svd(np.hstack(deltas), full_matrices=False)
    coordinates = np.stack(np.hsplit(right, 3))
    kept = int(0.2 * coordinates[0].size) + 1
    for part in coordinates:
        part[np.abs(part) < np.sort(np.abs(part), axis=None)[-kept]] = 0
    sign = np.sign(coordinates.sum(0))
    agree = coordinates * sign > 0
    chosen = (coordinates * agree).sum(0) / np.maximum(agree.sum(0), 1)
    assert_agree({key: merged[key]}, {key: left * values @ chosen}, SPECTRAL)
