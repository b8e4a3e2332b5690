"""A small CLIP image tower that open_clip builds, and the same in float64 numpy by stages."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from scipy.special import erf

from mergeloom.models.family import get_family

LAYERS, HEADS, CLASSES, COUNT = 2, 2, 4, 6
ENCODER = {
    "family": "clip",
    "architecture": {
        "embed_dim": 10,
        "vision_cfg": {
            "image_size": 8,
            "patch_size": 4,
            "width": 16,
            "layers": LAYERS,
            "head_width": 8,
            "mlp_ratio": 2.0,
        },
        "text_cfg": {"context_length": 4, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1},
    },
    "image": {"size": 8, "mean": [0.5, 0.4, 0.3], "std": [0.25, 0.2, 0.3]},
}
Weights = dict[str, np.ndarray]
See = Callable[[str, np.ndarray], None]


class Tower:
    """Base, T experts as task vectors, a head and images of each task, as files and arrays."""

    def __init__(self, folder: Path, tasks: int = 3) -> None:
        torch.manual_seed(0)
        model = get_family("clip").build(ENCODER["architecture"])
        rng = np.random.default_rng(0)
        self.base = folder / "base.safetensors"
        start = {key: value.contiguous().numpy() for key, value in model.state_dict().items()}
        save_file(start, self.base)
        keys = [key for key in start if key.startswith("visual.")]
        self.start: Weights = {key: np.float64(start[key]) for key in keys}
        self.experts: list[Weights] = []
        self.task_vectors, self.heads = [], []
        self.pixels = [
            rng.integers(0, 256, (COUNT, 8, 8, 3), dtype=np.uint8) // (1 + task)
            for task in range(tasks)
        ]
        for task in range(tasks):
            delta = {key: np.float32(0.1 * rng.standard_normal(start[key].shape)) for key in keys}
            self.task_vectors.append(folder / f"{task}.task_vector.safetensors")
            save_file(delta, self.task_vectors[-1])
            # As the model that is measured has them.
            self.experts.append({key: np.float64(start[key] + delta[key]) for key in keys})
            self.heads.append(folder / f"{task}.head.safetensors")
            head = np.float32(3 * rng.standard_normal((CLASSES, 10)))
            save_file({"weight": head}, self.heads[-1])

    @property
    def deltas(self) -> list[Weights]:
        """Task vectors."""
        return [{k: e[k] - self.start[k] for k in e} for e in self.experts]

    def images(self, task: int) -> np.ndarray:
        """Normalised images [n, 3, s, s]."""
        mean, std = (np.array(ENCODER["image"][name]) for name in ("mean", "std"))
        return ((self.pixels[task] / 255 - mean) / std).transpose(0, 3, 1, 2)


def stage(weights: Weights, index: int, inputs: np.ndarray, see: See = lambda key, x: None):
    """Apply the embedding (index 0), a block, or the projection (index LAYERS + 1)."""
    if index == 0:
        return embed(weights, inputs)
    if index <= LAYERS:
        prefix = f"visual.transformer.resblocks.{index - 1}."
        return block({k.removeprefix(prefix): v for k, v in weights.items()}, prefix, inputs, see)
    x = layer_norm(inputs, weights["visual.ln_post.weight"], weights["visual.ln_post.bias"])[:, 0]
    see("visual.proj", x)
    return x @ weights["visual.proj"]


def embed(weights: Weights, images: np.ndarray) -> np.ndarray:
    kernel = weights["visual.conv1.weight"]
    size = kernel.shape[-1]
    patches = [
        images[:, :, i : i + size, j : j + size].reshape(len(images), -1)
        for i in range(0, images.shape[2], size)
        for j in range(0, images.shape[3], size)
    ]
    tokens = np.stack(patches, axis=1) @ kernel.reshape(len(kernel), -1).T
    first = np.broadcast_to(weights["visual.class_embedding"], (len(images), 1, len(kernel)))
    x = np.concatenate([first, tokens], axis=1) + weights["visual.positional_embedding"]
    return layer_norm(x, weights["visual.ln_pre.weight"], weights["visual.ln_pre.bias"])


def block(w: Weights, prefix: str, x: np.ndarray, see: See) -> np.ndarray:
    fed = layer_norm(x, w["ln_1.weight"], w["ln_1.bias"])
    see(f"{prefix}attn.in_proj_weight", fed)
    packed = fed @ w["attn.in_proj_weight"].T + w["attn.in_proj_bias"]
    heads = []
    for q, k, v in zip(
        *(np.split(part, HEADS, -1) for part in np.split(packed, 3, -1)), strict=True
    ):
        scores = q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1])
        odds = np.exp(scores - scores.max(-1, keepdims=True))
        heads.append(odds / odds.sum(-1, keepdims=True) @ v)
    fed = np.concatenate(heads, -1)
    see(f"{prefix}attn.out_proj.weight", fed)
    x = x + fed @ w["attn.out_proj.weight"].T + w["attn.out_proj.bias"]
    fed = layer_norm(x, w["ln_2.weight"], w["ln_2.bias"])
    see(f"{prefix}mlp.c_fc.weight", fed)
    fed = fed @ w["mlp.c_fc.weight"].T + w["mlp.c_fc.bias"]
    fed = fed * (1 + erf(fed / np.sqrt(2))) / 2
    see(f"{prefix}mlp.c_proj.weight", fed)
    return x + fed @ w["mlp.c_proj.weight"].T + w["mlp.c_proj.bias"]


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * weight + bias


def grams(weights: Weights, index: int, inputs: np.ndarray) -> Weights:
    """Gram matrices of what the linear maps of a stage are fed."""
    found: Weights = {}

    def see(key: str, x: np.ndarray) -> None:
        rows = x.reshape(-1, x.shape[-1])
        found[key] = rows.T @ rows / len(rows)

    stage(weights, index, inputs, see)
    return found


def merged(
    key: str, weights: Sequence[np.ndarray], grams: Sequence[np.ndarray], shrink: float
) -> np.ndarray:
    """RegMean's weights of one linear map."""
    shrunk = [g * (shrink + (1 - shrink) * np.eye(len(g))) for g in grams]
    sides = [w if key == "visual.proj" else w.T for w in weights]
    solved = np.linalg.solve(sum(shrunk), sum(g @ w for g, w in zip(shrunk, sides, strict=True)))
    return solved if key == "visual.proj" else solved.T
