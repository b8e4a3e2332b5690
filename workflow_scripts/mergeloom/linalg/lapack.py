"""LAPACK routines that let other threads run, for the symmetric eigenproblem in float64.

The wrappers of `scipy.linalg.lapack` hold the interpreter lock through the whole call, so two
threads take turns; numpy and torch let it go, but offer only the full decomposition. Here the
routines are called by their addresses in `scipy.linalg.cython_lapack`, through ctypes, which lets
the lock go too. They take as many threads as OpenBLAS is allowed; `threadpoolctl` limits only what
is loaded by then, so import this module before setting a limit.

All arrays are C-contiguous; rows of `vectors` are eigenvectors. Eigenvalues are ascending.
"""

import ctypes
import re
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cython_lapack

Array = NDArray[np.float64]

# Block size times the order is LAPACK's best work space; the constant is what dormtr adds to it.
_BLOCK, _BLOCK_REFLECTOR = 64, 65 * 64

# What inverse iteration must reach; it reaches 1e-14 unless it has failed.
_ORTHOGONAL, _RESIDUAL = 1e-11, 1e-12


class Tridiagonal(NamedTuple):
    """Q T Qᵀ of a symmetric matrix [n, n]: T by its diagonals, Q by its Householder reflectors."""

    diagonal: Array
    off_diagonal: Array
    reflectors: Array
    scales: Array


def eigenvalues_and_leading(matrix: Array, count: int) -> tuple[Array, Array]:
    """All eigenvalues of a symmetric matrix, and the eigenvectors of the largest `count`.

    Up to a quarter of the vectors cost little more than the values: they come from inverse
    iteration, and are checked. More, and any that failed the check, come from divide and conquer.
    Residual and orthogonality are those of a full decomposition: 1e-12 at most, relative to the
    largest eigenvalue.

    Parameters
    ----------
    matrix : Array [n, n], symmetric, finite; overwritten.
    count : int – 0 to n.

    Returns
    -------
    values [n], vectors [count, n].

    Raises
    ------
    ValueError : the matrix has an entry on its diagonal that is not finite.
    numpy.linalg.LinAlgError : the iteration for the eigenvalues did not converge.
    """
    if not np.isfinite(matrix.diagonal()).all():
        raise ValueError("the matrix has entries that are not finite")
    size = len(matrix)
    tridiagonal = _tridiagonal(matrix)
    if 4 * count <= size:
        values = _values(tridiagonal)
        vectors = _by_inverse_iteration(tridiagonal, values[size - count :])
        if vectors is not None:
            return values, _back(tridiagonal, vectors)
    values, vectors = _by_division(tridiagonal)
    return values, _back(tridiagonal, np.ascontiguousarray(vectors[size - count :]))


def _tridiagonal(matrix: Array) -> Tridiagonal:
    size = len(matrix)
    diagonal, off_diagonal, scales = np.empty(size), np.zeros(size), np.zeros(size)
    work = np.empty(_BLOCK * size)
    _call("dsytrd", b"L", size, matrix, size, diagonal, off_diagonal, scales, work, len(work))
    return Tridiagonal(diagonal, off_diagonal, matrix, scales)


def _values(tridiagonal: Tridiagonal) -> Array:
    values = tridiagonal.diagonal.copy()
    _call("dsterf", len(values), values, tridiagonal.off_diagonal.copy())
    return values


def _by_division(tridiagonal: Tridiagonal) -> tuple[Array, Array]:
    values = tridiagonal.diagonal.copy()
    size = len(values)
    vectors = np.empty((size, size))
    work, integers = np.empty(1 + 4 * size + size * size), np.empty(3 + 5 * size, np.int32)
    _call("dstedc", b"I", size, values, tridiagonal.off_diagonal.copy(), vectors, size,
          work, len(work), integers, len(integers))  # fmt: skip
    return values, vectors


def _by_inverse_iteration(tridiagonal: Tridiagonal, values: Array) -> Array | None:
    """Eigenvectors of T for the given values [count]; None where they are not good enough."""
    size, count = len(tridiagonal.diagonal), len(values)
    vectors = np.zeros((count, size))
    if count == 0:
        return vectors
    # The whole matrix is one block, ending at its last row.
    block, end = np.ones(size, np.int32), np.full(size, size, np.int32)
    work, integers, failed = (
        np.empty(5 * size),
        np.empty(size, np.int32),
        np.zeros(count, np.int32),
    )
    ordered = np.concatenate([values, np.zeros(size - count)])
    try:
        _call("dstein", size, tridiagonal.diagonal, tridiagonal.off_diagonal, count, ordered,
              block, end, vectors, size, work, integers, failed)  # fmt: skip
    except np.linalg.LinAlgError:
        return None
    inner = tridiagonal.off_diagonal[: size - 1]
    residual = (tridiagonal.diagonal - values[:, None]) * vectors
    residual[:, 1:] += inner * vectors[:, :-1]
    residual[:, :-1] += inner * vectors[:, 1:]
    overlap = vectors @ vectors.T - np.eye(count)
    # Written so that a NaN does not pass.
    good = (
        np.abs(overlap).max() <= _ORTHOGONAL
        and np.abs(residual).max() <= _RESIDUAL * np.abs(values).max()
    )
    return vectors if good else None


def _back(tridiagonal: Tridiagonal, vectors: Array) -> Array:
    """Turn eigenvectors of T [count, n] into those of the matrix, in place."""
    count, size = vectors.shape
    if count:
        work = np.empty(_BLOCK * count + _BLOCK_REFLECTOR)
        _call("dormtr", b"L", b"L", b"N", size, count, tridiagonal.reflectors, size,
              tridiagonal.scales, vectors, size, work, len(work))  # fmt: skip
    return vectors


def _call(name: str, *arguments: bytes | int | NDArray[Any]) -> None:
    """Call a LAPACK routine; its last argument, the error code, is added here."""
    info = ctypes.c_int()
    _routine(name)(*map(_reference, arguments), ctypes.byref(info))
    if info.value:
        raise np.linalg.LinAlgError(f"LAPACK's {name} returned {info.value}")


def _reference(argument: bytes | int | NDArray[Any]) -> Any:
    """Fortran takes everything by its address."""
    if isinstance(argument, np.ndarray):
        return argument.ctypes.data
    if isinstance(argument, int):
        return ctypes.byref(ctypes.c_int(argument))
    return argument


@cache
def _routine(name: str) -> Any:
    capsule = cython_lapack.__pyx_capi__[name]
    api = ctypes.pythonapi
    api.PyCapsule_GetName.restype, api.PyCapsule_GetName.argtypes = (
        ctypes.c_char_p,
        [ctypes.py_object],
    )
    api.PyCapsule_GetPointer.restype, api.PyCapsule_GetPointer.argtypes = (
        ctypes.c_void_p,
        [ctypes.py_object, ctypes.c_char_p],
    )
    signature = api.PyCapsule_GetName(capsule)
    parameters = re.findall(rb"(\w+) \*", signature)
    # A build of scipy with 64-bit integers has another name for them.
    if not all(kind in (b"char", b"int") or kind.endswith(b"_d") for kind in parameters):
        raise ImportError(f"scipy's {name} has an unexpected signature: {signature.decode()}")
    address = api.PyCapsule_GetPointer(capsule, signature)
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * len(parameters))(address)
