"""The device that --device names."""

import torch

from mergeloom.errors import MergeloomError


def chosen_device(wanted: str) -> str:
    """Where to compute: "cuda" or "cpu", of "auto" the first that there is.

    Raises
    ------
    MergeloomError
        If a CUDA device is asked for and there is none.
    """
    there_is = torch.cuda.is_available()
    if wanted == "cuda" and not there_is:
        raise MergeloomError("--device cuda: torch finds no CUDA device here. Use --device cpu.")
    return "cuda" if there_is and wanted != "cpu" else "cpu"
