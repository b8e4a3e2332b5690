"""Studies of given task vectors, models as one vector, and what holds for every method."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from study import Model, Study, assert_agree

from mergeloom.io.tensors import TensorFile
from mergeloom.merging.engine import plan_merge
from mergeloom.merging.randomness import Random
from mergeloom.merging.sources import TaskVectorFiles


@dataclass
class Given(Study):
    """A study of these task vectors [T, *shape]."""

    model: Model = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.shapes = {key: deltas.shape[1:] for key, deltas in self.model.items()}
        self.tasks = len(next(iter(self.model.values())))
        self.base = self.folder / "base.safetensors"
        save_file({k: np.ones(s, np.float32) for k, s in self.shapes.items()}, self.base)
        self.checkpoints, self.task_vectors = [], []
        for task in range(self.tasks):
            self.task_vectors.append(self.folder / f"task{task}.task_vector.safetensors")
            vector = {k: np.array(d[task], np.float32) for k, d in self.model.items()}
            save_file(vector, self.task_vectors[-1])


def coarse(folder: Path) -> Given:
    """Three tasks with values out of -4 … 4 times 1/64: ties, draws and zeros everywhere."""
    rng = np.random.default_rng(7)
    shapes = {
        "visual.proj": (40, 24),
        "visual.conv1.weight": (8, 3, 4, 4),
        "visual.ln_post.weight": (24,),
        "visual.one": (1,),
        "visual.scale": (),
    }
    model = {key: rng.integers(-4, 5, (3, *shape)) / 64 for key, shape in shapes.items()}
    model["visual.ln_post.weight"][:, 3:] = 0
    model["visual.zero"] = np.zeros((3, 5))
    return Given(folder, model=model)


def wide(folder: Path) -> Given:
    """Three tasks, and a parameter that may be taken apart into three runs."""
    rng = np.random.default_rng(8)
    shapes = {"visual.proj": (300, 500), "visual.ln_post.bias": (33,)}
    return Given(folder, model={k: rng.normal(0, 0.01, (3, *s)) for k, s in shapes.items()})


def flat(model: Mapping[str, np.ndarray]) -> np.ndarray:
    """Task vectors of a model [T, n] in the order of its parameters."""
    return np.concatenate([deltas.reshape(len(deltas), -1) for deltas in model.values()], axis=1)


def like(vector: np.ndarray, shapes: Mapping[str, tuple[int, ...]]) -> Model:
    """The parameters of a model that is given as one vector [..., n]."""
    parts, start = {}, 0
    for key, shape in shapes.items():
        size = int(np.prod(shape))
        parts[key] = vector[..., start : start + size].reshape((*vector.shape[:-1], *shape))
        start += size
    return parts


def numbers(study: Study, seed: int = 0) -> Model:
    """The uniform numbers of each task vector [T, *shape] that random methods take."""
    with TaskVectorFiles(study.task_vectors) as source:
        identities = source.identities()
    return {
        key: Random(seed, identities, key, 0, int(np.prod(shape)), "cpu")
        .uniform()
        .double()
        .numpy()
        .reshape(study.tasks, *shape)
        for key, shape in study.shapes.items()
    }


def bytes_of(study: Study, method: str, **options: Any) -> bytes:
    """What mergeloom writes."""
    study.merge(method, **options)
    return (study.folder / "out" / "merged.safetensors").read_bytes()


def assert_permuting_tasks_changes_nothing(study: Study, method: str, **options: Any) -> None:
    expected = study.merge(method, **options)
    result = study.merge(method, experts=study.task_vectors[::-1], **options)
    if plan_merge(method).method.per_task:
        result = {key: models[::-1] for key, models in result.items()}
    assert_agree(result, expected, 1e-6)


def assert_neither_workers_nor_runs_matter(
    study: Study, method: str, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> None:
    once = bytes_of(study, method, workers=1, **options)
    assert bytes_of(study, method, workers=2, **options) == once
    # As few elements in a run as there can be.
    monkeypatch.setattr("mergeloom.merging.group._ELEMENTS", 1)
    counted = TensorReads(monkeypatch)
    assert bytes_of(study, method, workers=2, **options) == once
    if plan_merge(method).method.grain == "element":
        assert len(set(counted)) > 1


class TensorReads:
    """The first elements of runs that have been read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._starts: list[int] = []
        read = TensorFile.read_run

        def counted(file: TensorFile, key: str, start: int, *more: Any) -> Any:
            self._starts.append(start)
            return read(file, key, start, *more)

        monkeypatch.setattr(TensorFile, "read_run", counted)

    def __iter__(self) -> Iterator[int]:
        return iter(self._starts)
