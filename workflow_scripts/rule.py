"""What every rule's script shares: the log, errors for people, threads, device, and the record.

with job(snakemake) as j:
    merge_files(base=j.input.base, ..., metadata=j.metadata())
"""

import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from mergeloom.errors import MergeloomError
from mergeloom.io.roots import logical
from mergeloom.provenance.record import SIDECAR, as_metadata, fingerprint, record

# Recorded in every artifact, whether or not this job's numbers depend on them.
PACKAGES = ("torch", "numpy", "scipy", "tensorly", "safetensors", "open-clip-torch",
            "transformers", "tokenizers", "huggingface-hub",
            "lightning-fabric", "pillow", "matplotlib", "pandas", "scikit-learn")  # fmt: skip
# Params that are no configuration: digests of code, software and the state of given files, what
# messages say, and what else a job makes.
NO_CONFIGURATION = ("code", "env", "state", "origin", "collections")

log = logging.getLogger("mergeloom")


class Job:
    """A Snakemake job as its script sees it: named files, params, device, seed, record."""

    def __init__(self, snakemake: Any) -> None:
        self.input, self.output = snakemake.input, snakemake.output
        self.params, self.wildcards = snakemake.params, snakemake.wildcards
        self.rule, self.threads = snakemake.rule, snakemake.threads
        self._config = snakemake.config
        self._on_device = "gpu" in snakemake.resources.keys()  # noqa: SIM118 – no mapping

    @property
    def seed(self) -> int:
        """The seed of this job, or 0 where nothing is random."""
        return int(self.params.get("seed", 0))

    @cached_property
    def device(self) -> str:
        """`cpu` or `cuda`; sets torch's threads, seed and deterministic algorithms on the way."""
        import torch

        torch.set_num_threads(self.params.threads)
        torch.manual_seed(self.seed)
        wanted = self._config["device"]
        if wanted == "cuda" and not torch.cuda.is_available():
            raise MergeloomError("device is 'cuda', but torch sees no GPU; set `device: auto`")
        device = "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"
        if device == "cuda":
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True, warn_only=True)
            torch.backends.cudnn.allow_tf32 = False  # else convolutions in float32 are not
        return device

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """What this job's outputs are made from: see `mergeloom.provenance.record`."""
        params = {k: v for k, v in self.params.items() if k not in (*NO_CONFIGURATION, "seed")}
        return record(
            rule=self.rule,
            inputs=[str(path) for path in self.input],
            params=params,
            code=self.params.code,
            packages=PACKAGES,
            device=self.device if self._on_device else "cpu",
            seed=self.seed,
            roots=self._config["roots"],
        )

    def metadata(self, of: Sequence[str] | None = None, **more: Any) -> dict[str, str]:
        """The record, and what was found out only now, as the text metadata of a file.

        of : the inputs that this one of several outputs is made from; by default all.
        """
        content = {**self.provenance, **more}
        if of is not None:
            names = {logical(path, self._config["roots"]) for path in of}
            content["inputs"] = {k: v for k, v in content["inputs"].items() if k in names}
        return as_metadata(content)

    @property
    def collections(self) -> list[str]:
        """The collections of experts that this job is of: one, or a run's and its selections."""
        return list(self.params.get("collections", [self.wildcards.experts]))

    def shares(self, files: str | Sequence[str] | None) -> list[list[str]]:
        """Files that are given for each collection, one after the other, as a list for each."""
        flat = [files] if isinstance(files, str) else list(files or [])
        size = len(flat) // len(self.collections)
        return [flat[i * size : (i + 1) * size] for i in range(len(self.collections))]

    def provenance_of(self, experts: str) -> dict[str, Any]:
        """The record of what is made of one of several collections: without the others' files."""
        others = set(self.collections) - {experts}
        inputs = {
            name: digest
            for name, digest in self.provenance["inputs"].items()
            if not others.intersection(name.split("/")[2:3])  # models/{encoder}/{experts}/…
        }
        return {**self.provenance, "inputs": inputs}

    @property
    def fingerprint(self) -> str:
        """Equal for two jobs that must end in the same bytes."""
        return fingerprint(self.provenance)

    def write_sidecar(self, path: str | Path, **more: Any) -> None:
        """Put the record beside a file, or into a folder, that cannot carry it itself."""
        from mergeloom.io.jsonfile import write_json

        folder = Path(path).is_dir()
        write_json(
            Path(path) / SIDECAR if folder else f"{path}{SIDECAR}", {**self.provenance, **more}
        )


@contextmanager
def job(snakemake: Any) -> Iterator[Job]:
    """Run the body of a rule's script.

    Messages and tracebacks go to the rule's log, messages to the terminal, too. A MergeloomError
    ends the job with its message alone. SIGTERM ends it as an exception does, so that half-written
    files are removed. The log's last line says what start-up took of the processor, and how long
    the work took.
    """
    start_up, begun = time.process_time(), time.time()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    Path(snakemake.log[0]).parent.mkdir(parents=True, exist_ok=True)
    # Training on several devices runs this script once for each; the first writes the log.
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    file = logging.FileHandler(snakemake.log[0] if first else os.devnull, mode="w")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    terminal = logging.StreamHandler()
    logging.basicConfig(level=logging.WARNING, handlers=[file, terminal], format="%(message)s")
    log.setLevel(logging.INFO)
    logging.captureWarnings(True)
    # Warnings of libraries are for the log; the terminal shows what a person follows.
    terminal.addFilter(lambda entry: entry.name.startswith("mergeloom"))
    try:
        yield Job(snakemake)
    except MergeloomError as error:
        log.error("%s: %s", snakemake.rule, error)
        with Path(file.baseFilename).open("a") as full:
            traceback.print_exc(file=full)
        sys.exit(1)
    except Exception:
        log.exception("%s: failed", snakemake.rule)
        sys.exit(1)
    with Path(file.baseFilename).open("a") as last:
        last.write(f"start-up {start_up:.2f} s, work {time.time() - begun:.2f} s\n")
