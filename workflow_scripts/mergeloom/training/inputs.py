"""What a model is trained on, batch by batch, as its family takes it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from mergeloom.data.decoded import normalise, open_images
from mergeloom.errors import MergeloomError
from mergeloom.evaluation.examples import TextExamples
from mergeloom.models.family import get_family
from mergeloom.training.loop import generator
from mergeloom.training.reading import ReadAhead
from mergeloom.training.recipe import Recipe
from mergeloom.training.registry import get_part


class TrainingInputs(Protocol):
    """A training split on its way to a device.

    labels : Tensor int64 [n], of all examples.
    """

    labels: Tensor

    def announce(self, indices: Tensor, share: slice) -> None:
        """Tell of the next batch, int64 [b], and of this device's share of it."""
        ...

    def take(self, indices: Tensor, part: slice, step: int) -> tuple[Any, Tensor]:
        """Inputs and labels int64 of the examples `indices[part]`, on the device.

        What is random is drawn for the whole batch, so that it does not depend on its division.
        """
        ...


class TrainingImages:
    """Decoded images (`mergeloom.data.decoded`), augmented and normalised."""

    def __init__(
        self, path: Path, preprocessing: Mapping[str, Any], plan: Recipe, seed: int, device: str
    ) -> None:
        images = open_images(path)
        self.labels = images.labels
        self._preprocessing, self._seed = preprocessing, seed
        self._augmentation = get_part("augmentation", plan.augmentation)
        self._options = plan.parameters["augmentation"]
        self._reader = ReadAhead(images, device)
        self.announce = self._reader.announce

    def take(self, indices: Tensor, part: slice, step: int) -> tuple[Tensor, Tensor]:
        """float32 [b, 3, s, s] and int64 [b]."""
        draws = torch.rand(
            len(indices),
            self._augmentation.draws,
            generator=generator(self._seed, 0, step),
            dtype=torch.double,
        )
        pixels, labels = self._reader.take(indices, part)
        pixels = self._augmentation.function(pixels, draws[part], **self._options)
        return normalise(pixels, self._preprocessing["mean"], self._preprocessing["std"]), labels


class TrainingTexts:
    """Token ids, as `mergeloom.evaluation.examples.TextExamples` has them."""

    def __init__(self, path: Path, plan: Recipe, device: str) -> None:
        if plan.augmentation != "none":
            raise MergeloomError(
                f"the recipe has the augmentation {plan.augmentation}, which is one of images: "
                "remove it for an encoder of text"
            )
        self._examples, self._device = TextExamples(path, device), device
        self.labels = self._examples.labels

    def announce(self, indices: Tensor, share: slice) -> None:
        """Do nothing: texts lie in memory."""

    def take(self, indices: Tensor, part: slice, step: int) -> tuple[Tensor, Tensor]:
        """int64 [b, length] and int64 [b]."""
        chosen = indices[part]
        return self._examples.take(chosen), self.labels[chosen].to(self._device)


def training_inputs(
    path: Path, encoder: Mapping[str, Any], plan: Recipe, seed: int, device: str
) -> TrainingInputs:
    """A training split as the encoder's modality and the recipe say.

    Raises
    ------
    MergeloomError – an augmentation of texts.
    """
    if get_family(encoder["family"]).modality == "text":
        return TrainingTexts(path, plan, device)
    return TrainingImages(path, encoder["image"], plan, seed, device)
