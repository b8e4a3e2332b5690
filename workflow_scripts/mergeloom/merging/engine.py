"""The merge engine: parameter by parameter from the files of T task vectors to one merged file."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mergeloom.errors import MergeloomError
from mergeloom.io.tensors import TensorFile, TensorWriter
from mergeloom.linalg.spectral import truncated_svd
from mergeloom.merging.method import Factors, Method, check_parameters, get_method
from mergeloom.merging.sources import PathLike, Shape, Source, TaskVectorFiles, trainable_layout
from mergeloom.merging.task_vector import read_factors
from mergeloom.models.family import get_family

log = logging.getLogger(__name__)


def merge_files(
    base: PathLike,
    task_vectors: Sequence[PathLike],
    method: str,
    parameters: Mapping[str, Any],
    out: PathLike,
    family: str,
    device: str,
    svd: Sequence[PathLike] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Merge T task vectors into one, and write it.

    Holds one parameter of all tasks at a time, and the merged model not at all. The merged task
    vector is written in float32, not yet scaled by alpha, all-zero tensors elided.

    Parameters
    ----------
    base : safetensors file of θ_0; the task vectors must have its trained parameters.
    task_vectors : T files as `write_task_vector` writes them.
    method : name of a registered merge method.
    parameters : those that differ from the method's defaults.
    family : name of the model family, which tells matrices from vectors.
    device : where to compute, "cpu" or "cuda".
    svd : T files as `write_svd_cache` writes them, in the order of `task_vectors`; without them a
        method that needs singular vectors computes them.
    metadata : text fields of the file's header.

    Raises
    ------
    MergeloomError
        For an unknown method or parameter, tensors that differ from the base's or are not finite,
        caches that keep too little. `out` is then left as it was.
    """
    chosen = get_method(method)
    settings = check_parameters(chosen, parameters)
    if svd is not None and len(svd) != len(task_vectors):
        raise MergeloomError(
            f"{len(task_vectors)} task vectors were given, but {len(svd)} SVD caches. "
            "Give one for each, in the same order, or none."
        )
    with ExitStack() as stack:
        base_file = stack.enter_context(TensorFile(base))
        layout = trainable_layout(base_file, family)
        source = stack.enter_context(TaskVectorFiles(task_vectors, layout))
        caches = [stack.enter_context(TensorFile(path)) for path in svd] if svd else None
        writer = stack.enter_context(
            TensorWriter(
                out,
                {key: (torch.float32, source.shape(key)) for key in source},
                metadata or {},
                elide_zeros=True,
            )
        )
        kind = get_family(family).kind
        for key in writer.keys:
            group = Group(key, kind(key, source.shape(key)), source, caches, torch.device(device))
            writer.write(key, merge_group(group, chosen, settings))


class Group:
    """One parameter of T task vectors. Its attributes are the inputs of merge methods.

    They are computed when a method asks for them: one that takes singular vectors from a cache
    never reads the task vectors.
    """

    def __init__(
        self,
        key: str,
        kind: str,
        source: Source,
        caches: Sequence[TensorFile] | None,
        device: torch.device,
    ) -> None:
        self.key = key
        self.kind = kind
        self._source = source
        self._caches = caches
        self._device = device

    @property
    def shape(self) -> Shape:
        """Shape of the parameter."""
        return self._source.shape(self.key)

    @property
    def share(self) -> int:
        """The number of singular values that each task gets, ⌊min(m, n) / T⌋."""
        return min(self.shape) // len(self._source)

    @cached_property
    def deltas(self) -> Tensor:
        """Task vectors [T, *shape], float32."""
        return self._source.stack(self.key).to(self._device)

    @cached_property
    def svd(self) -> Factors:
        """The leading `share` singular triples of each task's matrix, float32."""
        if self._caches is not None:
            factors = read_factors(self._caches, self.key, self.share)
            return Factors(*(part.to(self._device) for part in (factors.U, factors.S, factors.Vt)))
        # Task by task: the float64 copies of one matrix at a time.
        parts = [truncated_svd(delta, self.share) for delta in self.deltas]
        U, S, Vt = (torch.stack(part) for part in zip(*parts, strict=True))
        return Factors(U, S[:, : self.share], Vt)


def merge_group(group: Group, method: Method, settings: Mapping[str, Any]) -> Tensor:
    """Return the merged task vector [*shape] of one parameter, float32.

    Methods made for matrices leave the others to the mean over tasks, as their papers do. So do
    those that share singular vectors among tasks with a matrix that has fewer than T of them.
    """
    suited = method.on == "all" or group.kind == "matrix"
    if suited and "svd" in method.inputs and group.share == 0:
        log.warning(
            "%s %s has too few singular values to give each task one: %s takes its mean instead",
            group.key,
            list(group.shape),
            method.name,
        )
        suited = False
    if not suited:
        return group.deltas.mean(dim=0)
    return method.function(*(getattr(group, name) for name in method.inputs), **settings)
