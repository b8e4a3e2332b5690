"""Where extractors come from: libraries of pretrained networks, each a source registered by name.

A network is fetched once, into one safetensors file whose header holds what else is needed to build
it; from then on nothing is downloaded. How it is fetched is registered apart from how it is built,
so that what is computed with a network does not depend on how a hub is asked.
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from mergeloom.errors import MergeloomError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mergeloom.io.tensors import TensorFile

Modality = Literal["images", "text"]


@dataclass(frozen=True)
class Published:
    """A published network as it was fetched, by a function of the extractor's preset.

    Attributes
    ----------
    weights : without the head that it was trained with.
    fields : text fields of the header, from which `build` builds the network.
    record : what each file is called -> its SHA-256.
    """

    weights: "Mapping[str, Tensor]"
    record: Mapping[str, str]
    fields: Mapping[str, str] = field(default_factory=dict)


class Source(Protocol):
    """What a library of pretrained networks provides; `extractor` is the preset."""

    def build(self, extractor: Mapping[str, Any], file: "TensorFile") -> "nn.Module":
        """The network from the file that was made of it.

        Its forward pass gives features [b, d]: of images float32 [b, 3, s, s], normalised by the
        preset, or of a list of b texts.
        """
        ...

    def preprocessing(self, extractor: Mapping[str, Any], file: "TensorFile") -> dict[str, Any]:
        """What is done to an image or a text before the network reads it, as JSON."""
        ...


Fetch = Callable[[Mapping[str, Any]], Published]

_SOURCES: dict[str, Source] = {}
_FETCHERS: dict[str, Fetch] = {}
_Class = TypeVar("_Class", bound=type)


def extractor(name: str, *, modality: Modality) -> Callable[[_Class], _Class]:
    """Register a class as the source that presets name by the key `name`.

    modality : what its networks read, which the workflow looks up without running this.
    """

    def register(cls: _Class) -> _Class:
        _SOURCES[name] = cls()
        return cls

    return register


def fetcher(name: str) -> Callable[[Fetch], Fetch]:
    """Register the function that fetches networks of the source `name`, unless they are at hand."""

    def register(function: Fetch) -> Fetch:
        _FETCHERS[name] = function
        return function

    return register


def source_of(extractor: Mapping[str, Any]) -> Source:
    """The source of an extractor's preset."""
    _import_modules()
    return next(source for name, source in _SOURCES.items() if name in extractor)


def fetch_network(extractor: Mapping[str, Any]) -> Published:
    """Fetch the network of an extractor's preset.

    Raises
    ------
    MergeloomError
        As the function that is registered for its source does.
    """
    _import_modules()
    return next(fetch for name, fetch in _FETCHERS.items() if name in extractor)(extractor)


def _import_modules() -> None:
    package = importlib.import_module("mergeloom.features")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")


def library(name: str, extra: str) -> Any:
    """Import an optional library.

    Raises
    ------
    MergeloomError
        If it is not installed; says which extra of mergeloom brings it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MergeloomError(
            f"{name} is not installed, which this extractor is of. Install it: "
            f'pip install "mergeloom[{extra}]"'
        ) from error
