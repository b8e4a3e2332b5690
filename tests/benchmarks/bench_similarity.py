"""Similarities of all pairs of models in one pass, against one pair after the other.

Random features of 16 models of 256 to 2048 dimensions on 5000 rows, in files:

1. pairwise: for each pair both kernels (or both triangles of distances), centred, and their
   alignment (or scipy's spearmanr), in float32 with all cores, as one would write it with torch and
   numpy. Timed on ten pairs, features in memory, and extrapolated to all;
2. ours: all pairs, reading the files and all checks included.

RSA is also timed for 64 models, each file four times. The peak memory is of a process of its own
per measure, with 10,000 rows.

    python tests/benchmarks/bench_similarity.py [--rows 5000] [--threads 2]
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "workflow_scripts"))
from mergeloom.similarity.feature_sets import open_feature_sets
from mergeloom.similarity.matrix import SimilarityMatrix, compare

WIDTHS = (256, 384, 512, 512, 640, 768, 768, 768, 1024, 1024, 1024, 1280, 1536, 1536, 2048, 2048)
PAIRS = 10
ROUNDS = 3
MANY = 64  # models of the published study
MANY_ROWS = 10_000
SIGMA = 0.4
ASKED = {"cka_linear": 25, "cka_rbf": 25, "rsa_spearman": 12}
ASKED_OF_MANY = 50
GIBIBYTE = 2**30


def write_features(folder: Path, rows: int) -> list[Path]:
    """What rectified features of networks look like: common factors, a positive mean."""
    rng = np.random.default_rng(0)
    factors = rng.standard_normal((rows, 64), np.float32)
    paths = []
    for model, width in enumerate(WIDTHS):
        mixed = factors @ rng.standard_normal((64, width), np.float32) / 8
        mixed += (0.3 + 0.1 * model) * rng.standard_normal((rows, width), np.float32) + 0.2
        paths.append(folder / f"model{model}.npy")
        np.save(paths[-1], np.maximum(mixed, 0))
    return paths


def unit_rows(path: Path) -> Tensor:
    return torch.nn.functional.normalize(torch.from_numpy(np.load(path)), dim=1)


def u_centred(kernel: Tensor) -> Tensor:
    n = len(kernel)
    kernel.fill_diagonal_(0)
    means = kernel.sum(1) / (n - 2) - kernel.sum() / (2 * (n - 1) * (n - 2))
    kernel = kernel - means[:, None] - means[None]
    return kernel.fill_diagonal_(0)


def cka(x: Tensor, y: Tensor, kernel: Callable[[Tensor], Tensor]) -> float:
    k, other = u_centred(kernel(x)), u_centred(kernel(y))
    return float((k * other).sum() / ((k * k).sum() * (other * other).sum()).sqrt())


def linear(x: Tensor) -> Tensor:
    return x @ x.T


def rbf(x: Tensor) -> Tensor:
    return torch.exp(-torch.cdist(x, x).square() / (2 * SIGMA**2))


def rsa(x: Tensor, y: Tensor) -> float:
    upper = np.triu_indices(len(x), 1)
    distances = [1 - np.corrcoef(z.numpy())[upper] for z in (x, y)]
    return float(spearmanr(*distances).statistic)


PAIRWISE: dict[str, Callable[[Tensor, Tensor], float]] = {
    "cka_linear": lambda x, y: cka(x, y, linear),
    "cka_rbf": lambda x, y: cka(x, y, rbf),
    "rsa_spearman": rsa,
}


def all_pairs(measure: str, paths: list[Path], times: int = 1) -> SimilarityMatrix:
    names = [f"{path.stem}_{again}" for again in range(times) for path in paths]
    return compare(open_feature_sets(paths * times, names), measure)


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def peak_of(measure: str, threads: int) -> float:
    """Gibibytes that a process of its own holds at most."""
    command = [sys.executable, __file__, "--peak", measure, "--threads", str(threads)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout) * 1024 / GIBIBYTE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--peak", choices=list(PAIRWISE), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as name:
        if arguments.peak:
            all_pairs(arguments.peak, write_features(Path(name), MANY_ROWS))
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
            return
        paths = write_features(Path(name), arguments.rows)
        features = [unit_rows(path) for path in paths]
        pairs = list(combinations(range(len(paths)), 2))
        order = np.random.default_rng(0).permutation(len(pairs))
        chosen = [pairs[place] for place in order[:PAIRS]]
        print(f"{len(paths)} models on {arguments.rows} rows, {arguments.threads} threads")
        for measure, pairwise in PAIRWISE.items():
            matrix = all_pairs(measure, paths)
            ours = statistics.median(
                timed(lambda m=measure: all_pairs(m, paths)) for _ in range(ROUNDS)
            )
            spent, apart = 0.0, 0.0
            for one, other in chosen:
                started = time.perf_counter()
                value = pairwise(features[one], features[other])
                spent += time.perf_counter() - started
                apart = max(apart, abs(value - matrix.values[one, other]))
            each = spent / PAIRS
            print(
                f"  {measure:12}  {ours:6.2f} s; pairwise {each:.2f} s a pair, "
                f"{each * len(pairs):.0f} s for {len(pairs)}: {each * len(pairs) / ours:.1f} times "
                f"(asked: {ASKED[measure]}); differs by {apart:.0e}"
            )
            if measure == "rsa_spearman":
                many = timed(lambda m=measure: all_pairs(m, paths, MANY // len(paths)))
                count = MANY * (MANY - 1) // 2
                print(
                    f"  of {MANY} models  {many:6.2f} s; pairwise {each * count:.0f} s for "
                    f"{count}: {each * count / many:.1f} times (asked: {ASKED_OF_MANY})"
                )
        del features
    for measure in PAIRWISE:
        peak = peak_of(measure, arguments.threads)
        print(f"  {measure:12}  peak {peak:.2f} GiB on {MANY_ROWS} rows (asked: less than 4)")


if __name__ == "__main__":
    main()
