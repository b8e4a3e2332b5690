"""Models to evaluate, each with the tasks that it is evaluated on."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mergeloom.io.tensors import TensorFile
from mergeloom.models.family import get_family
from mergeloom.models.weights import PER_TASK, read_tower

Turn = tuple[Any, list[str]]  # a tower on the device, in evaluation mode, and names of tasks


def place_tower(encoder: Mapping[str, Any], weights: TensorFile, device: str) -> Any:
    """The tower with a file's weights, on the device, in evaluation mode."""
    tower = read_tower(get_family(encoder["family"]), encoder["architecture"], weights)
    return tower.to(device).eval().requires_grad_(False)


def finetuned_models(
    encoder: Mapping[str, Any],
    checkpoints: Sequence[str | Path],
    tasks: Sequence[str],
    device: str,
) -> Iterator[Turn]:
    """Each task's own fine-tuned model, one at a time; checkpoints are in the order of tasks."""
    for task, path in zip(tasks, checkpoints, strict=True):
        with TensorFile(path) as file:
            tower = place_tower(encoder, file, device)
        yield tower, [task]


class MergedModel:
    """θ0 + αΔ on a device, for any α: one tower, whose weights are moved in place.

    θ0 and Δ are read once. On a GPU they stay in its memory beside the tower, since moving to the
    next α must cost little beside evaluating it; on a processor they stay in their mapped files.

    Parameters
    ----------
    encoder : preset with `family` and `architecture`.
    base : θ0, safetensors.
    merged : the merged task vector Δ, or one per task; None is the base itself.

    Attributes
    ----------
    per_task : whether Δ holds one model per task.
    """

    def __init__(
        self, encoder: Mapping[str, Any], base: str | Path, merged: str | Path | None, device: str
    ) -> None:
        with ExitStack() as stack:
            start = stack.enter_context(TensorFile(base))
            self.tower = place_tower(encoder, start, device)
            self._weights = get_family(encoder["family"]).tower_weights(self.tower)
            self.per_task = False
            # Views of the mapped files, which are valid after those were closed, or copies.
            self._base: dict[str, Tensor] = {}
            self._delta: dict[str, Tensor] = {}
            if merged:
                delta = stack.enter_context(TensorFile(merged))
                self.per_task = PER_TASK in delta.metadata
                home = "cpu" if self.per_task else device  # T models may be more than a GPU holds
                for key in delta:
                    if not delta.is_zero(key):
                        self._base[key] = start[key].to(device)
                        self._delta[key] = delta[key].to(home)

    @torch.inference_mode()
    def at(self, alpha: float, tasks: Sequence[str]) -> Iterator[Turn]:
        """The model at an α with all tasks, or the model of each task with it.

        The tower is one and the same: a turn is over when the next one is taken.

        Parameters
        ----------
        tasks : of a Δ per task, those that it was merged from, in their order.
        """
        if not self.per_task:
            self._move(alpha, self._delta)
            yield self.tower, list(tasks)
            return
        for index, task in enumerate(tasks):
            self._move(alpha, {key: steps[index] for key, steps in self._delta.items()})
            yield self.tower, [task]

    def _move(self, alpha: float, delta: Mapping[str, Tensor]) -> None:
        for key, start in self._base.items():
            weights = self._weights[key]
            # What `merged_weights` gives, without memory for a second model.
            torch.add(start, delta[key].to(start.device), alpha=alpha, out=weights)
            weights.copy_(weights.to(start.dtype))
