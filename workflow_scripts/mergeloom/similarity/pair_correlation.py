"""Correlations over pairs of models, with intervals that know that pairs share models.

P pairs of M models are no P independent observations: with one model, all its pairs come and go.
So models are resampled, and a pair of two draws counts as often as both were drawn: the product of
their counts is its weight. That makes a resample a weighted correlation, and all resamples of all
pairs of variables a few matrix products. Pairs of a model with itself, which drawing it twice
would make, are left out.
"""

import hashlib
from typing import Final, NamedTuple

import numpy as np
from scipy.stats import rankdata

FEWEST: Final = 10  # pairs; two give a correlation of ±1 whatever they are
RESAMPLES: Final = 1000
LEVEL: Final = 0.95
# A resample with fewer different pairs says nothing.
_FEWEST_DISTINCT: Final = 3
_ROUNDING: Final = 1e-12  # of a variance, against that of all pairs
_TOGETHER: Final = 2**22  # values of resamples that are held together


class Resampling(NamedTuple):
    """How intervals come about.

    fewest : pairs; with fewer there is neither a correlation nor an interval.
    resamples : 0 for no intervals.
    level : share of the resamples that an interval holds, between its outer quantiles.
    """

    fewest: int = FEWEST
    resamples: int = RESAMPLES
    level: float = LEVEL
    seed: int = 0


class PairCorrelations(NamedTuple):
    """Correlations of D variables with one another, float64 [D, D]; intervals [2, D, D]."""

    pearson: np.ndarray
    spearman: np.ndarray
    pearson_interval: np.ndarray
    spearman_interval: np.ndarray


def correlate_pairs(
    values: np.ndarray, pairs: np.ndarray, strata: np.ndarray, resampling: Resampling, name: str
) -> PairCorrelations:
    """Correlate D variables over P pairs of M models: Pearson, and Spearman with mean ranks.

    Intervals are quantiles over resamples of models, each stratum of them resampled by itself.
    Resamples with fewer than 3 different pairs, or in which a variable is constant, do not count.

    Parameters
    ----------
    values : float [D, P], finite.
    pairs : int [2, P], numbers of two different models each; a pair occurs once.
    strata : int [M] – models of a negative stratum are in no pair and are not drawn.
    name : what is correlated: it and the seed make the resamples, so that those of one set of pairs
        depend on no other.

    Returns
    -------
    PairCorrelations. NaN where there are fewer than `fewest` pairs, or a variable is constant.
    """
    variables = len(values)
    nothing = np.full((variables, variables), np.nan)
    if pairs.shape[1] < resampling.fewest:
        return PairCorrelations(nothing, nothing, *(np.stack([nothing] * 2) for _ in range(2)))
    ranks = rankdata(values, axis=1)
    found = PairCorrelations(
        _pearson(values), _pearson(ranks), *_intervals(values, pairs, strata, resampling, name)
    )
    return found


def _pearson(values: np.ndarray) -> np.ndarray:
    """Pearson correlations of the rows of [D, P]."""
    weights = np.ones((1, values.shape[1]))
    found: np.ndarray = _weighted(_standardised(values)[None], weights)[0]
    return found


def _standardised(values: np.ndarray) -> np.ndarray:
    """Rows [D, P] with mean 0 and variance 1; zeros where they are constant but for rounding."""
    centred = values - values.mean(axis=1, keepdims=True)
    size = np.sqrt((centred**2).mean(axis=1, keepdims=True))
    constant = size <= 1e-12 * np.abs(values).max(axis=1, keepdims=True)
    return np.where(constant, 0, centred / np.where(constant, 1, size))


def _weighted(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted Pearson correlations [B, D, D] of [B or 1, D, P] with weights [B, P]."""
    total = weights.sum(axis=1)[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (values @ weights[:, :, None])[..., 0] / total
        products = (values * weights[:, None]) @ np.swapaxes(values, 1, 2) / total[..., None]
        covariance = products - means[:, :, None] * means[:, None]
        variance = np.diagonal(covariance, axis1=1, axis2=2)
        square = np.diagonal(products, axis1=1, axis2=2)
        deviation = np.sqrt(np.where(variance > _ROUNDING * square, variance, np.nan))
        found = covariance / (deviation[:, :, None] * deviation[:, None])
    return np.clip(found, -1, 1)


def _intervals(
    values: np.ndarray, pairs: np.ndarray, strata: np.ndarray, resampling: Resampling, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Intervals [2, D, D] of Pearson and of Spearman."""
    variables, many = values.shape
    standard = _standardised(values)
    ranking = [_Ranking(row) for row in values]
    counts = _draw(strata, resampling, name)
    chunk = max(1, _TOGETHER // (variables * many))
    pearson, spearman = [np.empty((0, variables, variables))], [np.empty((0, variables, variables))]
    for start in range(0, len(counts), chunk):
        some = counts[start : start + chunk]
        weights = (some[:, pairs[0]] * some[:, pairs[1]]).astype(float)
        weights = weights[(weights > 0).sum(axis=1) >= _FEWEST_DISTINCT]
        pearson.append(_weighted(standard[None], weights))
        ranks = np.stack([each(weights) for each in ranking], axis=1)
        spearman.append(_weighted(ranks, weights))
    tail = (1 - resampling.level) / 2
    low, high = (_quantiles(np.concatenate(found), tail) for found in (pearson, spearman))
    return low, high


def _quantiles(found: np.ndarray, tail: float) -> np.ndarray:
    """The quantiles `tail` and 1 − `tail` of what is not NaN in [B, D, D]: [2, D, D]."""
    result = np.full((2, *found.shape[1:]), np.nan)
    there = ~np.isnan(found).all(axis=0) if len(found) else np.zeros(found.shape[1:], bool)
    if there.any():
        result[:, there] = np.nanquantile(found[:, there], [tail, 1 - tail], axis=0)
    return result


class _Ranking:
    """Mean ranks of values, each of which occurs as often as its weight says."""

    def __init__(self, values: np.ndarray) -> None:
        different, self._places = np.unique(values, return_inverse=True)
        self._order = np.argsort(self._places, kind="stable")
        self._starts = np.searchsorted(self._places[self._order], np.arange(len(different)))

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """Ranks [B, P] with weights [B, P], about the middle and in units of half the total."""
        each = np.add.reduceat(weights[:, self._order], self._starts, axis=1)
        # A value's copies take the ranks below + 1 … below + each: their mean, less that of all.
        ranks = np.cumsum(each, axis=1) - each / 2
        total = weights.sum(axis=1, keepdims=True)
        middle = np.take(ranks, self._places, axis=1)
        found: np.ndarray = 2 * middle / total - 1
        return found


def _draw(strata: np.ndarray, resampling: Resampling, name: str) -> np.ndarray:
    """How often each model is drawn in each resample, int64 [B, M]."""
    digest = hashlib.sha256(f"{resampling.seed} {name}".encode()).digest()
    generator = np.random.default_rng(np.frombuffer(digest, np.uint32))
    counts = np.zeros((resampling.resamples, len(strata)), np.int64)
    for stratum in np.unique(strata[strata >= 0]):
        members = np.flatnonzero(strata == stratum)
        share = np.full(len(members), 1 / len(members))
        counts[:, members] = generator.multinomial(len(members), share, resampling.resamples)
    return counts
