"""The state of an interrupted run, beside its output, in one safetensors file.

It holds tensors only, by the names of the parameters: `parameter.*`, `average.*`, and what the
optimiser keeps of each parameter under its own names (`exp_avg.*`, `momentum_buffer.*`, ...).
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mergeloom.io.tensors import TensorFile, write_tensors
from mergeloom.training.average import MovingAverage

log = logging.getLogger(__name__)

Row = dict[str, float]


@dataclass(frozen=True)
class State:
    """What goes on from epoch to epoch: tensors are read from here and written here."""

    parameters: Mapping[str, nn.Parameter]
    optimizer: Optimizer
    average: MovingAverage | None
    scaler: Any

    def save(self, path: Path, fingerprint: str, history: list[Row]) -> None:
        """Write the state after an epoch."""
        tensors: dict[str, Tensor] = {}
        for name, parameter in self.parameters.items():
            tensors[f"parameter.{name}"] = parameter.detach()
            for entry, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"{entry}.{name}"] = value
            if self.average:
                tensors[f"average.{name}"] = self.average.values[name]
        metadata = {"fingerprint": fingerprint, "history": json.dumps(history)}
        if self.scaler is not None:
            metadata["scaler"] = json.dumps(self.scaler.state_dict())
        write_tensors(path, tensors, metadata)

    def load(self, path: Path, fingerprint: str) -> list[Row]:
        """Take up the state of an interrupted run of the same kind; the rows it had, or none."""
        if not path.exists():
            return []
        with TensorFile(path) as file:
            if file.metadata.get("fingerprint") != fingerprint:
                log.info("%s: is of a run with other inputs or parameters; starting anew", path)
                return []
            for key in file:
                entry, _, name = key.partition(".")
                parameter = self.parameters[name]
                if entry == "parameter":
                    with torch.no_grad():
                        parameter.copy_(file[key])
                elif entry == "average" and self.average:
                    self.average.values[name].copy_(file[key])
                else:
                    self.optimizer.state[parameter][entry] = file[key].to(
                        parameter.device, copy=True
                    )
            if self.scaler is not None:
                self.scaler.load_state_dict(json.loads(file.metadata["scaler"]))
            history: list[Row] = json.loads(file.metadata["history"])
        log.info("resuming after epoch %d", history[-1]["epoch"])
        return history
