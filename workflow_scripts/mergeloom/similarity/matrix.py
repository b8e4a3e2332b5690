"""The similarities of all pairs of models: computed, extended by more models, written and read."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mergeloom.errors import MergeloomError
from mergeloom.io.parquet import read_parquet_metadata, write_parquet
from mergeloom.similarity.feature_sets import FeatureSet
from mergeloom.similarity.features import Features
from mergeloom.similarity.measure import get_measure

FIELD = "similarity"  # of the file's metadata
MODEL = "model"  # the first column


@dataclass(frozen=True)
class SimilarityMatrix:
    """How alike M models are on n rows.

    models : their names.
    values : array [M, M], float64, symmetric, in the order of `models`; 1 on the diagonal.
    measure, parameters : what they were compared by, with all its parameters.
    normalised : whether rows of features had unit length.
    n : rows.
    rows : SHA-256 of what the rows are, where the files of features say so.
    """

    models: tuple[str, ...]
    values: NDArray[np.float64]
    measure: str
    parameters: Mapping[str, Any]
    normalised: bool
    n: int
    rows: str | None = None


def compare(
    sets: Sequence[FeatureSet],
    measure: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    normalise: bool = True,
    device: str = "cpu",
    known: SimilarityMatrix | None = None,
) -> SimilarityMatrix:
    """Compute the similarities of all pairs of models.

    Parameters
    ----------
    sets : features of the models, in any order.
    parameters : those that differ from the measure's defaults.
    normalise : divide each row of features by its length first.
    device : "cpu" or "cuda".
    known : a matrix of some of these models, by the same measure. Only what concerns the others is
        computed; its values stay as they are.

    Returns
    -------
    Models in the order of `sets`; with `known`, its models in its order, then the others.

    Raises
    ------
    MergeloomError
        For fewer than two models, an unknown measure or parameter, features that cannot be
        compared, and for a known matrix that does not go with all this.
    """
    if len(sets) < 2:
        raise MergeloomError(
            f"There is nothing to compare with {sets[0].model if sets else 'no features'}: give "
            "features of two models at least."
        )
    chosen = get_measure(measure)
    settings = chosen.settings(parameters or {})
    rows = next((found.rows for found in sets if found.rows is not None), None)
    count = 0
    if known is not None:
        _check_known(known, sets, measure, settings, normalise, rows)
        count = len(known.models)
        places = {model: place for place, model in enumerate(known.models)}
        sets = sorted(sets, key=lambda found: places.get(found.model, count))
    values = np.empty((len(sets), len(sets)))
    if known is not None:
        values[:count, :count] = known.values
    if count < len(sets):
        features = Features(sets, count, normalise=normalise, device=device)
        found = chosen.function(features, **settings).cpu().numpy()
        values[count:, :count] = found[:, :count]
        values[:count, count:] = found[:, :count].T
        # Equal but for rounding.
        values[count:, count:] = (found[:, count:] + found[:, count:].T) / 2
        np.fill_diagonal(values, 1.0)
    models = tuple(found.model for found in sets)
    return SimilarityMatrix(models, values, measure, settings, normalise, sets[0].n, rows)


def _check_known(
    known: SimilarityMatrix,
    sets: Sequence[FeatureSet],
    measure: str,
    settings: Mapping[str, Any],
    normalise: bool,
    rows: str | None,
) -> None:
    given = {found.model for found in sets}
    if missing := [model for model in known.models if model not in given]:
        raise MergeloomError(
            f"The matrix has {', '.join(missing)}, of which no features are given. More models can "
            "be compared with it only by its features: give them, too."
        )
    pairs = {
        "measure": (known.measure, measure),
        "parameters": (dict(known.parameters), dict(settings)),
        "normalised rows": (known.normalised, normalise),
        "number of rows": (known.n, sets[0].n),
    }
    if known.rows is not None and rows is not None:
        pairs["digest of rows"] = (known.rows, rows)
    for what, (old, new) in pairs.items():
        if old != new:
            raise MergeloomError(
                f"The matrix cannot be extended: its {what}: {old}, now {new}. Compare all models "
                "anew, or as they were compared."
            )


def write_matrix(path: Path, matrix: SimilarityMatrix, metadata: Mapping[str, str]) -> None:
    """Write a Parquet table: a column `model`, then one per model, in the order of the matrix.

    Parameters
    ----------
    metadata : more text fields of the table's schema, the record of provenance for instance.
    """
    about = {
        "measure": matrix.measure,
        "parameters": dict(matrix.parameters),
        "normalised": matrix.normalised,
        "n": matrix.n,
        "rows": matrix.rows,
    }
    columns: dict[str, Sequence[Any]] = {MODEL: list(matrix.models)}
    columns |= {model: matrix.values[:, m].tolist() for m, model in enumerate(matrix.models)}
    write_parquet(path, columns, {FIELD: json.dumps(about, sort_keys=True), **metadata})


def read_matrix(path: Path) -> SimilarityMatrix:
    """Read what `write_matrix` wrote.

    Raises
    ------
    MergeloomError
        If the file is missing, is no such table, or its rows and columns do not fit together.
    """
    if not path.is_file():
        raise MergeloomError(f"{path}: no such file. Check the path.")
    about = read_parquet_metadata(path).get(FIELD)
    if about is None:
        raise MergeloomError(
            f"{path}: is no matrix of similarities: its metadata have no field `{FIELD}`. "
            "`mergeloom similarity` writes such matrices."
        )
    table = pq.read_table(path)
    if table.column_names[:1] != [MODEL] or table.column_names[1:] != table[MODEL].to_pylist():
        raise MergeloomError(
            f"{path}: its columns do not name the models of its rows, in their order. It was "
            "changed since it was written: make it anew."
        )
    models = tuple(table.column_names[1:])
    values = np.array([table[model].to_numpy() for model in models], np.float64).T
    if not np.isfinite(values).all() or not np.array_equal(values, values.T):
        raise MergeloomError(
            f"{path}: its values are not those of a symmetric matrix of numbers. It was changed "
            "since it was written: make it anew."
        )
    return SimilarityMatrix(models, values, **json.loads(about))
