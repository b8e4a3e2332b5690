"""The search of a linear probe, all candidates of a round at once, against one after another.

One model, one data set, one seed: made-up features around a centre per class. Three ways to the
same probe, in one process, with the same number of threads:

1. published: a `DataLoader` over rows, torch.nn.Linear, torch.optim.AdamW, as public code has it;
2. plain: the same, with batches taken out of one tensor;
3. at once: the library.

A few candidates of ways 1 and 2 are trained, spread over the third's candidates, and their time is
taken for all: every candidate has the same number of epochs. Their validation accuracies, and the
weights after the search, are compared.

    python tests/benchmarks/bench_probe.py [--rows 5000] [--width 768] [--classes 100]
"""

import argparse
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, TensorDataset

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "workflow_scripts"))
from mergeloom.similarity.feature_table import LabelledFeatures
from mergeloom.similarity.held_out import hold_out_stratified
from mergeloom.similarity.peak_search import Candidate
from mergeloom.similarity.probe import Protocol, fit_probes

SEED = 0
ROUNDS = 3
PROTOCOL = Protocol()


def make_split(rows: int, width: int, classes: int, spread: float, seed: int) -> LabelledFeatures:
    """Unit features that a probe is right about more often than not."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((classes, width))
    labels = rng.permutation(np.arange(rows) % classes)
    features = centres[labels] + spread * rng.standard_normal((rows, width))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return LabelledFeatures(features.astype(np.float32), labels)


class Shuffled(Sampler[int]):
    """The numbers of a data set's rows in random order, as `shuffle=True` gives them."""

    def __init__(self, data: TensorDataset) -> None:
        self._count = len(data)

    def __iter__(self) -> Iterator[int]:
        return iter(torch.randperm(self._count).tolist())

    def __len__(self) -> int:
        return self._count


def published(features: Tensor, labels: Tensor) -> Callable[[], Iterable[tuple[Tensor, Tensor]]]:
    data = TensorDataset(features, labels)
    # A generator of its own for what a loader draws beside the order: that is as in the other ways.
    loader = DataLoader(
        data, PROTOCOL.batch_size, sampler=Shuffled(data), generator=torch.Generator()
    )
    return lambda: loader


def plain(features: Tensor, labels: Tensor) -> Callable[[], Iterable[tuple[Tensor, Tensor]]]:
    def batches() -> Iterable[tuple[Tensor, Tensor]]:
        for batch in torch.randperm(len(labels)).split(PROTOCOL.batch_size):
            yield features[batch], labels[batch]

    return batches


def train(
    batches: Callable[[], Iterable[tuple[Tensor, Tensor]]],
    candidate: Candidate,
    rows: int,
    width: int,
    classes: int,
) -> torch.nn.Linear:
    """One candidate by itself."""
    torch.manual_seed(SEED)
    model = torch.nn.Linear(width, classes)
    rate = candidate.learning_rate or 0.0
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=candidate.weight_decay)
    steps = PROTOCOL.epochs * math.ceil(rows / PROTOCOL.batch_size)
    step = 0
    for _ in range(PROTOCOL.epochs):
        for features, labels in batches():
            optimizer.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * step / steps)) / 2
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(features), labels).backward()
            optimizer.step()
            step += 1
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--spread", type=float, default=8.0)
    parser.add_argument("--candidates", type=int, default=6, help="trained by themselves")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows, width, classes = arguments.rows, arguments.width, arguments.classes
    split = make_split(rows, width, classes, arguments.spread, 0)
    test = make_split(1000, width, classes, arguments.spread, 1)
    inner, held = hold_out_stratified(split.labels, PROTOCOL.validation, SEED, "bench")
    features, labels = torch.from_numpy(split.features), torch.from_numpy(split.labels)

    times: list[float] = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        (probe,) = fit_probes(split, test, seeds=[SEED], protocol=PROTOCOL)
        times.append(time.perf_counter() - started)
    at_once = statistics.median(times)
    fits = len(probe.tried) + 1

    every = list(probe.tried)
    some = [every[i * len(every) // arguments.candidates] for i in range(arguments.candidates)]
    some[-1] = probe.chosen
    print(
        f"{rows} rows, {width} columns, {classes} classes, {fits} fits, {arguments.threads} threads"
    )
    print(f"  at once    {at_once:7.1f} s, chosen {probe.chosen}, test {probe.test.top1:.4f}")
    for way in (published, plain):
        batches = way(features[inner], labels[inner])
        spent, apart = [], 0.0
        for candidate in some:
            started = time.perf_counter()
            model = train(batches, candidate, len(inner), width, classes)
            with torch.no_grad():
                guess = model(features[held]).argmax(dim=1)
            right = float((guess == labels[held]).float().mean())
            spent.append(time.perf_counter() - started)
            apart = max(apart, abs(right - probe.tried[candidate]) * len(held))
        # The last fit is of all rows.
        whole = statistics.median(spent) * (fits - 1 + rows / len(inner))
        print(
            f"  {way.__name__:10s} {whole:7.1f} s, from {len(some)} candidates: at once is "
            f"{whole / at_once:.1f} times as fast (asked: 10); of {len(held)} validation examples "
            f"at most {apart:.0f} are judged otherwise"
        )
    refit = train(plain(features, labels), probe.chosen, rows, width, classes)
    off = float((refit.weight.detach() - probe.weight).abs().max() / probe.weight.abs().max())
    print(f"  weights of the last fit differ by {off:.1e} of the largest")


if __name__ == "__main__":
    main()
