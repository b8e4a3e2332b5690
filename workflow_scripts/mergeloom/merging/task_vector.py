"""Task vectors and their singular value decompositions, as files."""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from mergeloom.errors import MergeloomError
from mergeloom.io.tensors import TensorFile, TensorWriter
from mergeloom.linalg.spectral import truncated_svd
from mergeloom.merging.method import Factors
from mergeloom.merging.sources import Differences, PathLike, TaskVectorFiles
from mergeloom.models.family import get_family


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
    with TensorFile(base) as base_file, Differences(base_file, [checkpoint], family) as source:
        layout = {key: (torch.float32, source.shape(key)) for key in source}
        with TensorWriter(out, layout, metadata or {}, elide_zeros=True) as writer:
            for key in writer.keys:
                writer.write(key, source.stack(key)[0])


def write_svd_cache(
    task_vector: PathLike,
    out: PathLike,
    family: str,
    fraction: float,
    device: str,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write singular values and leading singular vectors of every matrix of a task vector.

    For a matrix [m, n] with r = min(m, n) the file has `{key}.U` [m, k], `{key}.S` [r] and
    `{key}.Vt` [k, n], float32, with k = ⌈fraction · r⌉; all-zero tensors are elided.

    Parameters
    ----------
    fraction : share of the singular vectors to keep, above 0 and at most 1. TSV-M of T tasks needs
        1/T.
    device : where to compute, "cpu" or "cuda".

    Raises
    ------
    MergeloomError
        If `fraction` is out of range, or a value of the task vector is NaN or infinite.
    """
    if not 0 < fraction <= 1:
        raise MergeloomError(
            f"{out}: the fraction of singular vectors to keep is {fraction}, expected above 0 and "
            "at most 1."
        )
    kind = get_family(family).kind
    with TaskVectorFiles([task_vector]) as source:
        matrices = [key for key in source if kind(key, source.shape(key)) == "matrix"]
        layout: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
        for key in matrices:
            rows, columns = source.shape(key)
            rank = min(rows, columns)
            kept = math.ceil(fraction * rank)
            layout[f"{key}.U"] = (torch.float32, (rows, kept))
            layout[f"{key}.S"] = (torch.float32, (rank,))
            layout[f"{key}.Vt"] = (torch.float32, (kept, columns))

        # The three parts of a matrix follow one another in the file.
        @lru_cache(maxsize=1)
        def parts(key: str) -> dict[str, Tensor]:
            matrix = source.stack(key)[0].to(device)
            factors = truncated_svd(matrix, layout[f"{key}.U"][1][1])
            return dict(zip(("U", "S", "Vt"), factors, strict=True))

        with TensorWriter(out, layout, metadata or {}, elide_zeros=True) as writer:
            for name in writer.keys:
                key, part = name.rsplit(".", 1)
                writer.write(name, parts(key)[part])


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
            raise MergeloomError(
                f"{file.path}: keeps {kept} of the {rank} singular vectors of {key}, but {count} "
                f"are needed. Raise the kept fraction to at least {count / rank:.3g}."
            )
        factors.U[index] = file.read(f"{key}.U")[:, :count]
        factors.S[index] = file.read(f"{key}.S")[:count]
        factors.Vt[index] = file.read(f"{key}.Vt")[:count]
    return factors
