"""Evaluation of models that are merged anew for every input, against merging one by one.

A ViT-B-32 with random weights and task vectors, random images, and random coefficients for each of
them, in one process, on one device:

1. naive: for every image the state dict θ0 + Σ_k λ_k τ_k, and a forward pass of one image;
2. exact: all images of a batch through one tower whose weights are mixed tile by tile;
3. low-rank: the task vectors of matrices as factors of a small rank, with the error of that.

Beside them stands the bare forward pass of one model for all. Each way has a process of its own for
its peak memory; what is compared is interleaved, and the table shows medians.

    python tests/benchmarks/bench_adaptive.py [--images 64] [--rank 16] [--device cuda]
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "workflow_scripts"))
from mergeloom.adaptive.mixture import Mixture
from mergeloom.io.tensors import TensorFile, write_tensors
from mergeloom.models.family import get_family

ROUNDS = 3
NAIVE = 4  # images of a round that are merged one by one
ENCODER = {"family": "clip", "architecture": {"open_clip": "ViT-B-32-quickgelu"}}


def make_files(folder: Path, experts: int) -> tuple[Path, list[Path]]:
    """A base, and task vectors a hundredth of its size, as fine-tuning gives them."""
    family = get_family("clip")
    torch.manual_seed(0)
    state = {k: v.float() for k, v in family.build(ENCODER["architecture"]).state_dict().items()}
    write_tensors(folder / "base.safetensors", state, {})
    vectors = []
    for expert in range(experts):
        step = {
            key: torch.randn_like(value) * (1e-2 * value.std(correction=0) + 1e-4)
            for key, value in state.items()
            if family.kind(key, tuple(value.shape)) != "frozen"
        }
        vectors.append(folder / f"{expert}.safetensors")
        write_tensors(vectors[-1], step, {})
    return folder / "base.safetensors", vectors


class Naive:
    """One merged model after the other."""

    def __init__(self, base: Path, vectors: list[Path], device: str) -> None:
        from mergeloom.evaluation.models import place_tower

        with TensorFile(base) as file:
            self.tower = place_tower(ENCODER, file, device)
        self.base = {k.removeprefix("visual."): v for k, v in self.weights().items()}
        self.vectors = []
        for path in vectors:
            with TensorFile(path) as file:
                self.vectors.append(
                    {k.removeprefix("visual."): file.read(k).to(device) for k in file}
                )

    def weights(self) -> dict[str, Tensor]:
        return get_family("clip").tower_weights(self.tower)

    def __call__(self, images: Tensor, coefficients: Tensor) -> Tensor:
        outputs = []
        for image, row in zip(images, coefficients, strict=True):
            merged = {key: value.clone() for key, value in self.base.items()}
            for factor, vector in zip(row, self.vectors, strict=True):
                for key, value in vector.items():
                    merged[key] += factor * value
            outputs.append(functional_call(self.tower, merged, (image[None],)))
        return torch.cat(outputs)


class Batched:
    """A mixture, and perhaps its low-rank form."""

    def __init__(self, base: Path, vectors: list[Path], device: str, rank: int | None) -> None:
        self.mixture = Mixture(ENCODER, base, vectors, device)
        self.error = self.mixture.low_rank(rank) if rank else 0.0

    def __call__(self, images: Tensor, coefficients: Tensor) -> Tensor:
        with self.mixture.mixed(coefficients):
            outputs: Tensor = self.mixture.tower(images)
        return outputs


def seconds(work: Callable[[], Any], device: str) -> float:
    started = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def peak_of(way: str, arguments: argparse.Namespace, folder: Path) -> None:
    """In a process of its own: run one way once, and print the most memory that it held."""
    base, vectors = folder / "base.safetensors", sorted(folder.glob("[0-9]*.safetensors"))
    images, coefficients = draw(arguments)
    with torch.inference_mode():
        if way == "naive":
            Naive(base, vectors, arguments.device)(images[:1], coefficients[:1])
        else:
            Batched(base, vectors, arguments.device, None)(images, coefficients)
    if arguments.device == "cuda":
        print(torch.cuda.max_memory_allocated())
    else:
        import resource

        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def draw(arguments: argparse.Namespace) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(arguments.images, 3, 224, 224, generator=generator)
    coefficients = torch.rand(arguments.images, arguments.experts, generator=generator) * 0.6
    return images.to(arguments.device), coefficients.to(arguments.device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--peak", choices=["naive", "exact"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.peak:
        peak_of(arguments.peak, arguments, arguments.folder)
        return
    with tempfile.TemporaryDirectory() as name, torch.inference_mode():
        folder = Path(name)
        base, vectors = make_files(folder, arguments.experts)
        held = sum(path.stat().st_size for path in vectors)
        peaks = {
            way: int(
                subprocess.run(
                    [
                        sys.executable, __file__, "--peak", way, "--folder", str(folder),
                        *(f"--{k}={getattr(arguments, k)}"
                          for k in ("experts", "images", "device", "threads")),
                    ],
                    check=True, capture_output=True, text=True,
                ).stdout
            )
            for way in ("naive", "exact")
        }  # fmt: skip
        images, coefficients = draw(arguments)
        naive = Naive(base, vectors, arguments.device)
        exact = Batched(base, vectors, arguments.device, None)
        low = Batched(base, vectors, arguments.device, arguments.rank)
        few = images[:NAIVE], coefficients[:NAIVE]
        ways: dict[str, tuple[Callable[[], Any], int]] = {
            "forward": (lambda: functional_call(naive.tower, naive.base, (images,)), len(images)),
            "naive": (lambda: naive(*few), NAIVE),
            "exact": (lambda: exact(images, coefficients), len(images)),
            "low-rank": (lambda: low(images, coefficients), len(images)),
        }
        times: dict[str, list[float]] = {way: [] for way in ways}
        for warm in range(ROUNDS + 1):
            for way, (work, count) in ways.items():
                spent = seconds(work, arguments.device) / count
                if warm:
                    times[way].append(spent)
        rate = {way: 1 / statistics.median(found) for way, found in times.items()}
        expected = naive(*few)
        apart = float((exact(*few) - expected).norm() / expected.norm())
        apart_low = float((low(*few) - expected).norm() / expected.norm())
    gigabytes = {way: peak / 1e9 for way, peak in peaks.items()}
    print(f"ViT-B-32, {arguments.experts} experts, {arguments.images} images, {arguments.device}")
    print(f"  one model for all   {rate['forward']:8.2f} images/s")
    print(f"  naive               {rate['naive']:8.2f} images/s, peak {gigabytes['naive']:.2f} GB")
    print(
        f"  exact               {rate['exact']:8.2f} images/s, peak {gigabytes['exact']:.2f} GB, "
        f"{peaks['exact'] / held:.2f} times the task vectors; differs by {apart:.1e}"
    )
    print(
        f"  low-rank ({arguments.rank:3d})      {rate['low-rank']:8.2f} images/s; task vectors are "
        f"{low.error:.2f} off, features {apart_low:.1e}"
    )
    for way, asked in (("exact", "1.3, on a GPU 10"), ("low-rank", "4")):
        print(f"{way} against naive: {rate[way] / rate['naive']:.1f} times (asked: {asked})")


if __name__ == "__main__":
    main()
