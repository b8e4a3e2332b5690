"""Decay of the singular values of task vectors, per kind of layer."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from safetensors import SafetensorError, safe_open

from mergeloom.errors import MergeloomError
from mergeloom.report import style

FLOOR = 1e-4
"""Singular values below this share of the largest are cut off: they are rounding."""

Spectra = Mapping[str, np.ndarray]


def read_spectra(path: str | Path) -> dict[str, np.ndarray]:
    """Read the singular values of an SVD cache, without torch and without the vectors.

    Returns
    -------
    Key of the matrix → ndarray [min(m, n)], descending. All-zero matrices are left out.

    Raises
    ------
    MergeloomError
        The file is missing, no safetensors file, or holds no singular values.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            keys = [key for key in file.keys() if key.endswith(".S")]  # noqa: SIM118 (no mapping)
            spectra = {key.removesuffix(".S"): file.get_tensor(key) for key in sorted(keys)}
    except (OSError, SafetensorError) as error:
        raise MergeloomError(
            f"{path}: not readable as an SVD cache ({error}).\n"
            "Delete it and run the rule that makes it."
        ) from error
    spectra = {key: values for key, values in spectra.items() if np.any(values)}
    if not spectra:
        raise MergeloomError(
            f"{path}: holds no singular values (tensors named KEY.S that are not zero).\n"
            "Give the svd.safetensors of a task whose checkpoint differs from the base model."
        )
    return spectra


def singular_values(spectra: Mapping[str, Spectra], subject: str = "") -> Figure:
    """Draw the singular values of each task's task vector, relative to the largest, by layer kind.

    A panel per kind of matrix (the same key in every block); a line per task: the mean over the
    blocks. The dotted line marks the r/T singular values that TSV-M (arXiv 2412.00081) keeps of
    each of T tasks, r = min(m, n), and the panel says how much of ‖Δ‖² they hold on average.

    Parameters
    ----------
    spectra : task → key of the matrix → ndarray [r] of singular values, descending.

    Raises
    ------
    MergeloomError
        There is no task, or tasks differ in the length of a matrix' spectrum.
    """
    kinds = _kinds(spectra)
    rows, columns = style.grid(len(kinds), 3)
    heading = "How fast the singular values of the task vectors decay"
    height = max(2.5 * rows + 1.2, 0.2 * len(spectra) + 1)  # the legend names every task
    with style.figure(3.4 * columns + 1.9, height, heading, subject) as fig:
        panels = fig.subplots(rows, columns, sharey=True, squeeze=False)
        for axes, (kind, keys) in zip(panels.flat, kinds.items(), strict=False):
            _panel(axes, kind, keys, spectra)
        for axes in panels.flat[len(kinds) :]:
            axes.set_visible(False)
        panels[0, 0].set_ylim(max(FLOOR, panels[0, 0].dataLim.y0 / 2), 1.3)
        fig.supylabel("σᵢ / σ₁", fontsize=9)
        fig.supxlabel("index i of the singular value", fontsize=9)
        fig.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside right center")
        return fig


def _kinds(spectra: Mapping[str, Spectra]) -> dict[tuple[str, int], list[str]]:
    """Group keys by kind: the name with block numbers as `*`, and the length of the spectrum."""
    if not spectra:
        raise MergeloomError(
            "No SVD cache was given. Give the svd.safetensors of at least one task."
        )
    kinds: dict[tuple[str, int], list[str]] = {}
    lengths: dict[str, tuple[str, int]] = {}
    for task, matrices in spectra.items():
        for key, values in matrices.items():
            first, length = lengths.setdefault(key, (task, len(values)))
            if len(values) != length:
                raise MergeloomError(
                    f"{key} has {len(values)} singular values in the task vector of {task}, but "
                    f"{length} in that of {first}.\n"
                    "The tasks were fine-tuned from different encoders: draw those of one encoder."
                )
    for key, (_, length) in lengths.items():
        kinds.setdefault((re.sub(r"\.\d+(?=\.|$)", ".*", key), length), []).append(key)
    return kinds


def _panel(
    axes: Axes, kind: tuple[str, int], keys: list[str], spectra: Mapping[str, Spectra]
) -> None:
    name, length = kind
    kept = length // len(spectra)
    shares = []
    for index, (task, matrices) in enumerate(spectra.items()):
        present = [np.asarray(matrices[key], dtype=float) for key in keys if key in matrices]
        if present:
            mean = np.mean([values / values[0] for values in present], axis=0)
            look = style.series(index) | {"marker": "", "linewidth": 1.4}
            axes.plot(
                np.arange(1, length + 1), np.where(mean >= FLOOR, mean, np.nan), label=task, **look
            )
            shares += [np.sum(values[:kept] ** 2) / np.sum(values**2) for values in present]
    axes.set_yscale("log")
    axes.set_xlim(0, length * 1.02)
    blocks = f", mean of {len(keys)}" if len(keys) > 1 else ""
    axes.set_title(f"{_short(name)}{blocks}", fontsize=9)
    if kept:
        axes.axvline(kept, color="#444444", linestyle=":", linewidth=1.2)
        _note(axes, f"TSV-M keeps {kept} of {length}:\n{np.mean(shares):.0%} of ‖Δ‖²", kept, 0.97)
    else:
        _note(axes, f"{length} are fewer than {len(spectra)} tasks:\nTSV-M takes the mean", 0, 0.17)


def _note(axes: Axes, text: str, x: float, top: float) -> None:
    axes.annotate(
        text,
        (x, top),
        xycoords=("data", "axes fraction"),
        xytext=(5, 0),
        textcoords="offset points",
        va="top",
        fontsize=7.5,
        color=style.MUTED,
    )


def _short(kind: str) -> str:
    parts = [part for part in kind.split(".") if part not in ("visual", "transformer", "weight")]
    return ".".join(part for part in parts if part not in ("resblocks", "*")) or kind
