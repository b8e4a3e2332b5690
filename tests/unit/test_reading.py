"""Batches that are read while the one before them is computed."""

import numpy as np
import pytest
import torch

from mergeloom.data.decoded import Images
from mergeloom.training.reading import ReadAhead


@pytest.fixture
def images():
    return Images(torch.arange(20 * 12, dtype=torch.uint8).view(20, 2, 2, 3), torch.arange(20))


@pytest.mark.parametrize("rank", [0, 1])
def test_parts_of_an_announced_batch_are_those_of_the_split(images, rank, monkeypatch):
    """Two devices, three micro-batches: as a GPU has it, but into memory of the processor."""
    reader = ReadAhead(images, "meta")
    reader._device = "cpu"
    indices = torch.tensor([7, 3, 19, 0, 5, 11, 2, 13, 8, 1, 4, 17])
    reader.announce(indices, slice(rank, None, 2))
    reads = []
    monkeypatch.setattr(reader, "_read", reads.append)
    for start in range(rank, 6, 2):
        part = slice(start, None, 6)
        pixels, labels = reader.take(indices, part)
        np.testing.assert_array_equal(labels, indices[part])
        np.testing.assert_array_equal(pixels, images.images[indices[part]])
    assert not reads, "an announced batch was read again"


def test_a_batch_that_nobody_announced_is_read_when_it_is_taken(images):
    reader = ReadAhead(images, "cpu")
    first, second = torch.tensor([4, 2, 9]), torch.tensor([4, 2, 8])
    reader.announce(second, slice(0, None, 1))
    for indices in (first, second):
        _, labels = reader.take(indices, slice(0, None, 1))
        np.testing.assert_array_equal(labels, indices)
