"""Measures of similarity, one pair of models at a time, in float64, as their papers have them."""

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import orthogonal_procrustes, qr, subspace_angles
from scipy.stats import pearsonr, spearmanr

Array = NDArray[np.float64]


def unit_rows(x: Array) -> Array:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def squared_distances(x: Array) -> Array:
    return ((x[:, None] - x[None]) ** 2).sum(2)


def rbf(x: Array, sigma: float) -> Array:
    return np.exp(-squared_distances(x) / (2 * sigma**2))


def u_centred(kernel: Array) -> Array:
    n = len(kernel)
    hollow = kernel - np.diag(np.diag(kernel))
    means = hollow.sum(1) / (n - 2) - hollow.sum() / (2 * (n - 1) * (n - 2))
    centred = hollow - means[:, None] - means[None]
    return centred - np.diag(np.diag(centred))


def doubly_centred(kernel: Array) -> Array:
    n = len(kernel)
    h = np.eye(n) - 1 / n
    return h @ kernel @ h


def cka(kernel: Array, other: Array, biased: bool) -> float:
    centre = doubly_centred if biased else u_centred
    kernel, other = centre(kernel), centre(other)
    norms = (kernel**2).sum() * (other**2).sum()
    return float((kernel * other).sum() / np.sqrt(norms))


def distances(x: Array) -> Array:
    """1 - Pearson's r of all pairs of rows; what differs by rounding is equal."""
    rows, columns = np.triu_indices(len(x), 1)
    return np.round(1 - np.corrcoef(x)[rows, columns], 12)


def rsa(x: Array, y: Array, method: str) -> float:
    correlate = {"pearson": pearsonr, "spearman": spearmanr}[method]
    return float(correlate(distances(x), distances(y)).statistic)


def procrustes(x: Array, y: Array) -> float:
    """1 - d²/2 with the distance d after the rotation that scipy finds."""
    x, y = (z - z.mean(0) for z in (x, y))
    width = max(x.shape[1], y.shape[1])
    x, y = (np.pad(z / np.linalg.norm(z), ((0, 0), (0, width - z.shape[1]))) for z in (x, y))
    rotation, _ = orthogonal_procrustes(x, y)
    return float(1 - ((x @ rotation - y) ** 2).sum() / 2)


def mutual_knn(x: Array, y: Array, k: int) -> float:
    shared = []
    for i in range(len(x)):
        sets = []
        for z in (x, y):
            cosines = [
                -np.inf if j == i else z[i] @ z[j] / np.linalg.norm(z[i]) / np.linalg.norm(z[j])
                for j in range(len(z))
            ]
            sets.append(set(np.argsort(cosines)[-k:]))
        shared.append(len(sets[0] & sets[1]) / k)
    return float(np.mean(shared))


def svcca(x: Array, y: Array, variance: float) -> float:
    """Cosines of the angles between the spans of the leading principal components."""
    spans = []
    for z in (x, y):
        u, s, _ = np.linalg.svd(z - z.mean(0), full_matrices=False)
        kept = int(np.searchsorted(np.cumsum(s**2) / np.sum(s**2), variance)) + 1
        spans.append(u[:, :kept])
    return float(np.cos(subspace_angles(*spans)).mean())


def pwcca_one_way(x: Array, y: Array) -> float:
    """Weights by the features of x, canonical variates by QR as in Morcos et al., appendix."""
    x, y = x - x.mean(0), y - y.mean(0)
    qx, qy = qr(x, mode="economic")[0], qr(y, mode="economic")[0]
    u, rho, _ = np.linalg.svd(qx.T @ qy, full_matrices=False)
    weights = np.abs((qx @ u).T @ x).sum(1)
    return float((weights * rho).sum() / weights.sum())


def pwcca(x: Array, y: Array) -> float:
    return (pwcca_one_way(x, y) + pwcca_one_way(y, x)) / 2
