"""What a model answers in words, scored."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from mergeloom.data.answers import bare, check_apart
from mergeloom.errors import MergeloomError
from mergeloom.evaluation.evaluators import evaluator
from mergeloom.evaluation.precision import check_loss, computing_in
from mergeloom.models.answers import Answers


@evaluator("text")
@torch.inference_mode()
def evaluate_text(
    family: Any,
    tower: Any,
    head: Answers,
    examples: Any,
    *,
    device: str,
    batch_size: int,
    precision: str,
    counters: Sequence[Any],
    around: Any,
) -> dict[str, float]:
    """Score what is generated, and how likely the task's answers are beside each other.

    Parameters are those of `mergeloom.evaluation.accuracy.evaluate`; counters see the
    log-likelihoods of the answers.

    Returns
    -------
    dict of
    `accuracy` : share of generated texts that are the right answer, but for white space and
        punctuation around it, of which a number keeps its sign; of a task whose metric is
        `spearman`, Spearman's ρ of the numbers that they are, 0 for a text that is none, with those
        of the right answers: the labels, rounded as answers are;
    `loss` : mean cross-entropy (nats) of the right answer among the task's answers;
    `n`;
    `label_accuracy` : share of texts whose right answer is the likeliest of the task's;
    `valid_rate` : share of generated texts that are one of the task's answers, numbers as their
        format writes them: 3.80 is scored as a number, but is not the answer 3.8;
    `mcc` : of a task whose metric it is, Matthews' correlation coefficient of what is generated,
        with whatever is no answer as one class more.

    Raises
    ------
    MergeloomError – when a log-likelihood is not finite, the head has no tokenizer, or two of its
    answers read the same.
    """
    reader = Reader(head)
    generated: list[str] = []
    correct = torch.zeros((), dtype=torch.int64, device=device)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    for inputs, labels in examples.batches(batch_size):
        rows = slice(len(generated), len(generated) + len(labels))
        with around(rows), computing_in(precision, device):
            logits, tokens = family.answer(tower, head, inputs)
        generated += reader.texts(tokens)
        correct += (logits.argmax(dim=1) == labels).sum()
        loss += cross_entropy(logits, labels, reduction="sum")
        for counter in counters:
            counter.update(logits, labels)
    check_loss(loss, "the answers' log-likelihoods", precision)
    n, right = len(examples), examples.labels.cpu().numpy()
    labels = np.array([reader.labels.get(text, len(head)) for text in generated])
    scores = {
        "accuracy": float((labels == right).mean()),
        "loss": float(loss) / n,
        "n": n,
        "label_accuracy": int(correct) / n,
        "valid_rate": float((labels < len(head)).mean()),
    }
    if head.metric == "spearman":
        assert head.values is not None
        numbers = np.array([number(text) for text in generated])
        scores["accuracy"] = spearman(numbers, head.values.cpu().numpy()[right])
    if head.metric == "mcc":
        scores["mcc"] = matthews(labels, right)
    return scores


class Reader:
    """Turns token ids into text.

    Attributes
    ----------
    labels : text of each of the task's answers -> its label.
    """

    def __init__(self, head: Answers) -> None:
        from tokenizers import Tokenizer

        if not head.tokenizer:
            raise MergeloomError(
                "the head has no tokenizer to read what is generated with; build the head again"
            )
        self._tokenizer = Tokenizer.from_buffer(head.tokenizer)
        self._number = head.values is not None
        answers, read = self._said(head.tokens), self.texts(head.tokens)
        check_apart(answers, read, "the head")
        self.labels = {text: label for label, text in enumerate(read)}

    def texts(self, tokens: Tensor) -> list[str]:
        """Texts of token ids [n, length], bare (`mergeloom.data.answers.bare`)."""
        return [bare(text, self._number) for text in self._said(tokens)]

    def _said(self, tokens: Tensor) -> list[str]:
        said: list[str] = self._tokenizer.decode_batch(tokens.tolist(), skip_special_tokens=True)
        return said


def number(text: str) -> float:
    """The number that a text is, or 0 for a text that is none, or none that is finite."""
    try:
        found = float(text)
    except ValueError:
        return 0.0
    return found if math.isfinite(found) else 0.0


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's ρ: the correlation of ranks, equal values sharing the mean of theirs.

    Parameters
    ----------
    one, other : float64 [n].

    Returns
    -------
    float – 0 where one of the two is constant, so that there is no correlation.
    """
    x, y = (ranks - ranks.mean() for ranks in (_ranks(one), _ranks(other)))
    spread = math.sqrt((x * x).sum() * (y * y).sum())
    return float((x * y).sum() / spread) if spread else 0.0


def _ranks(values: np.ndarray) -> np.ndarray:
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[which]


def matthews(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Matthews' correlation coefficient, of any number of classes.

    That is cov(X, Y) / √(cov(X, X) cov(Y, Y)) of the indicators X and Y of the classes (Gorodkin
    2004), 0 where one of the two is constant.

    Parameters
    ----------
    predicted, labels : int64 [n].
    """
    classes = np.arange(max(predicted.max(), labels.max()) + 1)
    x, y = ((v[:, None] == classes).astype(np.float64) for v in (predicted, labels))
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    spread = math.sqrt((x * x).sum() * (y * y).sum())
    return float((x * y).sum() / spread) if spread else 0.0
