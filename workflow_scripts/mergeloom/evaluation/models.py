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
    merged : the merged task vector Δ, or one per task, in one file or in a file each; None is the
        base itself.

    Attributes
    ----------
    per_task : whether Δ holds one model per task.
    """

    def __init__(
        self,
        encoder: Mapping[str, Any],
        base: str | Path,
        merged: str | Path | Sequence[str | Path] | None,
        device: str,
    ) -> None:
        with ExitStack() as stack:
            start = stack.enter_context(TensorFile(base))
            self.tower = place_tower(encoder, start, device)
            self._weights = get_family(encoder["family"]).tower_weights(self.tower)
            paths = [merged] if isinstance(merged, str | Path) else list(merged or [])
            files = [stack.enter_context(TensorFile(path)) for path in paths]
            stacked = any(PER_TASK in file.metadata for file in files)
            self.per_task = stacked or not isinstance(merged, str | Path | None)
            home = "cpu" if self.per_task else device  # T models may be more than a GPU holds
            # Views of the mapped files, which are valid after those were closed, or copies.
            self._base: dict[str, Tensor] = {}
            self._deltas: dict[str, Sequence[Tensor]] = {}
            for key in files[0] if files else ():
                if not all(file.is_zero(key) for file in files):
                    self._base[key] = start[key].to(device)
                    steps = [file[key].to(home) for file in files]
                    self._deltas[key] = steps[0].unbind() if stacked else steps

    @torch.inference_mode()
    def at(self, alpha: float, tasks: Sequence[str]) -> Iterator[Turn]:
        """The model at an α with all tasks, or the model of each task with it.

        The tower is one and the same: a turn is over when the next one is taken.

        Parameters
        ----------
        tasks : of a Δ per task, those that it was merged from, in their order.
        """
        if not self.per_task:
            self._move(alpha, 0)
            yield self.tower, list(tasks)
            return
        for index, task in enumerate(tasks):
            self._move(alpha, index)
            yield self.tower, [task]

    def _move(self, alpha: float, index: int) -> None:
        for key, start in self._base.items():
            weights = self._weights[key]
            # What `merged_weights` gives, without memory for a second model.
            step = self._deltas[key][index].to(start.device)
            torch.add(start, step, alpha=alpha, out=weights)
            weights.copy_(weights.to(start.dtype))
