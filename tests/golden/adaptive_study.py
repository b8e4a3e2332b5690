"""A study in miniature: two splits of three tasks for the CLIP of `small_clip`, with features."""

import json

import numpy as np
import torch
from safetensors.numpy import save_file
from small_clip import TASKS, Files

from mergeloom.adaptive.files import Subject
from mergeloom.evaluation.benchmark import Benchmark, evaluate_finetuned
from mergeloom.io.tensors import TensorFile, write_tensors

NAMES = {"encoder": "E", "experts": "finetuned", "benchmark": "B"}
PROVENANCE = {
    "rule": "evaluate_adapted", "inputs": {"models/x.safetensors": "0" * 64}, "params": {},
    "code": "0" * 16, "versions": {"torch": "1"}, "device": "cpu", "seed": 0,
}  # fmt: skip
CLASSES, SIZE = 4, 5
COUNTS = {"val": 12, "test": 20}
EXTRACTOR = {"extractor": "small", "source": {}, "d": SIZE, "preprocessing": {"size": 8}}


class Study(Files):
    """Files of everything that adapts and evaluates; experts answer their own tasks right."""

    def __init__(self, folder, layers=2, name="E"):
        super().__init__(folder, layers)
        self.folder, self.names = folder, {**NAMES, "encoder": name}
        self.tasks = [f"task{k}" for k in range(TASKS)]
        rng = np.random.default_rng(0)
        self.paths = {"heads": [], "val": [], "test": [], "val_features": [], "test_features": []}
        checkpoints = []
        for k, task in enumerate(self.tasks):
            head = torch.randn(CLASSES, 12, generator=torch.Generator().manual_seed(k)) * 3
            self.paths["heads"].append(folder / f"{task}.head.safetensors")
            write_tensors(self.paths["heads"][-1], {"weight": head}, {})
            one = [float(j == k) for j in range(TASKS)]
            expert = {key: w.float() for key, w in self.merged(one).items()}
            checkpoints.append(folder / f"{task}.checkpoint.safetensors")
            write_tensors(checkpoints[-1], expert, {})
            for split, n in COUNTS.items():
                pixels = rng.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)
                images = torch.tensor(pixels).permute(0, 3, 1, 2) / 255
                features = self.features(self.merged(one), (images - 0.5) / 0.25)
                logits = torch.nn.functional.normalize(features, dim=-1) @ head.double().T
                path = folder / f"{task}.{split}.safetensors"
                labels = logits.argmax(dim=1).numpy().astype(np.int64)
                save_file({"images": pixels, "labels": labels}, path)
                self.paths[split].append(path)
                phi = rng.standard_normal((n, SIZE)).astype(np.float32) * 0.3
                phi[:, k] += 2
                path = folder / f"{task}.{split}.features.safetensors"
                about = {"features": json.dumps(EXTRACTOR)}
                write_tensors(path, {"features": torch.tensor(phi)}, about)
                self.paths[f"{split}_features"].append(path)
        self.finetuned = evaluate_finetuned(
            self.benchmark(), checkpoints=checkpoints, names=self.names, provenance=PROVENANCE
        )

    def benchmark(self, splits=("val", "test"), batch_size=7, tasks=None, **others):
        """The benchmark, or some of its tasks."""
        kept = [self.tasks.index(task) for task in tasks or self.tasks]

        def of(name):
            return [self.paths[name][k] for k in kept]

        return Benchmark(
            encoder=self.encoder, tasks=[self.tasks[k] for k in kept], heads=of("heads"),
            device="cpu", batch_size=batch_size, **{split: of(split) for split in splits},
            **others,
        )  # fmt: skip

    def subject(self, preset, seed=0, tasks=None, vectors=None):
        """An adapter's preset on this study."""
        reads = preset["method"] in ("gate", "task_classifier")
        return Subject(
            encoder=self.encoder, base=self.base, task_vectors=vectors or self.vectors,
            tasks=tasks or self.tasks, preset=preset,
            features=self.paths["test_features"][0] if reads else None,
            names=self.names, seed=seed, device="cpu",
        )  # fmt: skip

    def features_of(self, preset, split):
        """Paths of the features that an adapter reads."""
        reads = preset["method"] in ("gate", "task_classifier")
        return self.paths[f"{split}_features"] if reads else []

    def phi(self, split):
        """Features of every task."""
        found = {}
        for task, path in zip(self.tasks, self.paths[f"{split}_features"], strict=True):
            with TensorFile(path) as file:
                found[task] = file.read("features")
        return found
