"""Tensor decomposition across tasks and layers."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mergeloom.errors import MergeloomError
from mergeloom.merging.group import Stack
from mergeloom.merging.method import merger


@merger(
    "tensor_decomp",
    grain="stack",
    limits={
        "rank_strategy": ("fixed", "energy"),
        "rank_task": "[1, inf)",
        "rank_layer": "[1, inf)",
        "rank_out": "[1, inf)",
        "rank_in": "[1, inf)",
        "energy_task": "(0, 1]",
        "energy_layer": "(0, 1]",
        "energy_out": "(0, 1]",
        "energy_in": "(0, 1]",
        "weights": "(0, inf)",
        "fallback": ("tsv", "mean"),
    },
)
def tensor_decomp(
    stack: Stack,
    *,
    rank_strategy: str = "fixed",
    rank_task: int | None = None,
    rank_layer: int | None = None,
    rank_out: int | None = None,
    rank_in: int | None = None,
    energy_task: float = 0.95,
    energy_layer: float = 0.95,
    energy_out: float = 1.0,
    energy_in: float = 1.0,
    weights: Sequence[float] = (),
    fallback: str = "tsv",
) -> Tensor:
    """Higher-order SVD over task, layer, output and input of matrices of the same name.

    With X[t, l] = Δ_t of block l, U_μ the leading left singular vectors of the unfolding of X along
    mode μ, and P_μ = U_μ U_μᵀ, the task vectors are X ×_task P_task ×_layer P_layer ×_out P_out
    ×_in P_in (De Lathauwer, De Moor, Vandewalle 2000), weighted and summed over tasks. At full rank
    that is the weighted mean. As there is no scale of its own, alpha is 1 by default.

    The U_μ come from the eigenvectors of the mode's Gram matrix, summed in float64 while X streams
    by, so that X is never unfolded nor held. Modes that keep everything are not decomposed.

    Parameters
    ----------
    stack : Stack – matrices [m, n] of L blocks of T tasks, float32. Parameters that belong to no
        such stack are left to `fallback`.
    rank_strategy : "fixed" keeps `rank_μ` vectors of each mode (all where it is None), "energy" the
        fewest whose squared singular values reach the share `energy_μ` of their sum.
    weights : T positive numbers in the order of the tasks, scaled to the sum 1; uniform if empty.
    fallback : "tsv" (TSV-M; vectors take the mean) or "mean".

    Returns
    -------
    Tensor [L, m, n], float32.

    Raises
    ------
    MergeloomError
        If there are weights, but not T.
    """
    if weights and len(weights) != stack.tasks:
        raise MergeloomError(
            f"tensor_decomp has {len(weights)} weights for {stack.tasks} tasks: give one for each, "
            "or none."
        )
    ranks = dict(zip(MODES, (rank_task, rank_layer, rank_out, rank_in), strict=True))
    energies = dict(zip(MODES, (energy_task, energy_layer, energy_out, energy_in), strict=True))
    sizes = dict(zip(MODES, (stack.tasks, len(stack.keys), *stack.shape), strict=True))
    if rank_strategy == "fixed":
        reduced = [mode for mode in MODES if (ranks[mode] or sizes[mode]) < sizes[mode]]
    else:
        reduced = [mode for mode in MODES if energies[mode] < 1]
    factors = {}
    for mode, gram in mode_grams(stack, reduced).items():
        squares, vectors = torch.linalg.eigh(gram)
        squares, vectors = squares.flip(0).clamp_min(0), vectors.flip(1)
        if rank_strategy == "fixed":
            rank = ranks[mode]
        else:
            # The fewest values whose sum reaches the share; all of a zero tensor reach it.
            reached = squares.cumsum(0) >= energies[mode] * squares.sum()
            rank = int(reached.int().argmax()) + 1
        factors[mode] = vectors[:, :rank]

    shares = torch.tensor(weights or [1.0] * stack.tasks, dtype=torch.float64)
    shares /= shares.sum()
    if "task" in factors:
        basis = factors.pop("task")
        shares = basis @ (basis.T @ shares)
    mixed = stack.combine(shares)
    if not factors:
        return mixed
    # Half a second that no other method's job has to spend.
    import tensorly
    from tensorly.tenalg import multi_mode_dot

    modes = [MODES.index(mode) - 1 for mode in factors]
    bases = [basis.to(mixed) for basis in factors.values()]
    with tensorly.backend_context("pytorch", local_threadsafe=True):
        core = multi_mode_dot(mixed, bases, modes, transpose=True)
        del mixed
        return multi_mode_dot(core, bases, modes)


MODES = ("task", "layer", "out", "in")


def mode_grams(stack: Stack, modes: Sequence[str]) -> dict[str, Tensor]:
    """Gram matrices of the unfoldings of X [T, L, m, n] along some of its modes.

    Returns
    -------
    Mode to Tensor [size, size], float64, on the CPU.
    """
    grams: dict[str, Tensor] = {}

    def of_rows(rows: slice) -> dict[str, Tensor]:
        block = stack.block(rows).to(torch.float64)
        unfolded = {"task": block.flatten(1), "layer": block.transpose(0, 1).flatten(1)}
        return {mode: (x @ x.T).cpu() for mode, x in unfolded.items() if mode in modes}

    def of_matrices(layer: int) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for matrix in stack.matrices(layer):
            matrix = matrix.to(torch.float64)
            unfolded = {"out": matrix, "in": matrix.T}
            _add(found, {mode: x @ x.T for mode, x in unfolded.items() if mode in modes})
        return {mode: gram.cpu() for mode, gram in found.items()}

    if {"task", "layer"} & set(modes):
        for found in stack.pool.map(of_rows, stack.rows()):
            _add(grams, found)
    if {"out", "in"} & set(modes):
        for found in stack.pool.map(of_matrices, range(len(stack.keys))):
            _add(grams, found)
    return grams


def _add(sums: dict[str, Tensor], terms: dict[str, Tensor]) -> None:
    for mode, term in terms.items():
        sums[mode] = sums[mode] + term if mode in sums else term
