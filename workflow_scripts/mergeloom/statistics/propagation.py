"""What linear maps are fed when the stages before them are those of a merged model."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mergeloom.data.decoded import Images, normalise
from mergeloom.io.tensors import TensorFile
from mergeloom.models.family import get_family
from mergeloom.models.stages import LinearMap, get_stages
from mergeloom.models.weights import read_tower
from mergeloom.statistics.grams import GramSums


class Propagation:
    """The examples of T tasks on their way through a model that is merged stage by stage.

    Of the model there is one tower, whose weights are overwritten; of the examples, what the merged
    stages have made of them so far.

    Parameters
    ----------
    encoder : preset with `family`, `architecture`, `image`.
    base : file of the model before fine-tuning: what no stage's weights overwrite stays its own.
    images : examples of every task.
    batch_size : examples that are on the device at a time.
    """

    def __init__(
        self,
        *,
        encoder: Mapping[str, Any],
        base: Path,
        images: Sequence[Images],
        device: str,
        batch_size: int,
    ) -> None:
        family = get_family(encoder["family"])
        with TensorFile(base) as file:
            tower = read_tower(family, encoder["architecture"], file).to(device).eval()
        self._stages = get_stages(encoder["family"])(tower)
        self._weights = family.tower_weights(tower)
        self._preprocessing = encoder["image"]
        self._device, self._batch_size = device, batch_size
        self._inputs = [part.images for part in images]

    @torch.inference_mode()
    def measure(
        self, stage: int, task: int, weights: Mapping[str, Tensor]
    ) -> dict[LinearMap, Tensor]:
        """Return the Gram matrices within a stage of these weights, on a task's examples.

        Parameters
        ----------
        weights : of the stage's parameters in the task's own model.

        Returns
        -------
        Map to Tensor [in, in], float32, on the CPU.
        """
        self._load(weights)
        sums = GramSums()
        for part in self._batches(task):
            self._stages[stage](part, sums)
        return sums.means()

    @torch.inference_mode()
    def advance(self, stage: int, weights: Mapping[str, Tensor]) -> None:
        """Let the examples of all tasks pass a stage of these weights, the merged ones."""
        self._load(weights)
        for task in range(len(self._inputs)):
            passed = [self._stages[stage](part).cpu() for part in self._batches(task)]
            self._inputs[task] = torch.cat(passed)

    def _batches(self, task: int) -> Iterator[Tensor]:
        for part in self._inputs[task].split(self._batch_size):
            inputs = part.to(self._device)
            if inputs.dtype == torch.uint8:  # pixels, on their way to the first stage
                inputs = normalise(inputs, self._preprocessing["mean"], self._preprocessing["std"])
            yield inputs

    def _load(self, weights: Mapping[str, Tensor]) -> None:
        for key, tensor in weights.items():
            self._weights[key].copy_(tensor)
