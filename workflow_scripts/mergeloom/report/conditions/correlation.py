"""Rank correlation over conditions, with an interval that knows that points hang together."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from mergeloom.report.conditions.study import FINETUNED
from mergeloom.report.conditions.tidy import AVERAGE

FEWEST: Final = 5
RESAMPLES: Final = 2000
MERGED: Final = "merged"


class Correlation(NamedTuple):
    """Spearman's rank correlation.

    low, high : 95 % interval; NaN where there is none.
    points, conditions : how many it is of.
    """

    value: float
    low: float
    high: float
    points: int
    conditions: int


def rank_correlation(
    x: ArrayLike, y: ArrayLike, conditions: Sequence[str], seed: int = 0
) -> Correlation:
    """Spearman's rank correlation of x and y, with a percentile bootstrap interval.

    Resampled are conditions, with all their points: the seeds and selections of one condition are
    no independent observations.

    Parameters
    ----------
    x, y : [n].
    conditions : [n] – the condition of each point.
    seed : of the resampling.

    Returns
    -------
    Correlation. Its value is NaN for fewer than 5 points or where x or y is constant; its interval
    is NaN then, too, and where there is one condition.
    """
    x, y, names = np.asarray(x, dtype=float), np.asarray(y, dtype=float), np.asarray(conditions)
    each = [np.flatnonzero(names == name) for name in dict.fromkeys(conditions)]
    if len(x) < FEWEST:
        return Correlation(np.nan, np.nan, np.nan, len(x), len(each))
    value = spearman(x, y)
    if len(each) == 1 or np.isnan(value):
        return Correlation(value, np.nan, np.nan, len(x), len(each))
    random = np.random.default_rng(seed)
    values = []
    for _ in range(RESAMPLES):
        drawn = np.concatenate([each[i] for i in random.integers(0, len(each), len(each))])
        values.append(spearman(x[drawn], y[drawn]))
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return Correlation(value, float(low), float(high), len(x), len(each))


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Spearman's rank correlation, ties with their mean rank; NaN where x or y is constant."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(rankdata(x), rankdata(y))[0, 1])


def points_of(frame: pd.DataFrame, merger: str) -> pd.DataFrame:
    """What log-traces and accuracies are compared of: a point for every collection of experts.

    Parameters
    ----------
    frame : what `mergeloom.report.conditions.tidy.tidy` returns.

    Returns
    -------
    DataFrame with the columns condition, selection, seed, finetuned and merged (log-trace on
    training images) and accuracy (of the merged model on test images): averages over tasks.
    """
    averages = frame[frame["task"] == AVERAGE].set_index(["model", "split", "metric"])
    keys = ["condition", "selection", "seed"]
    columns = {
        FINETUNED: (FINETUNED, "train", "log_trace"),
        MERGED: (merger, "train", "log_trace"),
        "accuracy": (merger, "test", "accuracy"),
    }
    series = [
        averages.loc[[key]].set_index(keys)["value"].rename(name) for name, key in columns.items()
    ]
    return pd.concat(series, axis=1).reset_index()
