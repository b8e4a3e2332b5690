"""Merging from files: mergeloom against a straightforward in-memory implementation.

Both read the same random task vectors (visual towers with decaying spectra) and write one file.
The reference loads all of them with safetensors and takes float32 SVDs with torch.linalg.svd.
Every run is a process of its own, whose peak resident memory is reported; the time is that of the
merge alone, without imports, with the files in the page cache as far as it holds them. The runs of
all cases are interleaved, and the table shows medians.

    python tests/benchmarks/bench_merge.py                                         8 x ViT-B-32
    python tests/benchmarks/bench_merge.py --encoder ViT-L-14 --experts 20 --layers 2
    python tests/benchmarks/bench_merge.py --encoder ViT-L-14 --experts 20 --alone
    python tests/benchmarks/bench_merge.py --encoder ViT-L-14 --experts 20 --layers 2 --methods all

The third one needs 30 GiB of disk, and says nothing of the reference, which would need 50 GiB of
memory. The fourth shows time and memory of methods, or of all that there are, run once. With
--device cuda both compute on the GPU.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
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
    "TIES": ("ties", "ties"),
    "TSV-M, cold": ("tsv", "tsv"),
    "TSV-M, from cache": ("tsv-cached", "tsv"),
    "Iso-C": ("isotropic", "isotropic"),
    "dual": ("dual", "dual"),
    "tensor decomp.": ("tensor_decomp", "tensor_decomp"),
}
# Where the default keeps all ranks, and would measure an average.
PARAMETERS = {
    "tensor_decomp": {"rank_strategy": "energy", "fallback": "mean"},
    "wudi": {"iterations": 10},  # each takes as long as the one before
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
        path = folder / f"{task:02}.task_vector.safetensors"
        write_tensors(path, {key: tensor(shape) for key, shape in shapes.items()}, {})
        write_svd_cache([path], folder / f"{task:02}.svd.safetensors", "clip", 1 / experts, "cpu")


def ours(folder: Path, method: str, device: str) -> Callable[[Path], None]:
    """The merge by mergeloom."""
    from mergeloom.merging.caches import sha256
    from mergeloom.merging.engine import merge_files, plan_merge

    name, _, cached = method.partition("-")
    plan = plan_merge(name, PARAMETERS.get(name))  # imports are not timed
    svd = sorted(folder.glob("*.svd.safetensors")) if cached else None
    experts = task_vectors(folder)
    if name == "slerp":
        experts = experts[:2]  # it is between two
    if svd:
        # A job of the workflow knows them from its record of provenance, as does the command line.
        for path in experts:
            sha256(path)

    def run(out: Path) -> None:
        merge_files(folder / "base.safetensors", experts, plan, out, "clip", device, svd=svd)

    return run


def reference(folder: Path, method: str, device: str) -> Callable[[Path], None]:
    """The merge as one writes it down: all models in memory, float32 SVDs."""
    import torch
    from safetensors.torch import load_file, save_file

    Model = dict[str, torch.Tensor]

    def svd(matrix: "Tensor") -> "tuple[Tensor, Tensor, Tensor]":
        left, values, right = torch.linalg.svd(matrix.to(device), full_matrices=False)
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

    def by_parameter(function: "Callable[[Tensor], Tensor]", stacks: Model) -> Model:
        return {k: (function if d.ndim == 3 else average)(d).cpu() for k, d in stacks.items()}

    def ties(stacks: Model) -> Model:
        flat = torch.cat([deltas.flatten(1) for deltas in stacks.values()], dim=1)
        dropped = flat.shape[1] - int(0.2 * flat.shape[1])
        least = torch.stack([row.abs().kthvalue(dropped).values for row in flat])
        flat = torch.where(flat.abs() >= least[:, None], flat, 0.0)
        sign = flat.sum(0).sign()
        sign[sign == 0] = sign.sum().sign()
        agree = flat.sign() == sign
        merged = (flat * agree).sum(0) / agree.sum(0).clamp_min(1)
        sizes = [deltas[0].numel() for deltas in stacks.values()]
        parts = zip(stacks.items(), merged.split(sizes), strict=True)
        return {key: part.view(deltas.shape[1:]).cpu() for (key, deltas), part in parts}

    def dual(stacks: Model) -> Model:
        atoms = [key for key, deltas in stacks.items() if deltas.ndim in (3, 5)]
        merged = {}
        for key, deltas in stacks.items():
            mean = deltas.mean(0)
            if key in atoms:
                area = mean[0, 0].numel() if mean.ndim == 4 else 1
                factor = polar(mean.permute(2, 3, 0, 1) if mean.ndim == 4 else mean)
                factor = factor.permute(2, 3, 0, 1) if mean.ndim == 4 else factor
                mean = (mean.shape[0] / mean.shape[1]) ** 0.5 / (area * len(atoms)) * factor
            merged[key] = mean.cpu().contiguous()
        return merged

    def tensor_decomp(stacks: Model) -> Model:
        merged = {key: average(deltas) for key, deltas in stacks.items()}
        names = {key.split(".", 4)[-1] for key in stacks if "resblocks" in key}
        for name in names:
            keys = [key for key in stacks if key.endswith(f".{name}") and "resblocks" in key]
            if stacks[keys[0]].ndim == 3:
                tensor = torch.stack([stacks[key] for key in keys], dim=1).to(device)
                result = tensor
                for mode in (0, 1):
                    left, values, _ = svd(tensor.movedim(mode, 0).flatten(1))
                    share = values.square().cumsum(0) / values.square().sum()
                    left = left[:, : int((share >= 0.95).int().argmax()) + 1]
                    result = torch.tensordot(left @ left.T, result, ([1], [mode])).movedim(0, mode)
                for key, matrix in zip(keys, result.mean(0), strict=True):
                    merged[key] = matrix.cpu().contiguous()
        return merged

    function: Callable[[Model], Model] = {
        "average": partial(by_parameter, average),
        "ties": ties,
        "tsv": partial(by_parameter, tsv),
        "isotropic": partial(by_parameter, isotropic),
        "dual": dual,
        "tensor_decomp": tensor_decomp,
    }[method]

    def run(out: Path) -> None:
        models = [load_file(path, device) for path in task_vectors(folder)]
        stacks = {key: torch.stack([model[key] for model in models]) for key in models[0]}
        del models
        save_file(function(stacks), out)

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
        "ours": lambda: ours(folder, method, arguments.device),
        "reference": lambda: reference(folder, method, arguments.device),
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
            if not (folder / f"reference-{other}.safetensors").exists():
                continue
            one = TensorFile(folder / f"ours-{method}.safetensors")
            two = TensorFile(folder / f"reference-{other}.safetensors")
            apart[case] = max(float((one[k] - two[k]).norm() / two[k].norm()) for k in two)
    print(json.dumps(apart))


# --- the table


def table(arguments: argparse.Namespace) -> None:
    """Run all cases, interleaved, and print their medians."""
    with tempfile.TemporaryDirectory(prefix="bench_merge", dir=arguments.disk) as name:
        folder = Path(name)

        def process(worker: str) -> str:
            command = [sys.executable, __file__, "--folder", name, *forwarded, worker]
            return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout

        forwarded = [
            f"--{key}={getattr(arguments, key)}"
            for key in ("encoder", "layers", "experts", "threads", "device")
        ]
        process("--worker=prepare")
        if arguments.methods:
            methods_table(arguments.methods, process)
            return
        workers = {f"ours:{method}" if other else method for method, other in CASES.values()}
        if not arguments.alone:
            workers |= {f"reference:{other}" for _, other in CASES.values() if other}
        runs: dict[str, list[dict[str, float]]] = {worker: [] for worker in sorted(workers)}
        for _ in range(arguments.rounds):
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
            f"layers, {size:.0f} MiB of task vectors on {arguments.device}; medians of "
            f"{arguments.rounds} interleaved runs.\n"
        )
        reading = median["read"]["seconds"]
        print(
            "| merge             | mergeloom | of reading | reference | faster | memory "
            "| ref. memory | apart |"
        )
        print(
            "|-------------------|----------:|-----------:|----------:|-------:|-------:"
            "|------------:|------:|"
        )
        for case, (method, other) in CASES.items():
            mine = median[f"ours:{method}" if other else method]
            row = f"| {case:17} | {mine['seconds']:7.2f} s | {mine['seconds'] / reading:9.1f}× |"
            if theirs := median.get(f"reference:{other}"):
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


def methods_table(names: list[str], process: Callable[[str], str]) -> None:
    """Run methods once, and print their time and memory."""
    from mergeloom.merging.engine import OF_DATA
    from mergeloom.merging.method import methods

    print("| method            | seconds | memory, MiB |")
    print("|-------------------|--------:|------------:|")
    # All but those that need what comes from images.
    alone = [n for n, method in methods().items() if not OF_DATA.keys() & set(method.inputs)]
    for name in alone if names == ["all"] else names:
        measured = json.loads(process(f"--worker=ours:{name}"))
        print(
            f"| {name:17} | {measured['seconds']:7.1f} | {measured['memory']:11.0f} |", flush=True
        )


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--experts", type=int, default=8, help="number of task vectors")
    parser.add_argument("--encoder", choices=ENCODERS, default="ViT-B-32")
    parser.add_argument("--layers", type=int, default=0, help="blocks of the tower; 0 means all")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="runs of each case")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--alone", action="store_true", help="leave out the reference")
    parser.add_argument("--methods", nargs="+", help="run only these once, or `all`")
    parser.add_argument("--disk", help="folder for the files, if not the one for temporary files")
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0 leaves its default")
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    # As the workflow does it: threads that wait for long, spinning, slow down those that work.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    arguments.layers = arguments.layers or ENCODERS[arguments.encoder][1]
    if arguments.worker:
        work(arguments)
    else:
        table(arguments)


if __name__ == "__main__":
    main()
