"""A small CLIP and models fine-tuned from it, for the unit tests."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

VIT_WIDTH = 24
VIT_SHAPES = {
    "visual.conv1.weight": (VIT_WIDTH, 3, 4, 4),
    "visual.class_embedding": (VIT_WIDTH,),
    "visual.positional_embedding": (5, VIT_WIDTH),
    "visual.ln_pre.weight": (VIT_WIDTH,),
    "visual.transformer.resblocks.0.ln_1.bias": (VIT_WIDTH,),
    "visual.transformer.resblocks.0.attn.in_proj_weight": (3 * VIT_WIDTH, VIT_WIDTH),
    "visual.transformer.resblocks.0.attn.in_proj_bias": (3 * VIT_WIDTH,),
    "visual.transformer.resblocks.0.attn.out_proj.weight": (VIT_WIDTH, VIT_WIDTH),
    "visual.transformer.resblocks.0.mlp.c_fc.weight": (4 * VIT_WIDTH, VIT_WIDTH),
    "visual.transformer.resblocks.0.mlp.c_proj.weight": (VIT_WIDTH, 4 * VIT_WIDTH),
    "visual.proj": (VIT_WIDTH, 16),
}
TEXT_SHAPES = {"token_embedding.weight": (40, 8), "logit_scale": ()}


def decaying(rng: np.random.Generator, shape: tuple[int, ...], scale: float = 0.02) -> np.ndarray:
    """A random float32 tensor; a matrix gets singular values that fall off as 1 / i."""
    if len(shape) != 2:
        return np.asarray(scale * rng.standard_normal(shape), dtype=np.float32)
    left, _ = np.linalg.qr(rng.standard_normal((shape[0], min(shape))))
    right, _ = np.linalg.qr(rng.standard_normal((shape[1], min(shape))))
    return (left * (scale / np.arange(1, min(shape) + 1)) @ right.T).astype(np.float32)


@dataclass
class VitFiles:
    """A small CLIP and T models fine-tuned from it, as files and as arrays."""

    base: Path
    checkpoints: list[Path]
    task_vectors: list[Path]

    def load(self, path: Path) -> dict[str, np.ndarray]:
        """Arrays of a file, read by the safetensors library."""
        return load_file(path)

    def deltas(self, key: str) -> np.ndarray:
        """Task vectors [T, *shape] of one parameter in float64."""
        base = load_file(self.base)[key]
        return np.stack([np.float64(load_file(c)[key] - base) for c in self.checkpoints])


def write_vit_files(folder: Path) -> VitFiles:
    """Three experts: with tasks vectors of decaying spectra, written by the safetensors library."""
    rng = np.random.default_rng(0)
    base = {k: decaying(rng, s, 0.5) for k, s in (VIT_SHAPES | TEXT_SHAPES).items()}
    files = VitFiles(folder / "base.safetensors", [], [])
    save_file(base, files.base)
    for task in range(3):
        expert = {key: base[key] + decaying(rng, shape) for key, shape in VIT_SHAPES.items()}
        files.checkpoints.append(folder / f"task{task}" / "checkpoint.safetensors")
        files.task_vectors.append(folder / f"task{task}" / "task_vector.safetensors")
        files.checkpoints[-1].parent.mkdir()
        save_file(expert, files.checkpoints[-1])
        save_file({key: expert[key] - base[key] for key in expert}, files.task_vectors[-1])
    return files
