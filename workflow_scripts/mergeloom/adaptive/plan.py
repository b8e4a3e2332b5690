"""How an adapter is adapted: the key `adaptation` of its preset. Standard library only."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from mergeloom.errors import MergeloomError


@dataclass(frozen=True)
class Plan:
    """How to adapt.

    split : of the inputs, `test`, `val` or `train_unlabelled`.
    batch_size : inputs of every task in a step.
    optimizer, schedule : names of `mergeloom.training.registry`.
    granularity : "batch", one model for the inputs of a task in a step, or "sample".
    checkpoint : steps from one to the next.
    keep : "last", or "best": that of the best average of normalised validation accuracies, the
        state before adaptation included, and of equal ones the first.
    patience : checkpoints that are no better than the best before them after which adaptation ends.
    """

    split: str = "test"
    steps: int = 0
    batch_size: int = 16
    optimizer: str = "adam"
    lr: float = 1e-3
    weight_decay: float = 0.0
    schedule: str = "constant"
    granularity: str = "batch"
    checkpoint: int = 100
    keep: str = "last"
    patience: int | None = None

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> "Plan":
        """The plan of a preset.

        Raises
        ------
        MergeloomError – an unknown key.
        """
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(given) - known):
            raise MergeloomError(
                f"adaptation has no key {', '.join(unknown)}; it has: {', '.join(sorted(known))}"
            )
        return cls(**given)
