"""Products of float32 matrices, by the fastest library that is there."""

import torch
from torch import Tensor
from torch.nn import functional


def times_transpose(left: Tensor, right: Tensor, out: Tensor | None = None) -> Tensor:
    """A Bᵀ, to the rounding of the factors' dtype.

    On a CPU float32 is given to oneDNN, which uses AVX-512 on any processor that has it. `torch.mm`
    gives it to MKL, which keeps to AVX2 on CPUs of other makers: there it takes twice as long.

    Parameters
    ----------
    left : Tensor [p, k].
    right : Tensor [q, k], of the same dtype.
    out : Tensor [p, q] – filled and returned, if given.
    """
    if left.is_cpu and left.dtype == torch.float32 and torch.backends.mkldnn.is_available():
        product = functional.linear(left.to_mkldnn(), right.to_mkldnn()).to_dense()
        return product if out is None else out.copy_(product)
    return torch.mm(left, right.T, out=out)
