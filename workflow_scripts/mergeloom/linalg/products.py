"""Products of float32 matrices, by the fastest library that is there."""

import torch
from torch import Tensor
from torch.nn.functional import conv2d


def times_transpose(left: Tensor, right: Tensor) -> Tensor:
    """A Bᵀ of contiguous A [p, k] and B [q, k]: [p, q], to the rounding of their dtype.

    On a CPU float32 is multiplied as a convolution whose filters are one pixel wide: the same sum
    of products, which PyTorch gives to oneDNN. `torch.mm` gives it to MKL, which keeps to AVX2 on
    CPUs of other makers: there, with AVX-512, oneDNN took 0.45 of its time. Otherwise it is a
    matrix product.
    """
    if left.device.type != "cpu" or left.dtype != torch.float32:
        return left @ right.T
    # Channels last: rows are pixels of k channels, and filters of one pixel.
    pixels = left.view(1, len(left), 1, -1).permute(0, 3, 1, 2)
    filters = right.view(len(right), 1, 1, -1).permute(0, 3, 1, 2)
    return conv2d(pixels, filters).permute(0, 2, 3, 1).reshape(len(left), len(right))
