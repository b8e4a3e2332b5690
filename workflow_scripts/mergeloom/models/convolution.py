"""A plain convolution as a linear map of the patches that its kernel sees."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional

from mergeloom.errors import MergeloomError


def patches_of(
    name: str, module: nn.Conv2d, known: str
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], tuple[int, int]]]:
    """What makes patches [n, positions, channels · kernel] of a convolution's inputs, and what says
    how many rows and columns of positions they are.

    Parameters
    ----------
    name : of the module.
    known : what needs it, and knows plain convolutions alone, for the error.

    Raises
    ------
    MergeloomError
        For a convolution of several groups, or with other padding than zeros whose number is given.
    """
    padding = module.padding
    if module.groups != 1 or isinstance(padding, str) or module.padding_mode != "zeros":
        raise MergeloomError(
            f"{name}: is a convolution of {module.groups} groups with padding {padding!r} of "
            f"{module.padding_mode}; {known} of one group and of zeros whose number is given"
        )

    def patches(inputs: Tensor) -> Tensor:
        return functional.unfold(
            inputs, module.kernel_size, module.dilation, padding, module.stride
        ).transpose(1, 2)

    def grid(inputs: Tensor) -> tuple[int, int]:
        rows, columns = (
            (size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
            for size, pad, dilation, kernel, stride in zip(
                inputs.shape[2:], padding, module.dilation, module.kernel_size, module.stride,
                strict=True,
            )
        )  # fmt: skip
        return rows, columns

    return patches, grid
