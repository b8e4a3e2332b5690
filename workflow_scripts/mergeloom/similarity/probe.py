"""Linear probes: how well the classes of a data set can be told apart by a model's features.

The protocol is that of the study of consistent similarities (arXiv 2411.05561), which follows that
of CLIP (arXiv 2103.00020, appendix A.3) with AdamW.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from mergeloom.errors import MergeloomError
from mergeloom.similarity import logistic, probe_training
from mergeloom.similarity.feature_table import FeatureTable, LabelledFeatures
from mergeloom.similarity.held_out import hold_out_stratified
from mergeloom.similarity.peak_search import Candidate, search_peak
from mergeloom.similarity.probe_scores import Scores, accuracies, score

SOLVERS: Final = ("adamw", "lbfgs")
MEMORY: Final = 2 * 2**30


@dataclass(frozen=True)
class Protocol:
    """How probes are trained and chosen; the defaults are the study's.

    solver : `adamw`, or `lbfgs`: L2-regularised logistic regression in float64, whose penalty takes
        the place of the weight decay, and that has no learning rate, epochs or batches.
    validation : share of the training examples that the choice is made on.

    Raises
    ------
    MergeloomError – a value out of its range.
    """

    solver: str = "adamw"
    epochs: int = 20
    batch_size: int = 1024
    learning_rates: tuple[float, ...] = (1e-1, 1e-2, 1e-3, 1e-4)
    validation: float = 0.2

    def __post_init__(self) -> None:
        rates = self.learning_rates
        for key, right, expected in (
            ("solver", self.solver in SOLVERS, f"one of {', '.join(SOLVERS)}"),
            ("epochs", self.epochs >= 1, "at least 1"),
            ("batch_size", self.batch_size >= 1, "at least 1"),
            (
                "learning_rates",
                len(rates) == len(set(rates)) > 0 and min(rates) > 0,
                "different numbers above 0, at least one",
            ),
            ("validation", 0 < self.validation < 1, "a share between 0 and 1"),
        ):
            if not right:
                raise MergeloomError(
                    f"linear probe: {key} is {getattr(self, key)!r}, expected {expected}"
                )


@dataclass(frozen=True)
class Probe:
    """A linear probe of one model on one data set.

    weight, bias : float32 [C, d] and [C], or float64 by `lbfgs`; on the CPU.
    chosen : what it was trained with, on all training examples.
    validation_accuracy : of that candidate, trained without the validation examples.
    tried : validation accuracy of every candidate.
    """

    weight: Tensor
    bias: Tensor
    seed: int
    chosen: Candidate
    validation_accuracy: float
    train: Scores
    test: Scores
    tried: dict[Candidate, float]
    protocol: Protocol

    def summary(self) -> dict[str, Any]:
        """All but the weights, for a result file: plain numbers, texts and lists."""
        return {
            "seed": self.seed,
            "learning_rate": self.chosen.learning_rate,
            "weight_decay": self.chosen.weight_decay,
            "validation_accuracy": self.validation_accuracy,
            "train": self.train._asdict(),
            "test": self.test._asdict(),
            "candidates": len(self.tried),
            "protocol": asdict(self.protocol),
        }

    def logits(self, features: np.ndarray) -> Tensor:
        """Logits [n, C] of features [n, d], in the probe's dtype."""
        return torch.from_numpy(np.array(features)).to(self.weight) @ self.weight.T + self.bias


def fit_probes(
    train: LabelledFeatures,
    test: LabelledFeatures,
    *,
    seeds: Sequence[int],
    classes: int | None = None,
    protocol: Protocol | None = None,
    device: str = "cpu",
    memory: int = MEMORY,
    title: str = "linear probe",
) -> list[Probe]:
    """Search, train and score a linear probe for each seed.

    A seed decides on validation examples, first weights and the order of batches. All candidates of
    a round of the search are trained at once, as many as `memory` has room for.

    Parameters
    ----------
    classes : C; by default one more than the largest label.
    memory : bytes, about, that features and candidates may take on the device.
    title : of the model and the data set, for messages.

    Raises
    ------
    MergeloomError – features or labels that do not fit one another, that are not finite, or that
    leave nothing to choose or to tell apart (see `FeatureTable`, `hold_out_stratified`).
    """
    protocol = protocol or Protocol()
    table = FeatureTable(train, device, memory // 2, f"{title}, train")
    tested = FeatureTable(test, device, 0, f"{title}, test")
    if table.columns != tested.columns:
        raise MergeloomError(
            f"{title}: features of train have {table.columns - 1} columns, those of test "
            f"{tested.columns - 1}: give those of the same layer of the same model"
        )
    highest = int(max(table.labels.max(), tested.labels.max()))
    classes = highest + 1 if classes is None else classes
    if highest >= classes:
        raise MergeloomError(
            f"{title}: has a label {highest}, but {classes} classes: labels count from 0, so give "
            f"classes={highest + 1} or labels below {classes}"
        )
    trainer = _Trainer(table, classes, protocol, memory - memory // 2)
    return [_fit(trainer, tested, seed) for seed in seeds]


def _fit(trainer: "_Trainer", test: FeatureTable, seed: int) -> Probe:
    table, protocol = trainer.table, trainer.protocol
    training, validation = (
        torch.from_numpy(part)
        for part in hold_out_stratified(
            table.labels.cpu().numpy(), protocol.validation, seed, table.title
        )
    )

    def try_candidates(candidates: list[Candidate]) -> list[float]:
        found = []
        for start in range(0, len(candidates), trainer.together):
            some = candidates[start : start + trainer.together]
            found += accuracies(table, validation, trainer.train(training, some, seed))
        return found

    rates = sorted(protocol.learning_rates, reverse=True)
    choice = search_peak(try_candidates, [None] if protocol.solver == "lbfgs" else rates)
    weight = trainer.train(torch.arange(table.rows), [choice.candidate], seed)[0]
    if not weight.isfinite().all():
        raise MergeloomError(
            f"{table.title}: the probe's weights are not finite after training with a learning "
            f"rate of {choice.candidate.learning_rate}: its features are too large, so normalise "
            "them, or leave out the largest learning rates"
        )
    return Probe(
        weight=weight[:, :-1].cpu().clone(),
        bias=weight[:, -1].cpu().clone(),
        seed=seed,
        chosen=choice.candidate,
        validation_accuracy=choice.accuracy,
        train=score(table, weight),
        test=score(test, weight),
        tried=choice.tried,
        protocol=protocol,
    )


class _Trainer:
    """Trains candidates by a protocol; `together` is how many `memory` has room for."""

    def __init__(self, table: FeatureTable, classes: int, protocol: Protocol, memory: int) -> None:
        self.table, self.protocol = table, protocol
        self._classes = classes
        bytes_of = (
            logistic.bytes_of_problem
            if protocol.solver == "lbfgs"
            else probe_training.bytes_of_candidate
        )
        self.together = max(1, memory // bytes_of(classes, table.columns))

    def train(self, rows: Tensor, candidates: list[Candidate], seed: int) -> Tensor:
        """Weights [M, C, d + 1] of candidates, trained with some rows of the table."""
        if self.protocol.solver == "lbfgs":
            penalties = [candidate.weight_decay for candidate in candidates]
            return logistic.train_logistic(self.table, rows, penalties, self._classes)
        return probe_training.train_probes(
            self.table,
            rows,
            candidates,
            self._classes,
            seed,
            epochs=self.protocol.epochs,
            batch_size=self.protocol.batch_size,
        )
