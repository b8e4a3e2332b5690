"""The Fisher log-trace against one backward pass per example.

A tower with random weights and random images, in one process, on two threads: the log-trace of n
examples beside

1. a forward and a backward pass to all parameters of each example, one after the other;
2. what public code does, a backward pass of each example through the graph of its whole batch of
   32. It is measured on a few examples of one batch, and scaled to n.

What is compared is interleaved; the table shows medians. Below it stands by how much, relative to
it, the trace and the squared norms of single examples differ from those of the first loop, whose
last sums are then in float64.

    python tests/benchmarks/bench_log_trace.py [--encoder ViT-B-32 --examples 64]
"""

import argparse
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "workflow_scripts"))
ROUNDS, THREADS = 3, 2
CLASSES, BATCH, FEW, SEED = 10, 32, 4, 0


def seconds(work: Callable[[], Any]) -> float:
    """Wall time of some work."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--encoder", default="ViT-Nano", help="a preset of config/encoders")
    parser.add_argument("--examples", type=int, default=2000)
    arguments = parser.parse_args()
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # as the workflow does it
    table(**vars(arguments))


def table(encoder: str, examples: int) -> None:
    """Build what is measured, measure, and print."""
    import torch
    from torch import Tensor
    from torch.linalg import vector_norm
    from torch.nn.functional import normalize
    from torch.nn.utils import get_total_norm

    from mergeloom.data.decoded import Images, normalise
    from mergeloom.models.family import get_family
    from mergeloom.models.uses import get_uses
    from mergeloom.statistics.ghost_norms import GhostNorms
    from mergeloom.statistics.log_trace import LogTrace

    torch.set_num_threads(THREADS)
    torch.manual_seed(SEED)
    preset = yaml.safe_load((ROOT / f"config/encoders/{encoder}.yaml").read_text())
    family, image = get_family(preset["family"]), preset["image"]
    tower: Any = family.build(preset["architecture"]).visual.eval()
    head = 100 * normalize(torch.randn(CLASSES, tower.output_dim), dim=-1)
    pixels = torch.randint(0, 256, (examples, image["size"], image["size"], 3), dtype=torch.uint8)
    images = Images(pixels, torch.zeros(examples, dtype=torch.int64))
    parameters = list(tower.parameters())
    trace = LogTrace(
        family, images, image, "cpu", 256, {"mode": "fisher", "examples": examples}, SEED, BATCH
    )
    # The numbers that labels are drawn with, which are drawn after the order of the images.
    generator = torch.Generator().manual_seed(SEED)
    torch.randperm(examples, generator=generator)
    uniforms = torch.rand(examples, generator=generator, dtype=torch.float64)

    def logits(part: slice) -> Tensor:
        batch = normalise(pixels[part], image["mean"], image["std"])
        found: Tensor = family.logits(tower, head, batch)
        return found

    def pull_back(log_p: Tensor, uniform: Tensor, **options: bool) -> tuple[int, Any]:
        """A label, and ∂ log p(label) / ∂θ, given log p [classes]."""
        label = int((log_p.detach().exp().cumsum(0) <= uniform).sum())
        return label, torch.autograd.grad(log_p[label], parameters, **options)

    def loop(square: Callable[[Any], float], count: int = examples) -> list[tuple[int, float]]:
        found = []
        for i in range(count):
            log_p = logits(slice(i, i + 1)).double().log_softmax(1)[0]
            label, gradients = pull_back(log_p, uniforms[i])
            found.append((label, square(gradients)))
        return found

    def quick(gradients: Any) -> float:
        return float(get_total_norm(gradients)) ** 2

    def exact(gradients: Any) -> float:
        """The same; sums over millions of entries lose four digits in float32."""
        return sum(float(vector_norm(part, dtype=torch.float64)) ** 2 for part in gradients)

    def public() -> float:
        """Seconds of all examples."""
        batch: list[Tensor] = []
        forward = seconds(lambda: batch.append(logits(slice(BATCH)).double().log_softmax(1)))
        backward = seconds(
            lambda: [
                quick(pull_back(batch[0][row], uniforms[row], retain_graph=True)[1])
                for row in range(FEW)
            ]
        )
        return examples * (forward / len(batch[0]) + backward / FEW)

    def ghost_norms(labels: Tensor) -> Tensor:
        found = []
        with GhostNorms(tower, get_uses(family)) as norms:
            for start in range(0, examples, BATCH):
                part = slice(start, start + BATCH)
                outputs = logits(part)
                p = outputs.detach().double().softmax(1)
                ones = torch.zeros_like(p).scatter(1, labels[part].unsqueeze(1), 1.0)
                found.append(norms.pull_back(outputs, (ones - p).to(outputs)))
        return torch.cat(found)

    trace(tower, head), loop(quick, FEW), public()  # warm
    runs = [
        (seconds(lambda: trace(tower, head)), seconds(lambda: loop(quick)), public())
        for _ in range(ROUNDS)
    ]
    measured, single, graph = (statistics.median(column) for column in zip(*runs, strict=True))

    labels, squares = zip(*loop(exact), strict=True)
    expected = torch.tensor(squares, dtype=torch.float64)
    found = ghost_norms(torch.tensor(labels))
    off = abs(math.expm1(trace(tower, head).value - math.log(expected.mean())))
    worst = float((found / expected - 1).abs().max())

    print(
        f"{encoder}, random weights, CPU, {THREADS} threads, float32; log-trace of {examples} "
        f"examples; medians of {ROUNDS} interleaved rounds.\n"
    )
    print("| beside                                              | log-trace | it takes | ratio |")
    print("|-----------------------------------------------------|----------:|---------:|------:|")
    for what, beside in (
        ("a backward pass of each example (≥ 10)", single),
        (f"the same through graphs of {BATCH}, scaled from {FEW}", graph),
    ):
        print(f"| {what:51} | {measured:7.3g} s | {beside:6.3g} s | {beside / measured:5.1f} |")
    print(f"\nrelative difference of the trace (≤ 1e-4): {off:.1e}, of an example: {worst:.1e}")


if __name__ == "__main__":
    main()
