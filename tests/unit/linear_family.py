"""A family of one matrix, and two tasks on which what it does can be computed by hand."""

import numpy as np
import torch
from safetensors.numpy import save_file

from mergeloom.io.tensors import write_tensors

PROVENANCE = {
    "rule": "evaluate_merged",
    "inputs": {"models/x.safetensors": "0" * 64},
    "params": {},
    "code": "0" * 16,
    "versions": {"torch": "1"},
    "device": "cpu",
    "seed": 0,
}
NAMES = {"encoder": "E", "experts": "finetuned", "benchmark": "B"}
IMAGE = {"size": 2, "mean": [0.0] * 3, "std": [1 / 255] * 3}


class Linear:
    """A family whose tower is one matrix: features of an image are W · its red values."""

    modality = "images"

    def kind(self, key, shape):
        return "frozen" if key == "text" else "matrix"

    def build_tower(self, architecture, weights):
        tower = torch.nn.Linear(4, 4, bias=False)
        tower.weight = torch.nn.Parameter(weights["weight"].clone(), requires_grad=False)
        return tower

    def tower_weights(self, tower):
        return {"weight": tower.weight}

    def read_head(self, file, device):
        return file.read("weight").to(device)

    def logits(self, tower, head, images):
        return tower(images[:, 0].flatten(1)) @ head.T


ENCODER = {"family": "linear", "architecture": {}, "image": IMAGE}


def images_of(labels):
    """Image i shows its class: red is 1 at the class's pixel."""
    pixels = np.zeros((len(labels), 2, 2, 3), np.uint8)
    pixels.reshape(len(labels), 4, 3)[np.arange(len(labels)), labels, 0] = 1
    return pixels


def write_files(folder):
    """Two tasks of four classes. The base says class 0 of everything; Δ at alpha 1 is perfect."""
    base = torch.zeros(4, 4)
    base[0] = 1.0
    delta = 2 * torch.eye(4)
    delta[0, 0] = 0
    write_tensors(folder / "base.safetensors", {"weight": base, "text": torch.ones(1)}, {})
    write_tensors(folder / "delta.safetensors", {"weight": delta}, {})
    paths = {"heads": [], "train": [], "val": [], "test": [], "checkpoints": []}
    for task, labels in (("a", np.arange(8) % 4), ("b", np.arange(20) % 4)):
        write_tensors(folder / f"{task}_head.safetensors", {"weight": torch.eye(4)}, {})
        write_tensors(folder / f"{task}.safetensors", {"weight": base + delta}, {})
        for split in ("train", "val", "test"):
            path = folder / f"{task}_{split}.safetensors"
            save_file({"images": images_of(labels), "labels": labels.astype(np.int64)}, path)
            paths[split].append(path)
        paths["heads"].append(folder / f"{task}_head.safetensors")
        paths["checkpoints"].append(folder / f"{task}.safetensors")
    return folder, paths
