"""The work of `mergeloom similarity`: files of features at hand to a matrix of similarities."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mergeloom.cli.device import chosen_device
from mergeloom.cli.file_names import shortest_names
from mergeloom.cli.output import check_output
from mergeloom.cli.parameters import parse_parameters
from mergeloom.errors import MergeloomError
from mergeloom.io.checksums import sha256
from mergeloom.provenance.code import digest
from mergeloom.provenance.record import as_metadata, record
from mergeloom.similarity.feature_sets import open_feature_sets
from mergeloom.similarity.matrix import SimilarityMatrix, compare, read_matrix, write_matrix
from mergeloom.similarity.measure import get_measure

log = logging.getLogger(__name__)
RULE = "mergeloom similarity"
PACKAGES = ("numpy", "pyarrow", "safetensors", "scipy", "torch")
_SHOWN = 10  # models whose similarities are printed one by one


@dataclass(frozen=True)
class Request:
    """What the user asks for, as it was typed.

    measure : its name; None for that of `known`.
    models : their names; the stems of the files of features, if empty.
    parameters : "name=value" of the measure.
    own : parameters that have an option of their own, if they were given.
    raw : leave the length of rows as it is; None if nothing was said.
    known : a matrix to extend.
    device : "cpu", "cuda" or "auto".
    """

    features: Sequence[Path]
    out: Path
    measure: str | None = None
    models: Sequence[str] = ()
    parameters: Sequence[str] = ()
    own: Mapping[str, Any] | None = None
    raw: bool | None = None
    known: Path | None = None
    device: str = "auto"
    threads: int | None = None
    overwrite: bool = False


def compare_files(request: Request) -> SimilarityMatrix:
    """Compare models as the user asks for it, write their matrix and return it.

    Raises
    ------
    MergeloomError
        For whatever is wrong with the request or the files. No file is then left behind.
    """
    known = read_matrix(request.known) if request.known else None
    measure = request.measure or (known.measure if known else "")
    parameters = _parameters(request, measure)
    if known is not None and measure == known.measure:
        parameters = {**known.parameters, **parameters}
    raw = request.raw if request.raw is not None else known is not None and not known.normalised
    inputs = [*request.features, *([request.known] if request.known else [])]
    check_output(request.out, inputs, overwrite=request.overwrite, suffix=".parquet")
    sets = open_feature_sets(request.features, list(request.models) or None)
    if request.threads:
        torch.set_num_threads(request.threads)
    device = chosen_device(request.device)
    matrix = compare(sets, measure, parameters, normalise=not raw, device=device, known=known)
    if known is not None:
        new = len(matrix.models) - len(known.models)
        log.info("%d models were known, %d are new", len(known.models), new)
    write_matrix(request.out, matrix, as_metadata(_record(inputs, matrix, device)))
    return matrix


def summary(matrix: SimilarityMatrix) -> list[str]:
    """What a matrix says, in lines: all of it, if it is small, and its extremes."""
    models, values = matrix.models, matrix.values
    lines = []
    if len(models) <= _SHOWN:
        width = max(8, *map(len, models))
        lines.append(" " * width + "".join(f"  {model:>{width}}" for model in models))
        for model, row in zip(models, values, strict=True):
            lines.append(f"{model:<{width}}" + "".join(f"  {v:{width}.4f}" for v in row))
    rows, columns = np.triu_indices(len(models), 1)
    pairs = values[rows, columns]
    said = ", ".join(f"{name} {value}" for name, value in matrix.parameters.items())
    lines.append(
        f"{matrix.measure}{said and f' ({said})'} of {len(models)} models on {matrix.n} rows, "
        f"{len(pairs)} pairs: mean {pairs.mean():.4f}"
    )
    for what, place in (("most alike", pairs.argmax()), ("least alike", pairs.argmin())):
        one, other = models[rows[place]], models[columns[place]]
        lines.append(f"{what}: {one} and {other}, {pairs[place]:.4f}")
    return lines


def _parameters(request: Request, measure: str) -> dict[str, Any]:
    given, _ = parse_parameters(request.parameters)
    for name, value in (request.own or {}).items():
        if name in given:
            raise MergeloomError(f"--{name} and --param {name}=… were given. Give one of them.")
        if name not in get_measure(measure).parameters:
            raise MergeloomError(
                f"--{name} is no parameter of {measure}. Leave it out, or take a measure that has "
                "it: `mergeloom similarity --list` shows them."
            )
        given[name] = value
    return given


def _record(inputs: Sequence[Path], matrix: SimilarityMatrix, device: str) -> dict[str, Any]:
    """What was done, with the names of inputs and not their places: a record as jobs write it."""
    names = shortest_names(inputs)
    content = record(
        rule=RULE,
        inputs=[],
        params={
            "measure": matrix.measure,
            "parameters": dict(matrix.parameters),
            "normalised": matrix.normalised,
            "models": list(matrix.models),
        },
        code=digest("mergeloom/cli/similarity.py", measure=matrix.measure),
        packages=PACKAGES,
        device=device,
        seed=0,
        roots={},
    )
    return content | {"inputs": {names[path]: sha256(path) for path in inputs}}
