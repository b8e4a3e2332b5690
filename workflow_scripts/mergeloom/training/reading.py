"""Training images, the next batch of which is read while one is computed."""

from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from mergeloom.data.decoded import Images

Batch = tuple[Tensor, Tensor]


class ReadAhead:
    """Reads batches of a decoded split.

    What is announced is gathered from the mapped file by a thread, into pinned memory, from which
    a GPU copies without waiting. On a processor nothing is read ahead: a second thread would take
    its core from the model.
    """

    def __init__(self, images: Images, device: str) -> None:
        self._images, self._device = images, device
        self._thread = None if device == "cpu" else ThreadPoolExecutor(max_workers=1)
        self._announced: tuple[Tensor, slice, Future[Batch]] | None = None
        self._current: tuple[Tensor, slice, Batch] | None = None

    def announce(self, indices: Tensor, share: slice) -> None:
        """Begin to read `indices[share]`, int64, this device's share of the next batch."""
        if self._thread:
            reading = self._thread.submit(self._read, indices[share])
            self._announced = indices, share, reading

    def take(self, indices: Tensor, part: slice) -> Batch:
        """Pixels uint8 [b, s, s, 3] and labels int64 [b] of `indices[part]`, on the device.

        Of an announced batch, which is known by the tensor itself, `part` lies in the share.
        """
        if self._announced and self._announced[0] is indices:
            announced, share, reading = self._announced
            self._current, self._announced = (announced, share, reading.result()), None
        if self._current and self._current[0] is indices:
            _, share, batch = self._current
            within = slice((part.start - share.start) // share.step, None, part.step // share.step)
            pixels, labels = batch[0][within], batch[1][within]
        else:
            pixels, labels = self._read(indices[part])
        return (
            pixels.to(self._device, non_blocking=True),
            labels.to(self._device, non_blocking=True),
        )

    def _read(self, chosen: Tensor) -> Batch:
        batch = self._images.images[chosen], self._images.labels[chosen]
        if torch.device(self._device).type == "cuda":
            batch = batch[0].pin_memory(), batch[1].pin_memory()
        return batch
