"""Features of models on the same rows: one file per model, [n, d], looked at before it is read."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mergeloom.errors import MergeloomError
from mergeloom.io.tensors import TensorFile

FEATURES = "features"  # the tensor's name in a safetensors file
ROWS = "rows"  # field of its header: SHA-256 of what the rows are, in their order
FEWEST = 4  # rows; the unbiased HSIC divides by n - 3
_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_ALIKE = 1e-6  # of the largest value: rows that differ by less are alike
_PIECE = 1024  # rows that are looked at together


@dataclass(frozen=True)
class FeatureSet:
    """What one model makes of n rows.

    model : its name.
    path : a .npy file, or a .safetensors file.
    n, d : its rows, and how many features each has.
    rows : SHA-256 of what the rows are, where the file says so.
    """

    model: str
    path: Path
    n: int
    d: int
    rows: str | None

    def read(self, dtype: torch.dtype, *, normalise: bool) -> Tensor:
        """Read the features into memory.

        Parameters
        ----------
        dtype : torch.float32 or torch.float64, of the result.
        normalise : divide each row by its length, max(‖x‖, 1e-12), as the study of Ciernik et al.
            (arXiv 2411.05561) stores them; a row of zeros stays one.

        Raises
        ------
        MergeloomError
            For a NaN or an infinite value (with its row), and for rows that are all alike.
        """
        values = _mapped(self.path)[0].to(dtype, copy=True, memory_format=torch.contiguous_format)
        if not torch.isfinite(torch.stack(values.aminmax())).all():
            row = int((~torch.isfinite(values)).any(1).nonzero()[0])
            raise MergeloomError(
                f"{self.path}: row {row} (counted from 0) of the features of {self.model} has a "
                "NaN or infinite value. Extract the features again, or leave this model out."
            )
        if normalise:
            values /= torch.linalg.vector_norm(values, dim=1, keepdim=True).clamp_min_(1e-12)
        if _constant(values):
            raise MergeloomError(
                f"{self.path}: the features of {self.model} are constant: all {self.n} rows are "
                "alike, so that its similarity to any model is undefined. Leave this model out, "
                "or take another layer."
            )
        return values


def open_feature_sets(
    paths: Sequence[str | Path], models: Sequence[str] | None = None
) -> list[FeatureSet]:
    """Look at files of features, and check that they are of the same rows.

    Parameters
    ----------
    paths : .npy files, [n, d]; or .safetensors files with a tensor `features` [n, d] (else with one
        matrix only); of float16, bfloat16, float32 or float64.
    models : their names; the files' stems, if not given.

    Raises
    ------
    MergeloomError
        For a missing or damaged file, another shape or type, fewer than 4 rows, numbers or digests
        of rows that differ, and for a name that two models have.
    """
    files = [Path(path) for path in paths]
    if models is not None and len(models) != len(files):
        raise MergeloomError(
            f"There are {len(models)} names of models ({', '.join(models)}) for {len(files)} files "
            "of features. Give one name per file, in the order of the files."
        )
    names = list(models) if models is not None else [path.stem for path in files]
    _check_names(names, files)
    sets = [_look_at(path, name) for path, name in zip(files, names, strict=True)]
    for one, other in pairwise(sets):
        if one.n != other.n:
            raise MergeloomError(
                f"{one.path} has {one.n} rows and {other.path} has {other.n}, but models are "
                "compared on the same rows. Give features of the same inputs."
            )
    marked = [found for found in sets if found.rows is not None]
    for one, other in pairwise(marked):
        if one.rows != other.rows:
            raise MergeloomError(
                f"{one.path} and {other.path} were made of other rows, or of the same in another "
                f"order: the field `{ROWS}` of their headers differs. Extract both from the same "
                "split in the same order."
            )
    return sets


def _check_names(names: Sequence[str], paths: Sequence[Path]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        owners = [str(p) for p, name in zip(paths, names, strict=True) if name == twice[0]]
        raise MergeloomError(
            f"Two models are named {twice[0]}: {' and '.join(owners)}. Name each model once, by "
            "--names or by the names of the files."
        )
    for name, path in zip(names, paths, strict=True):
        if not name or name == "model":
            raise MergeloomError(
                f"{path}: {name!r} cannot be a model's name, as a matrix has a column `model` of "
                "its own. Give another by --names."
            )


def _look_at(path: Path, model: str) -> FeatureSet:
    values, rows = _mapped(path)
    if values.ndim != 2 or not values.shape[1]:
        raise MergeloomError(
            f"{path}: the features of {model} have shape {list(values.shape)}, expected [n, d]: a "
            "row per input. Flatten or pool the other axes before you save them."
        )
    if values.dtype not in _TYPES:
        raise MergeloomError(
            f"{path}: the features of {model} are {_short(values.dtype)}, expected one of "
            f"{', '.join(map(_short, _TYPES))}. Convert them before you save them."
        )
    if len(values) < FEWEST:
        raise MergeloomError(
            f"{path}: the features of {model} have {len(values)} rows, but a similarity needs at "
            f"least {FEWEST}. Extract them from more inputs."
        )
    return FeatureSet(model, path, values.shape[0], values.shape[1], rows)


def _mapped(path: Path) -> tuple[Tensor, str | None]:
    """The matrix of a file, mapped into memory and not yet read, and the digest of its rows."""
    if not path.is_file():
        raise MergeloomError(f"{path}: no such file. Check the path.")
    if path.suffix == ".npy":
        return _mapped_npy(path), None
    if path.suffix != ".safetensors":
        raise MergeloomError(
            f"{path}: is neither a .npy nor a .safetensors file. Save the features by numpy.save "
            "or by safetensors.torch.save_file."
        )
    with TensorFile(path) as file:
        matrices = [key for key in file if len(file.shape(key)) == 2]
        if FEATURES in file:
            return file[FEATURES], file.metadata.get(ROWS)
        if len(matrices) != 1:
            raise MergeloomError(
                f"{path}: has no tensor `{FEATURES}`, and {len(matrices)} matrices that might be "
                f"meant ({', '.join(matrices[:5]) or 'none'}). Name that of features "
                f"`{FEATURES}`."
            )
        return file[matrices[0]], file.metadata.get(ROWS)


def _mapped_npy(path: Path) -> Tensor:
    try:
        # Copied on writing, and nothing writes: torch warns of arrays that are read only.
        values = np.load(path, mmap_mode="c", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise MergeloomError(
            f"{path}: is no .npy file of numbers, or a damaged one ({error}). Write it again by "
            "numpy.save."
        ) from error
    if not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="))
    try:
        return torch.from_numpy(values)
    except TypeError:
        raise MergeloomError(
            f"{path}: holds {values.dtype}, expected floating-point numbers of 16, 32 or 64 bits. "
            "Convert them before you save them."
        ) from None


def _constant(values: Tensor) -> bool:
    first = values[0]
    bound = _ALIKE * first.abs().max()
    # Ends at the first piece that differs: for all but constant features, at once.
    return all(
        bool(((piece - first).abs() <= bound).all())
        for piece in values.tensor_split(math.ceil(len(values) / _PIECE))
    )


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
