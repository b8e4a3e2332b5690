"""A small ViT and its fine-tuned models as files, and how merged files are held against formulas.

The formulas are stated in the test files in float64 numpy, over whole models: mappings of parameter
names to task vectors [T, *shape]. They share no code with what they test.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from mergeloom.io.tensors import TensorFile
from mergeloom.merging.engine import merge_files, plan_merge

Model = dict[str, np.ndarray]
ELEMENTWISE, SPECTRAL = 1e-5, 1e-4  # relative Frobenius error of a tensor that may not be exceeded
BLOCK = "visual.transformer.resblocks.{}."


def vit_shapes(width: int = 32, layers: int = 3, positions: int = 10) -> dict[str, tuple[int, ...]]:
    """Parameters of an image tower as open_clip names them."""
    shapes: dict[str, tuple[int, ...]] = {
        "visual.class_embedding": (width,),
        "visual.conv1.weight": (width, 3, 4, 4),
        "visual.positional_embedding": (positions, width),
        "visual.ln_pre.weight": (width,),
        "visual.ln_post.bias": (width,),
        "visual.proj": (width, 24),
    }
    for layer in range(layers):
        block = {
            "ln_1.weight": (width,),
            "attn.in_proj_weight": (3 * width, width),
            "attn.in_proj_bias": (3 * width,),
            "attn.out_proj.weight": (width, width),
            "mlp.c_fc.weight": (4 * width, width),
            "mlp.c_fc.bias": (4 * width,),
            "mlp.c_proj.weight": (width, 4 * width),
        }
        shapes |= {BLOCK.format(layer) + name: shape for name, shape in block.items()}
    return shapes


def random_tensor(rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> np.ndarray:
    """Random float32 values; a matrix gets singular values that fall off as 1 / i."""
    if len(shape) != 2:
        return np.float32(scale * rng.standard_normal(shape))
    left, _ = np.linalg.qr(rng.standard_normal((shape[0], min(shape))))
    right, _ = np.linalg.qr(rng.standard_normal((shape[1], min(shape))))
    return np.float32(10 * left * (scale / np.arange(1, min(shape) + 1)) @ right.T)


@dataclass
class Study:
    """A base, T experts, and their task vectors [T, *shape] in float64."""

    folder: Path
    tasks: int = 4
    shapes: dict[str, tuple[int, ...]] = field(default_factory=vit_shapes)
    seed: int = 0

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.base = self.folder / "base.safetensors"
        start = {key: random_tensor(rng, shape, 0.5) for key, shape in self.shapes.items()}
        save_file({**start, "logit_scale": np.float32([4.6])}, self.base)
        self.checkpoints, self.task_vectors = [], []
        for task in range(self.tasks):
            expert = {k: start[k] + random_tensor(rng, s, 0.02) for k, s in self.shapes.items()}
            self.checkpoints.append(self.folder / f"task{task}.safetensors")
            self.task_vectors.append(self.folder / f"task{task}.task_vector.safetensors")
            save_file(expert, self.checkpoints[-1])
            save_file({key: expert[key] - start[key] for key in expert}, self.task_vectors[-1])

    @property
    def deltas(self) -> Model:
        """Task vectors [T, *shape], float64."""
        files = [load_file(path) for path in self.task_vectors]
        return {key: np.stack([np.float64(file[key]) for file in files]) for key in self.shapes}

    @property
    def weights(self) -> Model:
        """Parameters of the base, float64."""
        return {key: np.float64(tensor) for key, tensor in load_file(self.base).items()}

    def merge(
        self,
        method: str,
        parameters: Mapping[str, Any] | None = None,
        modifiers: Sequence[Mapping[str, Any]] = (),
        experts: Sequence[Path] | None = None,
        **options: Any,
    ) -> Model:
        """The merged task vector that mergeloom writes, read back in float64."""
        out = self.folder / "out" / "merged.safetensors"
        plan = plan_merge(method, parameters, modifiers)
        merge_files(self.base, experts or self.task_vectors, plan, out, "clip", **options)
        with TensorFile(out) as file:
            return {key: file.read(key).double().numpy() for key in file}


def matrices(model: Mapping[str, np.ndarray]) -> list[str]:
    """Names of the parameters whose task vectors [T, m, n] are of matrices."""
    return [key for key, deltas in model.items() if deltas.ndim == 3]


def assert_agree(result: Model, expected: Model, tolerance: float) -> None:
    """Every tensor within a relative Frobenius error of what is expected."""
    assert sorted(result) == sorted(expected)
    for key in expected:
        assert result[key].shape == expected[key].shape, key
        error = np.linalg.norm(result[key] - expected[key])
        assert error <= tolerance * np.linalg.norm(expected[key]), (key, error)
