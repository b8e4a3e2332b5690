"""A baseline: tell the task from the features, and take its expert."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy, linear, one_hot

from mergeloom.adaptive.adapter import Adapter, adapter, group_means
from mergeloom.adaptive.mixture import Mixture
from mergeloom.errors import MergeloomError

STEPS = 200


class TaskClassifier(Adapter):
    """A linear classifier of the task, whose answer is the coefficient 1 of one expert."""

    def __init__(self, mixture: Mixture, size: int, penalty: float) -> None:
        super().__init__(mixture)
        self.penalty = penalty
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))
        self.register_buffer("weight", torch.zeros(mixture.size, size))
        self.register_buffer("bias", torch.zeros(mixture.size))

    def fit(self, features: Sequence[Tensor] | None) -> None:
        """Logistic regression on standardised features, in float64, every task weighing alike."""
        assert features is not None
        if len(features) != self.mixture.size:
            raise MergeloomError(
                f"features of {len(features)} tasks for {self.mixture.size} experts: the "
                "classifier is fitted on those of every expert's task"
            )
        inputs = torch.cat(list(features)).double()
        labels = torch.cat([torch.full((len(f),), k) for k, f in enumerate(features)])
        labels = labels.to(inputs.device)
        counts = torch.tensor([len(f) for f in features], device=inputs.device).double()
        mean, scale = inputs.mean(dim=0), inputs.std(dim=0).clamp_min(1e-6)
        inputs = (inputs - mean) / scale
        weight = torch.zeros(self.mixture.size, inputs.shape[1]).to(inputs).requires_grad_()
        bias = torch.zeros(self.mixture.size).to(inputs).requires_grad_()
        optimizer = torch.optim.LBFGS([weight, bias], max_iter=STEPS, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            value = cross_entropy(linear(inputs, weight, bias), labels, 1 / counts)
            value = value + self.penalty * weight.square().sum()
            value.backward()
            return value

        optimizer.step(loss)
        found = {"mean": mean, "scale": scale, "weight": weight, "bias": bias}
        self.load({name: value.detach().float() for name, value in found.items()})

    def coefficients(self, features: Tensor | None, groups: int) -> Tensor:
        """The share of each task among the answers of a group's rows."""
        assert features is not None
        standard = (features - self.get_buffer("mean")) / self.get_buffer("scale")
        answers = linear(standard, self.get_buffer("weight"), self.get_buffer("bias"))
        return group_means(one_hot(answers.argmax(dim=1), self.mixture.size).float(), groups)


@adapter(
    "task_classifier",
    features=True,
    trained=False,
    portable=True,
    low_rank=True,
    limits={"penalty": "[0, inf)"},
)
def task_classifier(
    mixture: Mixture, size: int, random: Generator, *, penalty: float = 1e-3
) -> Adapter:
    """Task classifier: route every input to the expert of the task that its features look like.

    A baseline, and an oracle in that it is told which inputs are of which task, though no input's
    label: a linear classifier of the task is fitted to the features of the inputs that others adapt
    to, and an input's coefficients are 1 for its answer and 0 for all others.

    Parameters
    ----------
    penalty : of the squared norm of the classifier's weights.
    """
    return TaskClassifier(mixture, size, penalty)
