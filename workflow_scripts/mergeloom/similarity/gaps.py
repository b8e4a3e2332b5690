"""Similarity against the gap in accuracy: do models that see alike do equally well?"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from mergeloom.errors import MergeloomError
from mergeloom.similarity.consistency import SimilarityMatrix, align
from mergeloom.similarity.model_sets import all_pairs
from mergeloom.similarity.pair_correlation import Resampling, correlate_pairs


def gap_correlation(
    measure: str,
    matrices: Mapping[str, SimilarityMatrix],
    models: Sequence[str],
    accuracies: Mapping[str, Mapping[str, float]],
    resampling: Resampling | None = None,
) -> pd.DataFrame:
    """Correlate s(φ, θ) with |accuracy(φ) − accuracy(θ)| over all pairs of models, by data set.

    After arXiv 2411.05561, whose accuracies are means of linear probes over three seeds.

    Parameters
    ----------
    matrices : similarities by data set.
    models : those compared.
    accuracies : by data set and model; of further data sets and models, too.

    Returns
    -------
    DataFrame, a row for each data set, with `measure`, `data_set`, `pairs`, `pearson`, its interval
    `low` and `high`, `spearman`, `spearman_low` and `spearman_high`.

    Raises
    ------
    MergeloomError – an accuracy that is missing or not finite, or what `align` refuses.
    """
    resampling = resampling or Resampling()
    every = all_pairs(len(models))
    pairs = every.pairs()
    rows = []
    for data_set, matrix in matrices.items():
        similarities = align({data_set: matrix}, models)[0]
        own = accuracies.get(data_set, {})
        missing = [name for name in models if not np.isfinite(own.get(name, np.nan))]
        if missing:
            raise MergeloomError(
                f"{data_set}: there is no accuracy of {', '.join(missing)}: fit their probes on "
                "this data set, or leave these models out"
            )
        accuracy = np.array([own[name] for name in models], dtype=np.float64)
        gap = np.abs(accuracy[pairs[0]] - accuracy[pairs[1]])
        values = np.stack([similarities[pairs[0], pairs[1]], gap])
        found = correlate_pairs(values, pairs, every.strata(), resampling, f"gap/{data_set}")
        rows.append(
            {
                "measure": measure,
                "data_set": data_set,
                "pairs": pairs.shape[1],
                "pearson": found.pearson[0, 1],
                "low": found.pearson_interval[0, 0, 1],
                "high": found.pearson_interval[1, 0, 1],
                "spearman": found.spearman[0, 1],
                "spearman_low": found.spearman_interval[0, 0, 1],
                "spearman_high": found.spearman_interval[1, 0, 1],
            }
        )
    return pd.DataFrame(rows)
