"""Statistics of fine-tuned models as files: Fisher information, and Gram matrices of inputs.

Each belongs to a task vector and the base that it is added to, whose SHA-256 stand in the header's
field `source`; a merge of other task vectors refuses it. The images are in the record of the job
that made it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mergeloom.data.decoded import Images
from mergeloom.io.tensors import TensorFile, write_tensors
from mergeloom.merging.caches import SOURCE, source_of
from mergeloom.models.family import Family, get_family
from mergeloom.models.weights import merged_weights, read_tower
from mergeloom.statistics.fisher import diagonal_fisher
from mergeloom.statistics.grams import collect_grams


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
    family, tower = _expert(encoder, base, task_vector, device)
    with TensorFile(head) as file:
        weight: Tensor = file.read("weight").to(device)
    fisher = diagonal_fisher(
        family, tower, weight, images, encoder["image"], device, batch_size, task_vector
    )
    _write(out, fisher, base, task_vector, metadata)


def write_grams(
    *,
    encoder: Mapping[str, Any],
    base: Path,
    task_vector: Path,
    images: Images,
    device: str,
    batch_size: int,
    out: Path,
    metadata: Mapping[str, str],
) -> None:
    """Write the Gram matrices XᵀX / n of what each linear map of θ_0 + Δ_t is fed, float32.

    Their names are those of `LinearMap`. For ViT-B-32 they take 0.5 GiB, for
    ViT-L-14 1.8 GiB.

    Parameters
    ----------
    encoder : preset with `family`, `architecture`, `image`.
    images : examples of the task.

    Raises
    ------
    MergeloomError
        If the files are of another encoder, or of one whose linear maps are not known.
    """
    family, tower = _expert(encoder, base, task_vector, device)
    grams = collect_grams(family.stages(tower), images, encoder["image"], device, batch_size)
    named = {linear.name: matrix for linear, matrix in grams.items()}
    _write(out, named, base, task_vector, metadata)


def _expert(
    encoder: Mapping[str, Any], base: Path, task_vector: Path, device: str
) -> tuple[Family, Any]:
    family = get_family(encoder["family"])
    with TensorFile(base) as start, TensorFile(task_vector) as delta:
        tower = read_tower(family, encoder["architecture"], start)
        weights = family.tower_weights(tower)
        for key, tensor in merged_weights(start, delta, 1.0):
            weights[key].copy_(tensor)
    return family, tower.to(device).eval().requires_grad_(False)


def _write(
    out: Path,
    tensors: Mapping[str, Tensor],
    base: Path,
    task_vector: Path,
    metadata: Mapping[str, str],
) -> None:
    write_tensors(out, tensors, {**metadata, SOURCE: source_of([base, task_vector])})
