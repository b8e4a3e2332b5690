"""The Gram matrices of what the linear maps of a fine-tuned model are fed, as a file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mergeloom.data.decoded import Images
from mergeloom.merging.statistic_files import expert_tower, write_statistic
from mergeloom.models.stages import get_stages
from mergeloom.statistics.grams import collect_grams


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
    _, tower = expert_tower(encoder, base, task_vector, device)
    stages = get_stages(encoder["family"])(tower)
    grams = collect_grams(stages, images, encoder["image"], device, batch_size)
    named = {linear.name: matrix for linear, matrix in grams.items()}
    write_statistic(out, named, base, task_vector, metadata)
