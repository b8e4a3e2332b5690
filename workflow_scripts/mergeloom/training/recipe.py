"""A recipe of training: what is given, what it names, and how long a run it makes."""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from mergeloom.errors import MergeloomError
from mergeloom.training.registry import get_part, parts

# What a recipe that does not say it gets.
CHOICES = {"optimizer": "adamw", "schedule": "cosine", "augmentation": "none"}
# Per kind and name: parameters and their defaults.
Known = Mapping[str, Mapping[str, Mapping[str, Any]]]


@dataclass(frozen=True)
class Span:
    """A run in steps: those of warming up, of an epoch, and in all."""

    warmup_steps: int
    per_epoch: int
    total: int


@dataclass(frozen=True)
class Recipe:
    """How to train. Steps or epochs bound the run; an epoch is one pass over the training images.

    batch_size : images of one step, whatever number of devices and micro-batches they are
        divided among.
    lr : peak learning rate, reached linearly after `warmup_steps`; then the schedule sets it.
    clip : largest norm of the gradient; None leaves it as it is.
    accumulate : micro-batches that a step is computed in, one after the other, to the same gradient
        (up to the order of sums) with as many times less memory for activations.
    ema : decay of the exponential moving average of the weights; what is validated and written is
        then the average. It starts at the weights before training and is not debiased.
    precision : `auto` (bfloat16 where the GPU has it, else float16 on a GPU, float32 on a CPU), or
        `32-true`, `bf16-mixed`, `16-mixed`: weights are float32 in any.
    devices, strategy : Lightning Fabric's; the batch is divided among the devices.
    optimizer, schedule, augmentation : names of `mergeloom.training.registry`.
    parameters : of these three, by kind.
    """

    batch_size: int
    lr: float
    weight_decay: float
    warmup_steps: int
    clip: float | None
    steps: int | None = None
    epochs: float | None = None
    accumulate: int = 1
    ema: float | None = None
    precision: str = "auto"
    devices: int = 1
    strategy: str = "auto"
    optimizer: str = CHOICES["optimizer"]
    schedule: str = CHOICES["schedule"]
    augmentation: str = CHOICES["augmentation"]
    parameters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, recipe: Mapping[str, Any]) -> "Recipe":
        """The recipe of a preset: keys of its own beside parameters of what it names.

        Raises
        ------
        MergeloomError – an optimiser, schedule or augmentation that does not exist, a key of
        another one, or a key of none.
        """
        known = {
            kind: {name: part.parameters for name, part in named.items()}
            for kind, named in parts().items()
        }
        parameters = read_parameters(recipe, known)
        own = {key: value for key, value in recipe.items() if key in OWN}
        return cls(**own, parameters=parameters)

    def plan(self, examples: int) -> Span:
        """The run over a training set of this size."""
        if examples < self.batch_size:
            raise MergeloomError(
                f"{examples} training images are fewer than one batch of {self.batch_size}: "
                "set the recipe's batch_size to at most their number"
            )
        if self.batch_size % (self.devices * self.accumulate):
            raise MergeloomError(
                f"batch_size {self.batch_size} cannot be divided among {self.devices} devices × "
                f"{self.accumulate} micro-batches: set batch_size to a multiple of "
                f"{self.devices * self.accumulate}, or change devices or accumulate"
            )
        per_epoch = examples // self.batch_size
        total = self.steps if self.steps is not None else round((self.epochs or 0) * per_epoch)
        return Span(self.warmup_steps, per_epoch, total)

    def rates(self, span: Span) -> Callable[[float, int], float]:
        """A function (peak, step counted from 0) -> learning rate."""
        curve = get_part("schedule", self.schedule).function
        parameters = self.parameters.get("schedule", {})

        def rate(peak: float, step: int) -> float:
            if step < span.warmup_steps:
                return peak * (step + 1) / span.warmup_steps
            value: float = curve(peak, step, span, **parameters)
            return value

        return rate


OWN = {field.name for field in fields(Recipe)} - {"parameters"}
# Of the keys that a recipe may leave out.
DEFAULTS = {f.name: f.default for f in fields(Recipe) if f.name in OWN and f.default is not MISSING}


def read_parameters(recipe: Mapping[str, Any], known: Known) -> dict[str, dict[str, Any]]:
    """What a preset sets of its optimiser, schedule and augmentation, by kind.

    Raises
    ------
    MergeloomError – a name that `known` has not, or a key that is none of the recipe's own and
    none of what it names; the message lists what exists.
    """
    chosen = {kind: recipe.get(kind, name) for kind, name in CHOICES.items()}
    for kind, name in chosen.items():
        if name not in known[kind]:
            there_is = ", ".join(sorted(known[kind]))
            raise MergeloomError(f"unknown {kind} {name!r}; there is: {there_is}")
    given: dict[str, dict[str, Any]] = {kind: {} for kind in CHOICES}
    for key in sorted(set(recipe) - OWN):
        owners = [kind for kind, name in chosen.items() if key in known[kind][name]]
        if not owners:
            raise MergeloomError(_stray(key, chosen, known))
        given[owners[0]][key] = recipe[key]
    return given


def _stray(key: str, chosen: Mapping[str, str], known: Known) -> str:
    for kind, named in known.items():
        if owners := sorted(name for name, parameters in named.items() if key in parameters):
            takes = ", ".join(known[kind][chosen[kind]]) or "none"
            return (
                f"{key} is a parameter of the {kind} {' and '.join(owners)}, not of "
                f"{chosen[kind]}, which is what the recipe takes; its parameters: {takes}"
            )
    taken = {parameter for kind, name in chosen.items() for parameter in known[kind][name]}
    return f"unknown key {key!r} of a recipe; known keys: {', '.join(sorted(OWN | taken))}"
