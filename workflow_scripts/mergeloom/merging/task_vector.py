"""Task vectors and their singular value decompositions, as files."""

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor

from mergeloom.errors import MergeloomError
from mergeloom.io.tensors import TensorFile, TensorWriter
from mergeloom.linalg.spectral import truncated_svd
from mergeloom.merging.caches import SOURCE, source_of
from mergeloom.merging.method import Factors
from mergeloom.merging.pool import pool
from mergeloom.merging.sources import Differences, PathLike, Source, TaskVectorFiles
from mergeloom.models.naming import naming


def write_task_vector(
    base: PathLike,
    checkpoint: PathLike,
    out: PathLike,
    family: str,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write the task vector Δ = θ_t - θ_0 of what the family trains, in float32.

    All-zero tensors are elided. Checkpoint and base may have any floating-point dtype.

    Raises
    ------
    MergeloomError
        If the checkpoint's parameters are not those of the base (names the first five), or a value
        of either is NaN or infinite (names file and tensor). `out` is then left as it was.
    """
    with (
        TensorFile(base) as base_file,
        Differences(base_file, [checkpoint], naming(family)) as source,
    ):
        layout = {key: (torch.float32, shape) for key, shape in source.shapes.items()}
        with TensorWriter(out, layout, metadata or {}, elide_zeros=True) as writer:
            for key in writer.keys:
                writer.write(key, source.one(key, 0).view(source.shapes[key]))


def write_svd_cache(
    task_vectors: Sequence[PathLike],
    out: PathLike,
    family: str,
    fraction: float,
    device: str,
    metadata: Mapping[str, str] | None = None,
    workers: int | None = None,
    base: PathLike | None = None,
) -> None:
    """Write singular values and leading singular vectors of every matrix of a task vector, or of
    the sum of several.

    For a matrix [m, n] with r = min(m, n) the file has `{key}.U` [m, k], `{key}.S` [r] and
    `{key}.Vt` [k, n], float32, with k = ⌈fraction · r⌉; all-zero tensors are elided. The header's
    field `source` is made of the SHA-256 of the files, so that a cache of others is never read.

    Parameters
    ----------
    task_vectors : files as `write_task_vector` writes them or, with `base`, of fine-tuned models.
    fraction : share of the singular vectors to keep, above 0 and at most 1. TSV-M of T tasks needs
        1/T of each task's, Iso-C and all that works on the spectrum of the sum needs 1.
    device : where to compute, "cpu" or "cuda".
    workers : threads that work on matrices side by side; without it, torch's number of threads.

    Raises
    ------
    MergeloomError
        If `fraction` is out of range, or a value of a task vector is NaN or infinite.
    """
    if not 0 < fraction <= 1:
        raise MergeloomError(
            f"{out}: the fraction of singular vectors to keep is {fraction}, expected above 0 and "
            "at most 1."
        )
    names = naming(family)
    with ExitStack() as stack:
        source: Source
        if base is None:
            source = stack.enter_context(TaskVectorFiles(task_vectors))
        else:
            base_file = stack.enter_context(TensorFile(base))
            source = stack.enter_context(Differences(base_file, task_vectors, names))
        # Sorted as the names of their parts are.
        matrices = {
            key: shape
            for key, shape in sorted(source.shapes.items(), key=lambda item: f"{item[0]}.")
            if names.kind(key, shape) == "matrix"
        }
        layout: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
        for key, (rows, columns) in matrices.items():
            rank = min(rows, columns)
            kept = math.ceil(fraction * rank)
            layout[f"{key}.U"] = (torch.float32, (rows, kept))
            layout[f"{key}.S"] = (torch.float32, (rank,))
            layout[f"{key}.Vt"] = (torch.float32, (kept, columns))

        def decompose(key: str) -> tuple[Tensor, Tensor, Tensor]:
            matrix = source.total(key).view(matrices[key]).to(device)
            U, S, Vt = truncated_svd(matrix, layout[f"{key}.U"][1][1])
            return U.cpu(), S.cpu(), Vt.cpu()

        header = {**(metadata or {}), SOURCE: source_of([*task_vectors, *([base] if base else [])])}
        writer = stack.enter_context(TensorWriter(out, layout, header, elide_zeros=True))
        threads = stack.enter_context(pool(workers or torch.get_num_threads(), device))
        # The three parts of a matrix follow one another in the file.
        for key, triple in zip(matrices, threads.map(decompose, matrices), strict=True):
            U, S, Vt = triple
            for part, tensor in {"S": S, "U": U, "Vt": Vt}.items():
                writer.write(f"{key}.{part}", tensor)
            del triple, U, S, Vt


def read_factors(files: Sequence[TensorFile], key: str, count: int) -> Factors:
    """Read the leading `count` singular triples of a matrix from the SVD caches of T tasks.

    Raises
    ------
    MergeloomError
        If a cache lacks the matrix or keeps fewer vectors of it.
    """
    columns = files[0].shape(f"{key}.Vt")[1]
    rows = files[0].shape(f"{key}.U")[0]
    factors = Factors(
        U=torch.empty(len(files), rows, count),
        S=torch.empty(len(files), count),
        Vt=torch.empty(len(files), count, columns),
    )
    for index, file in enumerate(files):
        kept, rank = file.shape(f"{key}.Vt")[0], file.shape(f"{key}.S")[0]
        if kept < count:
            enough = math.ceil(1e4 * count / rank) / 1e4
            raise MergeloomError(
                f"{file.path}: keeps {kept} of the {rank} singular vectors of {key}, but {count} "
                f"are needed. Raise the kept fraction, svd.fraction, to at least {enough:g}."
            )
        factors.U[index] = file.read(f"{key}.U")[:, :count]
        factors.S[index] = file.read(f"{key}.S")[:count]
        factors.Vt[index] = file.read(f"{key}.Vt")[:count]
    return factors
