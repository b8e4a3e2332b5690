"""The state of an interrupted adaptation, beside its output, in one safetensors file.

`now.*` is the adapter's state, `optimizer.{entry}.{parameter}` what the optimiser keeps, and
`{step}.*` the states of checkpoints.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn
from torch.optim import Optimizer

from mergeloom.adaptive.adapter import Adapter
from mergeloom.adaptive.outcome import Adaptation
from mergeloom.io.tensors import TensorFile, write_tensors

log = logging.getLogger(__name__)


class Progress:
    """Writes and takes up what an adaptation goes on from."""

    def __init__(
        self, adapter: Adapter, parameters: Mapping[str, nn.Parameter], optimizer: Optimizer
    ) -> None:
        self._adapter, self._parameters, self._optimizer = adapter, parameters, optimizer

    def save(self, path: Path, fingerprint: str, found: Adaptation) -> None:
        """Write everything after a checkpoint."""
        tensors: dict[str, Tensor] = {
            f"now.{name}": tensor for name, tensor in self._adapter.state().items()
        }
        for name, parameter in self._parameters.items():
            for entry, value in self._optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):  # SGD without momentum keeps None
                    tensors[f"optimizer.{entry}.{name}"] = value
        for step, state in found.states.items():
            tensors |= {f"{step}.{name}": tensor for name, tensor in state.items()}
        metadata = {
            "fingerprint": fingerprint,
            "rows": json.dumps(found.rows),
            "stopped": json.dumps(found.stopped),
            "seconds": str(found.seconds),
        }
        write_tensors(path, {name: t.cpu() for name, t in tensors.items()}, metadata)

    def load(self, path: Path, fingerprint: str) -> Adaptation | None:
        """Take up the state of an interrupted run of the same kind; None where there is none."""
        if not path.exists():
            return None
        now: dict[str, Tensor] = {}
        with TensorFile(path) as file:
            if file.metadata.get("fingerprint") != fingerprint:
                log.info("%s: is of a run with other inputs or parameters; starting anew", path)
                return None
            found = Adaptation(
                rows=json.loads(file.metadata["rows"]),
                stopped=json.loads(file.metadata["stopped"]),
                seconds=float(file.metadata["seconds"]),
            )
            for key in file:
                kind, _, name = key.partition(".")
                if kind == "now":
                    now[name] = file.read(key)
                elif kind == "optimizer":
                    entry, _, name = name.partition(".")
                    parameter = self._parameters[name]
                    # Adam counts steps on the processor, whatever its parameters are on.
                    device = "cpu" if entry == "step" else parameter.device
                    self._optimizer.state[parameter][entry] = file.read(key).to(device)
                else:
                    found.states.setdefault(int(kind), {})[name] = file.read(key)
        self._adapter.load(now)
        log.info("resuming after step %d", found.steps[-1])
        return found
