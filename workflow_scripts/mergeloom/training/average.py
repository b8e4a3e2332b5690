"""Exponential moving average of weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


class MovingAverage:
    """The average ē ← d ē + (1 - d) θ of parameters over steps, ē = θ before the first.

    `values` are the averages, float32, by the names of the parameters.
    """

    def __init__(self, parameters: Mapping[str, Tensor], decay: float) -> None:
        self.parameters, self.decay = parameters, decay
        self.values = {
            name: parameter.detach().to(torch.float32, copy=True)
            for name, parameter in parameters.items()
        }

    @torch.no_grad()
    def update(self) -> None:
        """Take in the parameters after a step."""
        for name, parameter in self.parameters.items():
            self.values[name].lerp_(parameter.to(torch.float32), 1 - self.decay)

    @torch.no_grad()
    def install(self) -> None:
        """Overwrite the parameters with their averages."""
        for name, parameter in self.parameters.items():
            parameter.copy_(self.values[name])

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Let the parameters be their averages for a while."""
        kept = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.install()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self.parameters.items():
                    parameter.copy_(kept[name])
