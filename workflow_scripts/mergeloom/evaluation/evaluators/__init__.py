"""Evaluators of models whose answers are more than the highest of their logits, by modality.

Each is a module of this package, apart from `mergeloom.evaluation.accuracy`, which asks for it: an
evaluation of images does not depend on how texts are scored.
"""

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any, TypeVar

Evaluator = Callable[..., dict[str, float]]  # with the parameters of `accuracy.evaluate`
_EVALUATORS: dict[str, Evaluator] = {}
_Function = TypeVar("_Function", bound=Callable[..., Any])


def evaluator(modality: str) -> Callable[[_Function], _Function]:
    """Register a function as the evaluator of models of this modality."""

    def register(function: _Function) -> _Function:
        _EVALUATORS[modality] = function
        return function

    return register


def get_evaluator(modality: str) -> Evaluator | None:
    """The evaluator of a modality; None where it has none of its own."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return _EVALUATORS.get(modality)
