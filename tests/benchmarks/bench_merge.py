"""Merging from files: mergeloom against a straightforward in-memory implementation.

Both read the same random task vectors (visual towers with decaying spectra) and write one file.
The reference loads all of them with safetensors and takes float32 SVDs with torch.linalg.svd.
Every run is a process of its own, whose peak resident memory is reported; the time is that of the
merge alone, without imports, with the files in the page cache. The runs of all cases are
interleaved, and the table shows medians. On a busy machine threads wait for one another: give
--threads 1 there.

    python tests/benchmarks/bench_merge.py --experts 8 --encoder ViT-B-32 --layers 12
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "workflow_scripts"))
ROUNDS = 3
# width, layers, patch, positions, width of the joint space
ENCODERS = {
    "ViT-B-32": (768, 12, 32, 50, 512),
    "ViT-B-16": (768, 12, 16, 197, 512),
    "ViT-L-14": (1024, 24, 14, 257, 768),
}
CASES = {
    "read the files": ("read", None),
    "average": ("weight_average", "average"),
    "TSV-M, cold": ("tsv", "tsv"),
    "TSV-M, from cache": ("tsv-cached", "tsv"),
    "Iso-C": ("isotropic", "isotropic"),
}


def shapes_of(encoder: str, layers: int) -> dict[str, tuple[int, ...]]:
    """Parameters of a visual tower as open_clip names them, cut to `layers` blocks."""
    d, _, patch, positions, joint = ENCODERS[encoder]
    shapes: dict[str, tuple[int, ...]] = {
        "conv1.weight": (d, 3, patch, patch),
        "class_embedding": (d,),
        "positional_embedding": (positions, d),
        "proj": (d, joint),
    }
    for name in ("ln_pre", "ln_post"):
        shapes |= {f"{name}.weight": (d,), f"{name}.bias": (d,)}
    for layer in range(layers):
        block = {
            "ln_1.weight": (d,), "ln_1.bias": (d,), "ln_2.weight": (d,), "ln_2.bias": (d,),
            "attn.in_proj_weight": (3 * d, d), "attn.in_proj_bias": (3 * d,),
            "attn.out_proj.weight": (d, d), "attn.out_proj.bias": (d,),
            "mlp.c_fc.weight": (4 * d, d), "mlp.c_fc.bias": (4 * d,),
            "mlp.c_proj.weight": (d, 4 * d), "mlp.c_proj.bias": (d,),
        }  # fmt: skip
        shapes |= {f"transformer.resblocks.{layer}.{key}": shape for key, shape in block.items()}
    return {f"visual.{key}": shape for key, shape in shapes.items()}


# --- what is measured: each function runs in a process of its own


def prepare(folder: Path, encoder: str, layers: int, experts: int) -> None:
    """Write a base, T task vectors and their SVD caches."""
    import torch

    from mergeloom.io.tensors import write_tensors
    from mergeloom.merging.task_vector import write_svd_cache

    generator = torch.Generator().manual_seed(0)

    def tensor(shape: tuple[int, ...]) -> "Tensor":
        if len(shape) != 2:
            return torch.randn(shape, generator=generator) * 1e-3
        rank = min(shape)
        values = 1e-2 / torch.arange(1, rank + 1)
        left = torch.randn(shape[0], rank, generator=generator) / shape[0] ** 0.5
        return (left * values) @ torch.randn(rank, shape[1], generator=generator)

    shapes = shapes_of(encoder, layers)
    write_tensors(folder / "base.safetensors", {k: tensor(s) for k, s in shapes.items()}, {})
    for task in range(experts):
        path = folder / f"{task}.task_vector.safetensors"
        write_tensors(path, {key: tensor(shape) for key, shape in shapes.items()}, {})
        write_svd_cache(path, folder / f"{task}.svd.safetensors", "clip", 1 / experts, "cpu")


def ours(folder: Path, method: str) -> Callable[[Path], None]:
    """The merge by mergeloom."""
    from mergeloom.merging.engine import merge_files
    from mergeloom.merging.method import get_method

    name, _, cached = method.partition("-")
    get_method(name)  # imports are not timed
    svd = sorted(folder.glob("*.svd.safetensors")) if cached else None

    def run(out: Path) -> None:
        merge_files(
            folder / "base.safetensors", task_vectors(folder), name, {}, out, "clip", "cpu", svd
        )

    return run


def reference(folder: Path, method: str) -> Callable[[Path], None]:
    """The merge as one writes it down: all models in memory, float32 SVDs."""
    import torch
    from safetensors.torch import load_file, save_file

    def svd(matrix: "Tensor") -> "tuple[Tensor, Tensor, Tensor]":
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        return left, values, right

    def polar(matrix: "Tensor") -> "Tensor":
        left, _, right = svd(matrix)
        return left @ right

    def tsv(deltas: "Tensor") -> "Tensor":
        kept = min(deltas.shape[1:]) // len(deltas)
        triples = [svd(delta) for delta in deltas]
        left = torch.cat([u[:, :kept] for u, _, _ in triples], dim=1)
        values = torch.cat([s[:kept] for _, s, _ in triples])
        right = torch.cat([vt[:kept] for _, _, vt in triples])
        return (polar(left) * values) @ polar(right)

    def isotropic(deltas: "Tensor") -> "Tensor":
        left, values, right = svd(deltas.sum(0))
        return values.mean() * left @ right

    def average(deltas: "Tensor") -> "Tensor":
        return deltas.mean(0)

    function = {"tsv": tsv, "isotropic": isotropic, "average": average}[method]

    def run(out: Path) -> None:
        models = [load_file(path) for path in task_vectors(folder)]
        stacks = {key: torch.stack([model[key] for model in models]) for key in models[0]}
        merged = {
            key: (function if deltas.ndim == 3 else average)(deltas)
            for key, deltas in stacks.items()
        }
        save_file(merged, out)

    return run


def read(folder: Path) -> Callable[[Path], None]:
    """No merge: the time to read the bytes of the task vectors."""
    paths = task_vectors(folder)
    buffer = bytearray(max(path.stat().st_size for path in paths))

    def run(out: Path) -> None:
        for path in paths:
            with open(path, "rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass

    return run


def task_vectors(folder: Path) -> list[Path]:
    """The task vectors that `prepare` wrote."""
    return sorted(folder.glob("*.task_vector.safetensors"))


def peak_memory() -> float:
    """Peak resident memory of this process in MiB, mapped files included.

    From /proc, since getrusage counts the process that started this one.
    """
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))


def work(arguments: argparse.Namespace) -> None:
    """Do what one process does, and print what it measured as JSON."""
    folder = Path(arguments.folder)
    who, _, method = arguments.worker.partition(":")
    if who != "read" and arguments.threads:
        import torch

        torch.set_num_threads(arguments.threads)
    if who == "compare":
        compare(folder)
        return
    if who == "prepare":
        prepare(folder, arguments.encoder, arguments.layers, arguments.experts)
        return
    run = {
        "ours": lambda: ours(folder, method),
        "reference": lambda: reference(folder, method),
    }.get(who, lambda: read(folder))()
    start = time.perf_counter()
    run(folder / f"{who}-{method}.safetensors")
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "memory": peak_memory()}))


def compare(folder: Path) -> None:
    """Print the largest relative Frobenius difference over tensors, for each case, as JSON."""
    from mergeloom.io.tensors import TensorFile

    apart = {}
    for case, (method, other) in CASES.items():
        if other:
            one = TensorFile(folder / f"ours-{method}.safetensors")
            two = TensorFile(folder / f"reference-{other}.safetensors")
            apart[case] = max(float((one[k] - two[k]).norm() / two[k].norm()) for k in two)
    print(json.dumps(apart))


# --- the table


def table(arguments: argparse.Namespace) -> None:
    """Run all cases, interleaved, and print their medians."""
    with tempfile.TemporaryDirectory(prefix="bench_merge") as name:
        folder = Path(name)

        def process(worker: str) -> str:
            command = [sys.executable, __file__, "--folder", name, *forwarded, worker]
            return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout

        forwarded = [
            f"--{key}={getattr(arguments, key)}"
            for key in ("encoder", "layers", "experts", "threads")
        ]
        process("--worker=prepare")
        workers = {f"ours:{method}" if other else method for method, other in CASES.values()}
        workers |= {f"reference:{other}" for _, other in CASES.values() if other}
        runs: dict[str, list[dict[str, float]]] = {worker: [] for worker in sorted(workers)}
        for _ in range(ROUNDS):
            for worker, measured in runs.items():
                measured.append(json.loads(process(f"--worker={worker}")))
        median = {
            worker: {key: statistics.median(run[key] for run in measured) for key in measured[0]}
            for worker, measured in runs.items()
        }
        apart = json.loads(process("--worker=compare"))
        size = sum(path.stat().st_size for path in task_vectors(folder)) / 2**20
        print(
            f"Merging {arguments.experts} {arguments.encoder} visual towers of {arguments.layers} "
            f"layers, {size:.0f} MiB of task vectors; medians of {ROUNDS} interleaved runs.\n"
        )
        print(
            "| merge             | mergeloom | reference | faster | memory | ref. memory | apart |"
        )
        print(
            "|-------------------|----------:|----------:|-------:|-------:|------------:|------:|"
        )
        for case, (method, other) in CASES.items():
            mine = median[f"ours:{method}" if other else method]
            row = f"| {case:17} | {mine['seconds']:7.2f} s |"
            if other:
                theirs = median[f"reference:{other}"]
                row += (
                    f" {theirs['seconds']:7.2f} s | {theirs['seconds'] / mine['seconds']:5.1f}× |"
                    f" {mine['memory']:6.0f} | {theirs['memory']:11.0f} | {apart[case]:5.0e} |"
                )
            else:
                row += f"           |        | {mine['memory']:6.0f} |             |       |"
            print(row)
        print(
            "\nMemory is the peak of the process in MiB, torch itself included.\n"
            "Apart is the largest relative Frobenius difference of a merged tensor."
        )


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--experts", type=int, default=4, help="number of task vectors")
    parser.add_argument("--encoder", choices=ENCODERS, default="ViT-B-32")
    parser.add_argument(
        "--layers", type=int, default=1, help="blocks of the tower (12 in ViT-B-32)"
    )
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0 leaves its default")
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments)
    else:
        table(arguments)


if __name__ == "__main__":
    main()
