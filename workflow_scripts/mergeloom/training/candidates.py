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

    A candidate is written again only by an epoch that is better, so that a run holds as many models
    as it has selections, whatever its number of epochs.

    Parameters
    ----------
    outputs : selection to the checkpoint that it ends as, safetensors.
    fingerprint : of the run, as of its resume state.
    title : of the run, for messages.
    """

    def __init__(self, outputs: Mapping[str, Path], fingerprint: str, title: str) -> None:
        self._outputs, self._fingerprint, self._title = outputs, fingerprint, title
        self._files = {
            selection: out.with_name(f".{out.stem}.{selection}.resume.safetensors")
            for selection, out in outputs.items()
        }

    def keep(self, rows: Sequence[Row], weights: Mapping[str, Tensor]) -> None:
        """Write the weights of the last row's epoch for every selection that takes it so far.

        Raises
        ------
        MergeloomError – the run does not record what a selection needs.
        """
        for selection, file in self._files.items():
            epoch = selected_epoch(rows, selection, self._title)
            if epoch == rows[-1]["epoch"]:
                found = {key: tensor.detach().cpu() for key, tensor in weights.items()}
                metadata = {"fingerprint": self._fingerprint, "epoch": str(epoch)}
                write_tensors(file, found, metadata)

    def check(self, state: Path) -> None:
        """Remove a resume state whose candidates are not there: the run then starts anew.

        A run that was killed between writing a candidate and its state computes that epoch again,
        and the same candidate.
        """
        if not state.exists():
            return
        with TensorFile(state) as file:
            rows: list[Row] = json.loads(file.metadata["history"])
        following = int(rows[-1]["epoch"]) + 1
        for selection, file_of in self._files.items():
            expected = (selected_epoch(rows, selection, self._title), following)
            if self._epoch(file_of) not in expected:
                log.info("%s: lacks the weights of %s; starting anew", self._title, selection)
                state.unlink(missing_ok=True)
                return

    def _epoch(self, path: Path) -> int | None:
        if not path.exists():
            return None
        with TensorFile(path) as file:
            same = file.metadata.get("fingerprint") == self._fingerprint
            return int(file.metadata["epoch"]) if same else None

    def finish(self, metadata: Mapping[str, str]) -> None:
        """Write the checkpoints; their headers say selection and epoch beside `metadata`."""
        for selection, path in self._files.items():
            with TensorFile(path) as file:
                chosen = {"selection": selection, "epoch": file.metadata["epoch"]}
                weights = {key: file.read(key) for key in file}
                write_tensors(self._outputs[selection], weights, {**metadata, **chosen})
            log.info("%s: %s is epoch %s", self._title, selection, chosen["epoch"])

    def remove(self) -> None:
        """Remove the files of the run, after all outputs are written."""
        for path in self._files.values():
            path.unlink(missing_ok=True)
