"""State dicts out of what torch.save wrote."""

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mergeloom.errors import MergeloomError
from mergeloom.models.formats.restricted_pickle import read_module

log = logging.getLogger(__name__)


def read_pickle(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a pickle by name, without running code of it.

    What torch.load refuses under `weights_only` is read by the restricted unpickler. Of a training
    checkpoint (`{"state_dict": …, "epoch": …}`) the state dict is read.

    Raises
    ------
    MergeloomError
        If the file refers to anything but tensors, containers and modules, is damaged, cut short,
        or holds no tensors.
    """
    mapped = _mappable(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols that another program chose
            content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    # Whatever torch refuses, the restricted reader either reads or says what is wrong with it.
    except Exception:
        content = read_module(path)
        log.info("%s: a pickle of whole modules, read without running any of their code", path)
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    tensors = {
        str(key): value.detach()
        for key, value in (content.items() if isinstance(content, Mapping) else ())
        if isinstance(value, Tensor)
    }
    if not tensors:
        raise MergeloomError(f"{path}: holds no tensors by name. Expected a state dict.")
    return tensors


def _mappable(path: Path) -> bool:
    """Whether it is a zip archive, whose tensors need not be read before they are used."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"
