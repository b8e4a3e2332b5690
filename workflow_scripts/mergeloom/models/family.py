"""Model families: what everything above needs to know of a kind of model, and no more.

A merger asks which parameters are matrices, an evaluator how a batch becomes logits; neither knows
CLIP. A family is a class registered by name in a module of this package.
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from mergeloom.errors import MergeloomError
from mergeloom.models.naming import Naming


class Family(Naming, Protocol):
    """What a family provides beside the naming of its parameters.

    Tensors are torch tensors; `architecture` is the preset's entry.

    modality : what its examples are, `images` or `text`.
    """

    modality: str

    def build(self, architecture: Mapping[str, Any]) -> Any:
        """The whole model, initialised at random from torch's global generator."""
        ...

    def pretrained(self, architecture: Mapping[str, Any], weights: str) -> tuple[Any, Path]:
        """The whole model with published weights, and the file that they were read from."""
        ...

    def build_tower(self, architecture: Mapping[str, Any], weights: Mapping[str, Any]) -> Any:
        """The fine-tuned part with these weights (keys as in files)."""
        ...

    def tower_weights(self, tower: Any) -> dict[str, Any]:
        """The tower's own tensors (not copies) under their keys in files."""
        ...

    def read_head(self, file: Any, device: str) -> Any:
        """The head of a task on a device, out of an opened `mergeloom.io.tensors.TensorFile`."""
        ...

    def logits(self, tower: Any, head: Any, inputs: Any) -> Any:
        """Inputs of n examples and a task's head to logits [n, classes]."""
        ...

    def entropy_logits(self, tower: Any, head: Any, inputs: Any) -> Any:
        """The logits [n, *] whose entropy adaptation at test time lowers."""
        ...

    def loss(self, tower: Any, head: Any, inputs: Any, labels: Any) -> tuple[Any, Any]:
        """What training lowers, [], a mean over examples; and how many are right, int64 []."""
        ...

    def features(self, tower: Any, inputs: Any) -> Any:
        """What the model makes of n examples before any head: [n, d]."""
        ...

    # Of a family of text:

    def answer(self, tower: Any, head: Any, inputs: Any) -> tuple[Any, Any]:
        """`logits`, and the token ids that are generated, int64 [n, length]."""
        ...

    # Of a family of images, whose heads are made of words:

    def tokenize(self, architecture: Mapping[str, Any], texts: Sequence[str]) -> Any:
        """Texts to the token ids that the model reads: int64 [n, context]."""
        ...

    def zero_shot_head(
        self, model: Any, architecture: Mapping[str, Any], classnames: Sequence[str],
        templates: Sequence[str],
    ) -> Any:  # fmt: skip
        """A frozen linear head [classes, d] from the text tower."""
        ...


_FAMILIES: dict[str, Family] = {}
_Class = TypeVar("_Class", bound=type)


def family(name: str, *, modality: str) -> Callable[[_Class], _Class]:
    """Register a class as the family `name`; it is instantiated once, without arguments.

    Parameters
    ----------
    modality : what its examples are, `images` or `text`; becomes an attribute.
    """

    def register(cls: _Class) -> _Class:
        cls.modality = modality  # type: ignore[attr-defined]
        _FAMILIES[name] = cls()
        return cls

    return register


def import_modules() -> None:
    """Import the modules of this package, so that each registers what it has."""
    package = importlib.import_module("mergeloom.models")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")


def families() -> dict[str, Family]:
    """All families by name."""
    import_modules()
    return _FAMILIES


def get_family(name: str) -> Family:
    """The family called `name`, or a MergeloomError that lists those that exist."""
    known = families()
    if name not in known:
        raise MergeloomError(
            f"unknown family {name!r}; those that can be built and evaluated are: "
            f"{', '.join(sorted(known))}"
        )
    return known[name]
