"""A folder of singular value decompositions that merges of files at hand share.

The name of a cache is made of all that its content depends on, so a stale one is never found. Its
SHA-256 stands beside it, so a damaged one is never read.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from mergeloom.errors import MergeloomError
from mergeloom.io.atomic import atomic_path
from mergeloom.io.checksums import sha256
from mergeloom.merging.caches import source_of
from mergeloom.merging.task_vector import write_svd_cache
from mergeloom.provenance.code import digest, registered

log = logging.getLogger(__name__)
SEAL = ".sha256"


@dataclass(frozen=True)
class SvdFolder:
    """Caches of checkpoints that were fine-tuned from one base.

    folder : where they lie; made when the first one is written.
    workers : threads that decompose matrices side by side; without it, torch's number of threads.
    """

    folder: Path
    base: Path
    family: str
    device: str
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise MergeloomError(f"{self.folder}: is a file, expected a folder for caches.")

    def of_each(self, experts: Sequence[Path]) -> Iterator[Path]:
        """Give a cache of every expert, with at least a T-th of its singular vectors.

        That share is 1/2, 1/4, 1/8 …, so that merges of 8 to 15 experts find the same caches.
        """
        fraction = 0.5 ** (len(experts).bit_length() - 1)
        for expert in experts:
            yield self._cache([expert], fraction)

    def of_sum(self, experts: Sequence[Path]) -> Path:
        """Return a cache of the sum of the experts' task vectors, with all singular vectors."""
        return self._cache(experts, 1.0)

    def _cache(self, experts: Sequence[Path], fraction: float) -> Path:
        path = self.folder / f"{self._key(experts, fraction)}.safetensors"
        seal = path.with_name(path.name + SEAL)
        if path.is_file() and seal.is_file() and seal.read_text() == sha256(path):
            log.info("singular vectors of %s: taken from %s", _names(experts), path)
            return path
        if path.is_file():
            log.warning("%s: is damaged or was not finished, and is computed again", path)
        write_svd_cache(
            experts,
            path,
            self.family,
            fraction,
            self.device,
            workers=self.workers,
            base=self.base,
        )
        with atomic_path(seal) as temporary:
            temporary.write_text(sha256(path))
        return path

    def _key(self, experts: Sequence[Path], fraction: float) -> str:
        content = {
            "experts": source_of(experts),
            "base": sha256(self.base),
            "family": self.family,
            "fraction": fraction,
            "code": digest(
                "mergeloom/merging/task_vector.py", family=registered_family(self.family)
            ),
            "device": self.device,
            "torch": torch.__version__,
        }
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def registered_family(name: str) -> tuple[str, ...]:
    """The family for a code digest: those that only name parameters are in every digest."""
    return (name,) if name in registered("family") else ()


def _names(paths: Sequence[Path]) -> str:
    return str(paths[0]) if len(paths) == 1 else f"the sum of {len(paths)} task vectors"
