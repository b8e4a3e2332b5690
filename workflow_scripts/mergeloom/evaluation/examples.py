"""A split of a task as an encoder reads it, on a device."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from mergeloom.data.decoded import Images, normalise, open_images
from mergeloom.evaluation.batches import Preprocessing, batches
from mergeloom.io.tensors import TensorFile
from mergeloom.models.family import get_family
from mergeloom.models.tokens import trimmed

# What a family's towers take: of images float32 [b, 3, s, s], of texts int64 [b, length].
Inputs = Any


class Examples(Protocol):
    """Inputs and labels of a split, in its order.

    labels : Tensor int64 [n], where they were read.
    """

    labels: Tensor

    def __len__(self) -> int: ...

    def batches(self, size: int) -> Iterator[tuple[Inputs, Tensor]]:
        """Inputs of up to `size` examples, and their labels int64 [b], on the device, in order."""
        ...

    def take(self, indices: Tensor) -> Inputs:
        """The inputs of these examples, int64 [b], on the device."""
        ...


class ImageExamples:
    """Decoded images (`mergeloom.data.decoded`), normalised as the encoder wants them."""

    def __init__(self, images: Images, preprocessing: Preprocessing, device: str) -> None:
        self.images, self.labels = images, images.labels
        self._preprocessing, self._device = preprocessing, device

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """float32 [b, 3, s, s] and int64 [b]."""
        return batches(self.images, self._preprocessing, self._device, size)

    def take(self, indices: Tensor) -> Tensor:
        """float32 [b, 3, s, s]."""
        pixels = self.images.images[indices].to(self._device)
        return normalise(pixels, self._preprocessing["mean"], self._preprocessing["std"])


class TextExamples:
    """Texts as token ids, `tokens` int32 [n, length], and `labels` int64 [n].

    Batches are cut to the longest text in them.
    """

    def __init__(self, path: str | Path, device: str) -> None:
        with TensorFile(path) as file:
            self.tokens, self.labels = file.read("tokens"), file.read("labels")
        self._device = device

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """int64 [b, length] and int64 [b]."""
        for indices in torch.arange(len(self)).split(size):
            yield self.take(indices), self.labels[indices].to(self._device)

    def take(self, indices: Tensor) -> Tensor:
        """int64 [b, length]."""
        return trimmed(self.tokens[indices]).to(self._device, torch.int64)


def open_examples(path: str | Path, encoder: Mapping[str, Any], device: str) -> Examples:
    """Open a split as an encoder's preset says that it reads it; images are not read yet."""
    if get_family(encoder["family"]).modality == "text":
        return TextExamples(path, device)
    return ImageExamples(open_images(Path(path)), encoder["image"], device)
