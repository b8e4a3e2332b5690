"""The Fisher information of a fine-tuned model as a file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mergeloom.data.decoded import Images
from mergeloom.io.tensors import TensorFile
from mergeloom.merging.statistic_files import expert_tower, write_statistic
from mergeloom.statistics.fisher import diagonal_fisher


def write_fisher(
    *,
    encoder: Mapping[str, Any],
    base: Path,
    task_vector: Path,
    head: Path,
    images: Images,
    device: str,
    batch_size: int,
    out: Path,
    metadata: Mapping[str, str],
) -> None:
    """Write the diagonal Fisher information of θ_0 + Δ_t, a tensor for every parameter, float32.

    Parameters
    ----------
    encoder : preset with `family`, `architecture`, `image`.
    head : file with `weight`, float32 [classes, d].
    images : examples of the task.

    Raises
    ------
    MergeloomError
        If the files are of another encoder, or a gradient is not finite.
    """
    family, tower = expert_tower(encoder, base, task_vector, device)
    with TensorFile(head) as file:
        weight: Tensor = file.read("weight").to(device)
    fisher = diagonal_fisher(
        family, tower, weight, images, encoder["image"], device, batch_size, task_vector
    )
    write_statistic(out, fisher, base, task_vector, metadata)
