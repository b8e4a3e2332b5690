"""A CLIP of two small blocks with task vectors of everything, and its forward pass in float64."""

import torch
from torch.func import functional_call

from mergeloom.io.tensors import TensorFile, write_tensors
from mergeloom.models.family import get_family

ENCODER = {
    "family": "clip",
    "architecture": {
        "embed_dim": 12,
        "vision_cfg": {
            "image_size": 8, "patch_size": 4, "width": 16, "layers": 2, "head_width": 8,
        },
        "text_cfg": {"context_length": 8, "vocab_size": 32, "width": 8, "heads": 1, "layers": 1},
    },
    "image": {"size": 8, "mean": [0.5] * 3, "std": [0.25] * 3},
}  # fmt: skip
TASKS = 3
MLP = ".mlp."


class Files:
    """A base and the task vectors of `TASKS` experts, as files and in float64."""

    def __init__(self, folder, layers=2, scale=0.1, **others):
        vision = {**ENCODER["architecture"]["vision_cfg"], "layers": layers, **others}
        self.encoder = {
            **ENCODER, "architecture": {**ENCODER["architecture"], "vision_cfg": vision},
        }  # fmt: skip
        self.family = get_family("clip")
        torch.manual_seed(0)
        state = self.family.build(self.encoder["architecture"]).state_dict()
        state = {k: v.float().clone().normal_(std=0.3) for k, v in state.items()}
        self.base = folder / "base.safetensors"
        write_tensors(self.base, state, {})
        self.vectors = []
        for task in range(TASKS):
            trained = {k: v for k, v in state.items() if k.startswith("visual.")}
            self.vectors.append(folder / f"{task}.safetensors")
            vector = {k: torch.randn_like(v) * scale for k, v in trained.items()}
            write_tensors(self.vectors[-1], vector, {})
        with TensorFile(self.base) as file:
            self.start = {k: file.read(k).double() for k in file if k.startswith("visual.")}
        self.deltas = {}
        for path in self.vectors:
            with TensorFile(path) as file:
                for key in file:
                    self.deltas.setdefault(key, []).append(file.read(key).double())
        self._tower = self.family.build_tower(
            self.encoder["architecture"], {k: v.float() for k, v in self.start.items()}
        ).double().eval()  # fmt: skip

    def features(self, weights, images):
        """Image features in float64 of one model for all images; weights by keys of files."""
        named = {key.removeprefix("visual."): value for key, value in weights.items()}
        return functional_call(self._tower, named, (images.double(),))

    def merged(self, coefficients, where=lambda key: True):
        """θ0 + Σ_k λ_k τ_k of the parameters that `where` takes, θ0 of the others."""
        return {
            key: start + sum(c * d for c, d in zip(coefficients, self.deltas[key], strict=True))
            if where(key) else start
            for key, start in self.start.items()
        }  # fmt: skip
