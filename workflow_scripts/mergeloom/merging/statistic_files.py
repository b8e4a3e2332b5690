"""Statistics of fine-tuned models as files: what Fisher information and Gram matrices share.

Each belongs to a task vector and the base that it is added to, whose SHA-256 stand in the header's
field `source`; a merge of other task vectors refuses it. The images are in the record of the job
that made it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mergeloom.io.tensors import TensorFile, write_tensors
from mergeloom.merging.caches import SOURCE, source_of
from mergeloom.models.family import Family, get_family
from mergeloom.models.weights import merged_weights, read_tower


def expert_tower(
    encoder: Mapping[str, Any], base: Path, task_vector: Path, device: str
) -> tuple[Family, Any]:
    """The family and the tower of θ_0 + Δ_t, on the device, its parameters without gradients.

    Raises
    ------
    MergeloomError
        If the files are of another encoder.
    """
    family = get_family(encoder["family"])
    with TensorFile(base) as start, TensorFile(task_vector) as delta:
        tower = read_tower(family, encoder["architecture"], start)
        weights = family.tower_weights(tower)
        for key, tensor in merged_weights(start, delta, 1.0):
            weights[key].copy_(tensor)
    return family, tower.to(device).eval().requires_grad_(False)


def write_statistic(
    out: Path,
    tensors: Mapping[str, Tensor],
    base: Path,
    task_vector: Path,
    metadata: Mapping[str, str],
) -> None:
    """Write tensors that belong to a task vector and its base, whose SHA-256 the header holds."""
    write_tensors(out, tensors, {**metadata, SOURCE: source_of([base, task_vector])})
