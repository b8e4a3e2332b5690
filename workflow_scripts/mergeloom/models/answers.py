"""The answers of a task to a model that answers in words, and the tree of their prefixes."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from mergeloom.models.tokens import PAD


@dataclass(frozen=True)
class Answers:
    """The answers of a task by label, on a device.

    tokens : int64 [classes, length], each with the end token, then padded.
    values : float64 [classes], the numbers that they are; None where they are words.
    metric : `accuracy`, `mcc` (beside it) or `spearman` (instead of it).
    tokenizer : bytes of the tokenizer.json that turns what is generated into text.
    """

    tokens: Tensor
    values: Tensor | None = None
    metric: str = "accuracy"
    tokenizer: bytes = b""

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def tree(self) -> "Tree":
        """The prefixes of the answers."""
        return Tree.of(self.tokens)


@dataclass(frozen=True)
class Tree:
    """The prefixes of answers, P of them, each once, in each answer from the empty one on.

    inputs : int64 [P] – what a decoder reads at a prefix: its last token, or the start token.
    depth : int64 [P] – length of a prefix.
    above : bool [P, P] – whether prefix j is how prefix i begins, or prefix i itself.
    tokens : int64 [C] – what follows a prefix in some answer, each once.
    steps : int64 [classes, length] – of each token of an answer, its prefix times C plus its place
        in `tokens`; 0 where `real` is False.
    real : bool [classes, length] – which tokens of the answers are no padding.
    """

    inputs: Tensor
    depth: Tensor
    above: Tensor
    tokens: Tensor
    steps: Tensor
    real: Tensor

    @classmethod
    def of(cls, answers: Tensor) -> "Tree":
        """The tree of answers int64 [classes, length], padded behind the end token."""
        real = answers != PAD
        tokens = answers[real].unique()
        place = {token: index for index, token in enumerate(tokens.tolist())}
        prefixes: dict[tuple[int, ...], int] = {}
        steps = torch.zeros_like(answers)
        for label, answer in enumerate(answers.tolist()):
            for position, token in enumerate(answer[: int(real[label].sum())]):
                prefix = prefixes.setdefault(tuple(answer[:position]), len(prefixes))
                steps[label, position] = prefix * len(tokens) + place[token]
        above = [[i[: len(j)] == j for j in prefixes] for i in prefixes]
        return cls(
            inputs=torch.tensor([p[-1] if p else PAD for p in prefixes], device=answers.device),
            depth=torch.tensor([len(p) for p in prefixes], device=answers.device),
            above=torch.tensor(above, device=answers.device),
            tokens=tokens,
            steps=steps,
            real=real,
        )

    def likelihoods(self, log_p: Tensor) -> Tensor:
        """Log-likelihoods of the answers, [n, classes], of those of `tokens`, [n, P, C]."""
        return (log_p.flatten(1)[:, self.steps] * self.real).sum(dim=-1)
