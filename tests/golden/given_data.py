"""Fisher information, Gram matrices and measurements as a merge gets them, with given numbers."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

from mergeloom.merging.method import methods
from mergeloom.models.stages import LinearMap

Shapes = Mapping[str, tuple[int, ...]]


def maps_of(shapes: Shapes) -> dict[str, int]:
    """The linear maps among the parameters of a ViT, and which of their dimensions inputs meet."""
    ends = ("in_proj_weight", "out_proj.weight", "c_fc.weight", "c_proj.weight")
    found = {key: 1 for key in shapes if key.endswith(ends)}
    return found | {key: 0 for key in shapes if key == "visual.proj"}


def save(path: Path, tensors: Mapping[str, np.ndarray], made_of: Sequence[Path]) -> Path:
    """A file of a statistic that knows what it was made of."""
    digests = sorted(hashlib.sha256(p.read_bytes()).hexdigest() for p in made_of)
    given = {key: np.array(value, np.float32, order="C") for key, value in tensors.items()}
    save_file(given, path, {"source": " ".join(digests)})
    return path


def random_fisher(shapes: Shapes, seed: int) -> dict[str, np.ndarray]:
    """Positive numbers over many orders of magnitude, and zeros; float32."""
    rng = np.random.default_rng(seed)
    return {
        key: np.float32(10 ** rng.uniform(-9, -2, shape) * (rng.random(shape) > 0.1))
        for key, shape in shapes.items()
    }


def random_inputs(shapes: Shapes, maps: Mapping[str, int], seed: int) -> dict[str, np.ndarray]:
    """What each map is fed [40, in], with directions of very different lengths; float32."""
    rng = np.random.default_rng(seed)
    return {
        key: np.float32(
            rng.standard_normal((40 + 4 * shapes[key][dim], shapes[key][dim]))
            * 10 ** rng.uniform(-2, 1, shapes[key][dim])
            @ np.linalg.qr(rng.standard_normal((shapes[key][dim],) * 2))[0]
        )
        for key, dim in maps.items()
    }


def gram(inputs: np.ndarray) -> np.ndarray:
    """XᵀX / n, as float32 holds it."""
    wide = np.float64(inputs)
    return np.float32(wide.T @ wide / len(wide))


class Measured:
    """Stands for examples on their way: measures the same Gram matrices whatever the weights."""

    def __init__(self, grams: Sequence[Mapping[str, np.ndarray]], maps: Mapping[str, int]) -> None:
        self._grams, self._maps = grams, maps

    def measure(
        self, stage: int, task: int, weights: Mapping[str, torch.Tensor]
    ) -> dict[LinearMap, torch.Tensor]:
        """The Gram matrices of the maps that are in the stage."""
        return {
            LinearMap(key, dim): torch.from_numpy(self._grams[task][key])
            for key, dim in self._maps.items()
            if key in weights
        }

    def advance(self, stage: int, weights: Mapping[str, torch.Tensor]) -> None:
        """Nothing moves."""


def options_for(
    method: str, base: Path, experts: Sequence[Path], shapes: Shapes, maps: Mapping[str, int]
) -> dict[str, Any]:
    """What `merge_files` must be given for a method beside the experts: random numbers."""
    inputs, options = methods()[method].inputs, {}
    if "fisher" in inputs:
        options["fisher"] = [
            save(path.with_suffix(".fisher"), random_fisher(shapes, task), [base, path])
            for task, path in enumerate(experts)
        ]
    if {"gram", "propagated"} & set(inputs):
        grams = [
            {key: gram(value) for key, value in random_inputs(shapes, maps, task).items()}
            for task in range(len(experts))
        ]
        if "propagated" in inputs:
            options["propagation"] = Measured(grams, maps)
        else:
            options["gram"] = [
                save(
                    path.with_suffix(".gram"),
                    {f"{key}.{maps[key]}": value for key, value in matrices.items()},
                    [base, path],
                )
                for path, matrices in zip(experts, grams, strict=True)
            ]
    return options
