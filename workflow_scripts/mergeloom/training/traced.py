"""The log-trace of the Fisher information as a column of a learning curve."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mergeloom.data.decoded import open_images
from mergeloom.models.family import get_family
from mergeloom.statistics.log_trace import LogTrace
from mergeloom.training.finetune import Measure


def log_trace_column(
    encoder: Mapping[str, Any],
    train: Path,
    settings: Mapping[str, Any] | None,
    *,
    recipe: Mapping[str, Any],
    seed: int,
    device: str,
    batch_size: int,
) -> Measure | None:
    """What `finetune` measures after every epoch: `log_trace` and its standard error.

    Parameters
    ----------
    encoder : preset with `family`, `image`.
    train : decoded split; its images are taken as validation takes its own, without augmentation.
    settings : see `mergeloom.statistics.log_trace`; None records nothing.
    recipe : whose batch size is that of the first batch, in the mode `course`.
    """
    if settings is None:
        return None
    estimate = LogTrace(
        get_family(encoder["family"]),
        open_images(train),
        encoder["image"],
        device,
        batch_size,
        settings,
        seed,
        first_batch=recipe["batch_size"],
    )

    def measure(tower: nn.Module, head: Tensor) -> dict[str, float]:
        found = estimate(tower, head)
        return {"log_trace": found.value, "log_trace_se": found.standard_error}

    return measure
