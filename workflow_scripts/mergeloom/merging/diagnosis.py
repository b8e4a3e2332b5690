"""What task vectors have to do with one another."""

from collections.abc import Sequence

import numpy as np
import torch

from mergeloom.merging.sources import PathLike, TaskVectorFiles
from mergeloom.models.family import get_family

_COLUMNS = 2**18  # values of each task that are turned to float64 at a time


def cosine_matrix(task_vectors: Sequence[PathLike], family: str) -> np.ndarray:
    """Cosine similarity of whole task vectors, flattened and concatenated over parameters.

    A task vector of zero has no direction: its similarity with the others is given as 0.

    Parameters
    ----------
    task_vectors : T files.
    family : name of the model family; what it freezes is left out.

    Returns
    -------
    ndarray [T, T], float64, symmetric, ones on the diagonal.
    """
    kind = get_family(family).kind
    with TaskVectorFiles(task_vectors) as source:
        gram = torch.zeros(len(source), len(source), dtype=torch.float64)
        for key in source:
            if kind(key, source.shape(key)) != "frozen":
                for block in source.stack(key).flatten(1).split(_COLUMNS, dim=1):
                    block = block.to(torch.float64)
                    gram += block @ block.T
    norms = gram.diagonal().sqrt()
    norms[norms == 0] = 1
    cosines = (gram / torch.outer(norms, norms)).clamp(-1, 1)
    return cosines.fill_diagonal_(1).numpy()
