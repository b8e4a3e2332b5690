"""Evaluation against the bare forward pass, many alphas against one, the cache against decoding.

A ViT-B-32 with random weights and images of random shapes, in one process, on one device:

1. images per second of an evaluation (read the cached images, normalise, forward pass, accuracy and
   loss) beside those of the forward pass alone on batches that are normalised and in memory;
2. ten alphas of one merged task vector beside ten such forward passes;
3. feeding an epoch from the cache (read, normalise, to the device) beside decoding JPEG shards.

What is compared is interleaved; the table shows medians. Files are in the page cache.

    python tests/benchmarks/bench_evaluation.py [--device cuda] [--precision bfloat16]
"""

import argparse
import io
import os
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "workflow_scripts"))
ROUNDS = 3
ALPHAS = [index / 10 for index in range(10)]
CLASSES, SIZE = 10, 224
PHOTO = (500, 375)  # width and height of the JPEGs, those of a usual ImageNet photo


def photos(count: int) -> Iterator[bytes]:
    """JPEGs of smooth random colours with some grain, about as large as photos are."""
    random = np.random.default_rng(0)
    for _ in range(count):
        rough = Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        pixels = np.asarray(rough.resize(PHOTO, Image.Resampling.BICUBIC), dtype=float)
        grain = random.normal(0, 6, pixels.shape)
        buffer = io.BytesIO()
        Image.fromarray(np.clip(pixels + grain, 0, 255).astype(np.uint8)).save(
            buffer, "JPEG", quality=90
        )
        yield buffer.getvalue()


def write_shard(path: Path, count: int) -> None:
    """A WebDataset shard of JPEGs."""
    with tarfile.open(path, "w") as tar:
        for index, photo in enumerate(photos(count)):
            for suffix, content in (("cls", str(index % CLASSES).encode()), ("jpg", photo)):
                member = tarfile.TarInfo(f"s{index:07d}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def seconds(work: Callable[[], Any]) -> float:
    """Wall time of some work, until the device has done it."""
    import torch

    begun = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--batch-size", type=int, default=48)
    arguments = parser.parse_args()
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # as the workflow does it
    with tempfile.TemporaryDirectory(prefix="bench_evaluation") as folder:
        table(Path(folder), **vars(arguments))


def table(folder: Path, device: str, precision: str, images: int, batch_size: int) -> None:
    """Write what is evaluated to a folder, measure, and print."""
    import torch

    from mergeloom.data.decoded import decode, fit_to_square, normalise, open_images
    from mergeloom.data.shards import read_shard
    from mergeloom.evaluation.batches import batches
    from mergeloom.evaluation.benchmark import Benchmark
    from mergeloom.evaluation.models import MergedModel
    from mergeloom.evaluation.precision import in_precision
    from mergeloom.io.tensors import write_tensors
    from mergeloom.models.family import get_family

    encoder: dict[str, Any] = {
        "family": "clip",
        "architecture": {"open_clip": "ViT-B-32-quickgelu"},
        "image": {"size": SIZE, "mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28]},
    }
    family = get_family("clip")
    torch.manual_seed(0)
    tower = family.build(encoder["architecture"]).visual
    weights = {k: v.detach() for k, v in family.tower_weights(tower).items()}
    write_tensors(folder / "base.safetensors", weights, {})
    delta = {key: 1e-3 * torch.randn_like(value) for key, value in weights.items()}
    write_tensors(folder / "merged.safetensors", delta, {})
    write_tensors(folder / "head.safetensors", {"weight": torch.randn(CLASSES, 512)}, {})
    shard, cache = folder / "0.tar", folder / "test.safetensors"
    write_shard(shard, images)
    decode([shard], CLASSES, SIZE, cache, {})

    benchmark = Benchmark(
        encoder=encoder,
        tasks=["random"],
        heads=[folder / "head.safetensors"],
        val=None,
        test=[cache],
        device=device,
        batch_size=batch_size,
        precision=precision,
    )
    model = MergedModel(encoder, folder / "base.safetensors", folder / "merged.safetensors", device)
    head = torch.randn(CLASSES, 512, device=device)
    decoded, preprocessing = open_images(cache), encoder["image"]
    ready = list(batches(decoded, preprocessing, device, batch_size))
    forward = in_precision(model.tower, benchmark.precision, device)

    @torch.inference_mode()
    def bare() -> None:
        for pixels, _ in ready:
            family.logits(forward, head, pixels)

    def feed() -> None:
        for _ in batches(decoded, preprocessing, device, batch_size):
            pass

    def from_shards() -> None:
        held: list[np.ndarray] = []
        for index, (image, _) in enumerate(read_shard(shard, CLASSES)):
            held.append(np.asarray(fit_to_square(image, SIZE)))
            if len(held) == batch_size or index == images - 1:
                pixels = torch.from_numpy(np.stack(held)).to(device)
                normalise(pixels, preprocessing["mean"], preprocessing["std"])
                held = []

    def evaluate() -> None:
        benchmark.count(model.tower, "test", "random")

    def at(alpha: float) -> None:
        benchmark.scores(model.at(alpha, benchmark.tasks), ["test"])

    for work in (bare, evaluate, feed, from_shards):  # warm
        work()
    runs: list[tuple[float, ...]] = []
    for _ in range(ROUNDS):
        passes = [(seconds(bare), seconds(lambda a=alpha: at(a))) for alpha in ALPHAS]  # type: ignore[misc]
        one, alphas = (sum(column) for column in zip(*passes, strict=True))
        single = [(seconds(bare), seconds(evaluate)) for _ in range(2)]
        runs.append((
            *(images / statistics.median(column) for column in zip(*single, strict=True)),
            one, alphas,
            images / statistics.median(seconds(feed) for _ in range(5)),
            images / seconds(from_shards),
        ))  # fmt: skip
    plain, evaluation, one, alphas, cached, decoding = (
        statistics.median(column) for column in zip(*runs, strict=True)
    )
    where = "CPU" if device == "cpu" else torch.cuda.get_device_name()
    print(
        f"ViT-B-32, random weights, {where}, {benchmark.precision}; {images} images in batches of "
        f"{batch_size}; medians of {ROUNDS} interleaved rounds.\n"
    )
    print(
        "| what                                     | measured        | beside          | ratio |"
    )
    print(
        "|------------------------------------------|----------------:|----------------:|------:|"
    )
    for what, measured, beside, unit in (
        ("evaluation / bare forward pass (≥ 0.9)", evaluation, plain, "images/s"),
        ("ten alphas / ten forward passes (≤ 1.1)", alphas, one, "s"),
        ("epoch from the cache / from JPEGs (≥ 5)", cached, decoding, "images/s"),
    ):
        cells = " | ".join(f"{f'{value:.4g} {unit}':>15}" for value in (measured, beside))
        print(f"| {what:40} | {cells} | {measured / beside:5.2f} |")


if __name__ == "__main__":
    main()
