"""Consistency of similarities: do two models that see alike on one data set see alike on another?

R(Φ, Θ; A, B) of arXiv 2411.05561: the correlation, over pairs of a model of Φ and one of Θ, of
their similarity on data set A and their similarity on B.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd

from mergeloom.errors import MergeloomError
from mergeloom.similarity.model_sets import PairSet
from mergeloom.similarity.pair_correlation import Resampling, correlate_pairs


class SimilarityMatrix(NamedTuple):
    """Similarities of M models on one data set, float [M, M], and the names of the models."""

    models: Sequence[str]
    values: np.ndarray


def align(matrices: Mapping[str, SimilarityMatrix], models: Sequence[str]) -> np.ndarray:
    """Similarities of the same models on D data sets, float64 [D, M, M], symmetric.

    A matrix that is not symmetric counts with the mean of both directions.

    Parameters
    ----------
    matrices : by data set.
    models : in the order wanted; a matrix may have more.

    Raises
    ------
    MergeloomError – a model that a matrix does not have, or has twice; values that are not finite;
    a matrix of another shape than its models'.
    """
    aligned = []
    for data_set, (names, values) in matrices.items():
        places = {name: place for place, name in enumerate(names)}
        if len(places) < len(names):
            twice = next(name for name in names if list(names).count(name) > 1)
            raise MergeloomError(f"{data_set}: the model {twice} is there twice: leave one out")
        if np.shape(values) != (len(names), len(names)):
            raise MergeloomError(
                f"{data_set}: similarities are {list(np.shape(values))}, but there are "
                f"{len(names)} models: expected a row and a column for each"
            )
        if missing := [name for name in models if name not in places]:
            raise MergeloomError(
                f"{data_set}: has no similarities of {', '.join(missing)}: add these models to it, "
                "or leave them out of all data sets"
            )
        own = [places[name] for name in models]
        chosen = np.asarray(values, dtype=np.float64)[np.ix_(own, own)]
        off = ~np.eye(len(models), dtype=bool)
        if not np.isfinite(chosen[off]).all():
            row, column = np.argwhere(~np.isfinite(chosen) & off)[0]
            raise MergeloomError(
                f"{data_set}: the similarity of {models[row]} and {models[column]} is not finite: "
                "compute it anew, or leave one of the two models out"
            )
        aligned.append((chosen + chosen.T) / 2)
    return np.stack(aligned)


def consistency(
    measure: str,
    matrices: Mapping[str, SimilarityMatrix],
    models: Sequence[str],
    sets: Sequence[PairSet],
    resampling: Resampling | None = None,
) -> pd.DataFrame:
    """Correlate similarities of pairs of models between every two data sets.

    Parameters
    ----------
    measure : name of the similarity measure that `matrices` are of.
    matrices : by data set, at least two.
    models : M names, in the order of the sets' masks.
    sets : pairs of models that are correlated (`mergeloom.similarity.model_sets`).

    Returns
    -------
    DataFrame, a row for each set and pair of data sets (253 of 23), with `measure`, `data_set_1`,
    `data_set_2`, `kind`, `set_1`, `set_2`, `pairs`, `pearson`, its interval `low` and `high`,
    `spearman`, `spearman_low` and `spearman_high`. Where a set has too few pairs the numbers are
    NaN, and `pairs` says how many there are.

    Raises
    ------
    MergeloomError – fewer than two data sets, or what `align` refuses.
    """
    resampling = resampling or Resampling()
    if len(matrices) < 2:
        raise MergeloomError(
            f"consistency of {measure}: similarities are of {len(matrices)} data sets, but two are "
            "compared: give at least 2"
        )
    similarities = align(matrices, models)
    names = list(matrices)
    rows = []
    for each in sets:
        pairs = each.pairs()
        found = correlate_pairs(
            similarities[:, pairs[0], pairs[1]],
            pairs,
            each.strata(),
            resampling,
            f"{each.kind}/{each.name_1}/{each.name_2}",
        )
        for a, b in combinations(range(len(names)), 2):
            rows.append(
                {
                    "measure": measure,
                    "data_set_1": names[a],
                    "data_set_2": names[b],
                    "kind": each.kind,
                    "set_1": each.name_1,
                    "set_2": each.name_2,
                    "pairs": pairs.shape[1],
                    "pearson": found.pearson[a, b],
                    "low": found.pearson_interval[0, a, b],
                    "high": found.pearson_interval[1, a, b],
                    "spearman": found.spearman[a, b],
                    "spearman_low": found.spearman_interval[0, a, b],
                    "spearman_high": found.spearman_interval[1, a, b],
                }
            )
    return pd.DataFrame(rows)
