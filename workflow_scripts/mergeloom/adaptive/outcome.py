"""What an adaptation came to: its curve, states of the adapter, and whether it collapsed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

AVERAGE = "average"  # stands for a task in the rows that are of all
# Accuracy may fall by so much while entropy falls before that is called a collapse.
MARGIN = 0.01
Row = dict[str, Any]


@dataclass
class Adaptation:
    """What an adaptation came to.

    rows : of every checkpoint, from step 0, for each task and the average: `step`, `task`,
        `entropy` (nats, on the same inputs every time), `val_accuracy`, `val_loss`,
        `val_normalized_accuracy`.
    states : step to state of the adapter; those of checkpoints where they are small.
    stopped : None, or at which step and why it ended early.
    seconds : that steps took, without checkpoints.
    """

    rows: list[Row] = field(default_factory=list)
    states: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    stopped: dict[str, Any] | None = None
    seconds: float = 0.0

    @property
    def steps(self) -> list[int]:
        """Of the checkpoints."""
        return list(dict.fromkeys(row["step"] for row in self.rows))

    def at(self, step: int) -> dict[str, Row]:
        """The rows of a checkpoint by task."""
        return {row["task"]: row for row in self.rows if row["step"] == step}

    def chosen(self, keep: str) -> int:
        """The step whose state is kept."""
        if keep == "last":
            return self.steps[-1]
        quality = {s: self.at(s)[AVERAGE]["val_normalized_accuracy"] for s in self.steps}
        return max(quality, key=lambda step: quality[step])

    def collapsed(self, step: int) -> dict[str, Any]:
        """Where entropy is lower than before adaptation and validation accuracy, too.

        Lower by more than `MARGIN`; for the average and as a list of tasks.
        """
        before, after = self.at(0), self.at(step)
        found = [
            task
            for task, row in after.items()
            if row["entropy"] < before[task]["entropy"]
            and row["val_accuracy"] < before[task]["val_accuracy"] - MARGIN
        ]
        return {"average": AVERAGE in found, "tasks": [t for t in found if t != AVERAGE]}


# Numbers of a state up to which those of all checkpoints are kept: a layer-wise gate on ResNet-50
# has 7 million, a mask over all weights of ViT-B-32 88.
LARGE = 2**24


def keeps_all(states: Mapping[int, Mapping[str, Tensor]]) -> bool:
    """Whether states are so small that those of all checkpoints are kept."""
    first = next(iter(states.values()))
    return sum(tensor.numel() for tensor in first.values()) <= LARGE


def stacked(states: Mapping[int, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """States of checkpoints as one mapping: every tensor [checkpoints, ...], and `steps`, int64."""
    steps = sorted(states)
    names = states[steps[0]]
    found = {name: torch.stack([states[step][name] for step in steps]) for name in names}
    return {**found, "steps": torch.tensor(steps)}


CURVE = (
    "step", "task", "entropy", "val_accuracy", "val_loss", "val_normalized_accuracy",
)  # fmt: skip


def columns(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Rows as columns."""
    return {key: [row[key] for row in rows] for key in CURVE}
