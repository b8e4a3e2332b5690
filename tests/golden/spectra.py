"""Statements in float64 numpy of what several spectral methods are built from."""

from collections.abc import Callable
from typing import Any

import numpy as np

Triple = tuple[np.ndarray, np.ndarray, np.ndarray]


def svd(matrix: np.ndarray) -> Triple:
    """Thin SVD without the vectors of singular values of zero."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    determined = values > 1e-10 * max(values[0], 1e-300)
    return left * determined, values * determined, right * determined[:, None]


def polar(matrix: np.ndarray) -> np.ndarray:
    """Product of the singular vectors."""
    left, _, right = svd(matrix)
    return left @ right


def of_matrices(
    formula: Callable[..., np.ndarray], deltas: dict[str, np.ndarray], **parameters: Any
) -> dict[str, np.ndarray]:
    """A model: the formula of the task vectors of matrices, the mean of all others."""
    return {
        key: formula(delta, **parameters) if delta.ndim == 3 else delta.mean(0)
        for key, delta in deltas.items()
    }


def tsv(deltas: np.ndarray) -> np.ndarray:
    """Algorithm 1 of arXiv 2412.00081, with factors that hold exactly T·k vectors."""
    tasks, rows, columns = deltas.shape
    kept = int(min(rows, columns) * (1 / tasks))
    triples = [svd(delta) for delta in deltas]
    left = np.hstack([u[:, :kept] for u, _, _ in triples])
    values = np.concatenate([s[:kept] for _, s, _ in triples])
    right = np.vstack([vt[:kept] for _, _, vt in triples])
    return polar(left) @ np.diag(values) @ polar(right)


def iso_c(deltas: np.ndarray) -> np.ndarray:
    """Mean singular value times the polar factor of the sum."""
    left, values, right = svd(deltas.sum(0))
    return values.mean() * left @ right


def iso_cts(deltas: np.ndarray, fraction: float = 0.8) -> np.ndarray:
    """Algorithm 2 of arXiv 2502.04959 with its code's rounding."""
    tasks, rows, columns = deltas.shape
    rank = min(rows, columns)
    specific = min(round((rank - int(fraction * rank)) / tasks), rank // tasks)
    common = rank - specific * tasks
    left, values, right = svd(deltas.sum(0))
    left, values, right = left[:, :common], values[:common], right[:common]
    lefts, spectra, rights = [], [], []
    for delta in deltas:
        u, s, vt = svd(delta - left @ left.T @ delta)
        lefts.append(u[:, :specific])
        spectra.append(s[:specific])
        rights.append(vt[:specific])
    both = np.concatenate([*spectra, values])
    return both.mean() * polar(np.hstack([*lefts, left])) @ polar(np.vstack([*rights, right]))
