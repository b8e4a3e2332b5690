"""The weights that selections take of a run, while it goes on: a file each beside their outputs."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from mergeloom.io.tensors import TensorFile, write_tensors
from mergeloom.training.selection import selected_epoch

log = logging.getLogger(__name__)

Row = dict[str, float]


class Candidates:
    """What each selection would take if the run were over.

    Every epoch that is better than those before it is written. The file of which the state to
    resume from speaks is left until a later state has been written, so that a run that is killed at
    any moment ends with the weights that its rows speak of, even where another device computes the
    lost epoch otherwise. A run thus holds at most two models for each of its selections, whatever
    its number of epochs.

    Parameters
    ----------
    outputs : selection to the checkpoint that it ends as, safetensors.
    fingerprint : of the run, as of its resume state.
    title : of the run, for messages.
    """

    def __init__(self, outputs: Mapping[str, Path], fingerprint: str, title: str) -> None:
        self._outputs, self._fingerprint, self._title = outputs, fingerprint, title

    def keep(self, rows: Sequence[Row], weights: Mapping[str, Tensor]) -> None:
        """Write the weights of the last row's epoch for every selection that takes it so far.

        Parameters
        ----------
        rows : of all epochs until now; the state to resume from knows all but the last.

        Raises
        ------
        MergeloomError – the run does not record what a selection needs.
        """
        epoch = int(rows[-1]["epoch"])
        for selection in self._outputs:
            before = self._epoch(rows[:-1], selection) if epoch > 1 else None
            self._remove(selection, but=before)
            if self._epoch(rows, selection) == epoch:
                found = {key: tensor.detach().cpu() for key, tensor in weights.items()}
                metadata = {"fingerprint": self._fingerprint}
                write_tensors(self._file(selection, epoch), found, metadata)

    def check(self, state: Path) -> None:
        """Remove a resume state whose candidates are not there: the run then starts anew."""
        if not state.exists():
            return
        with TensorFile(state) as file:
            if file.metadata.get("fingerprint") != self._fingerprint:
                return  # of another run, which is not gone on with
            rows: list[Row] = json.loads(file.metadata["history"])
        for selection in self._outputs:
            if not self._is_kept(self._file(selection, self._epoch(rows, selection))):
                log.info("%s: lacks the weights of %s; starting anew", self._title, selection)
                state.unlink(missing_ok=True)
                return

    def finish(self, rows: Sequence[Row], metadata: Mapping[str, str]) -> None:
        """Write the checkpoints; their headers say selection and epoch beside `metadata`.

        Raises
        ------
        MergeloomError – the run had no epoch.
        """
        for selection, out in self._outputs.items():
            epoch = self._epoch(rows, selection)
            with TensorFile(self._file(selection, epoch)) as file:
                weights = {key: file.read(key) for key in file}
            chosen = {"selection": selection, "epoch": str(epoch)}
            write_tensors(out, weights, {**metadata, **chosen})
            log.info("%s: %s is epoch %d", self._title, selection, epoch)

    def remove(self) -> None:
        """Remove the files of the run, after all outputs are written."""
        for selection in self._outputs:
            self._remove(selection)

    def _epoch(self, rows: Sequence[Row], selection: str) -> int:
        return selected_epoch(rows, selection, self._title)

    def _file(self, selection: str, epoch: int | str) -> Path:
        out = self._outputs[selection]
        return out.with_name(f".{out.stem}.{selection}.{epoch}.resume.safetensors")

    def _is_kept(self, path: Path) -> bool:
        if not path.exists():
            return False
        with TensorFile(path) as file:
            return file.metadata.get("fingerprint") == self._fingerprint

    def _remove(self, selection: str, but: int | None = None) -> None:
        pattern = self._file(selection, "*")
        for path in pattern.parent.glob(pattern.name):
            if but is None or path != self._file(selection, but):
                path.unlink(missing_ok=True)
