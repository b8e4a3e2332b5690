"""Batches of decoded images on the device, ready before the model asks for them."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from mergeloom.data.decoded import Images, normalise

Preprocessing = dict[str, Any]  # the encoder preset's `image`: size, mean, std


def batches(
    images: Images, preprocessing: Preprocessing, device: str, size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalised float32 [b, 3, s, s] and labels int64 [b] on the device, in order.

    On a GPU, the next batch is read, copied and normalised while the model computes this one. On a
    processor that takes under a hundredth of ViT-B-32's forward pass, and a second thread would
    have to take its core from the model.
    """
    starts = range(0, len(images), size)

    def load(start: int) -> tuple[Tensor, Tensor]:
        pixels, labels = (part[start : start + size] for part in (images.images, images.labels))
        if device != "cpu":  # memory that is not pinned is copied while everything waits
            pixels, labels = pixels.pin_memory(), labels.pin_memory()
        pixels, labels = (part.to(device, non_blocking=True) for part in (pixels, labels))
        return normalise(pixels, preprocessing["mean"], preprocessing["std"]), labels

    if device == "cpu":
        yield from map(load, starts)
        return
    side = torch.cuda.Stream(device)

    def load_aside(start: int) -> tuple[Tensor, Tensor, Any]:
        with torch.cuda.stream(side):
            return *load(start), side.record_event()

    with ThreadPoolExecutor(max_workers=1) as reader:
        pending = reader.submit(load_aside, 0) if len(images) else None
        for following in [*starts[1:], None]:
            if pending is None:
                return
            pixels, labels, loaded = pending.result()
            pending = None if following is None else reader.submit(load_aside, following)
            here = torch.cuda.current_stream(device)
            here.wait_event(loaded)
            for part in (pixels, labels):
                part.record_stream(here)  # its memory is used again only after the model read it
            yield pixels, labels
