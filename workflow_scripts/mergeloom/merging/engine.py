"""The merge engine: group by group from the files of T experts to one merged file."""

import importlib
import inspect
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mergeloom.errors import MergeloomError
from mergeloom.io.tensors import TensorFile
from mergeloom.linalg.spectral import truncated_svd
from mergeloom.merging.caches import check_source
from mergeloom.merging.group import Group, Material, Stack, Summed, Survey, apply, spans
from mergeloom.merging.method import Method, get_method, get_modifier
from mergeloom.merging.output import MergedTaskVector, MergedWeights, Output
from mergeloom.merging.parameters import check_parameters
from mergeloom.merging.pool import Pool, pool
from mergeloom.merging.sources import (
    Differences,
    Layout,
    PathLike,
    Source,
    TaskVectorFiles,
    check_layout,
    trainable_layout,
)
from mergeloom.models.naming import Naming, by_stage, naming, places

if TYPE_CHECKING:
    from mergeloom.merging.grams import Propagation

log = logging.getLogger(__name__)
Modifiers = Sequence[Mapping[str, Mapping[str, Any]]]

# What no merge can make of the experts' files alone.
OF_DATA = {
    "fisher": "the Fisher information of each expert",
    "gram": "the Gram matrices of what the layers of each expert are fed",
    "propagated": "each task's images, to see what the layers of the merged model are fed",
}

Step = tuple[Method, dict[str, Any]]  # a method or modifier with all its parameters


@dataclass(frozen=True)
class Merge:
    """What to do with every parameter.

    choices : the method and, if it has one, its fallback, each with all its parameters: the first
        that suits a parameter is applied to it.
    modifiers : of what they make, in their order.
    """

    choices: tuple[Step, ...]
    modifiers: tuple[Step, ...] = ()

    @property
    def method(self) -> Method:
        """The method that was asked for."""
        return self.choices[0][0]

    @property
    def settings(self) -> dict[str, Any]:
        """All its parameters."""
        return self.choices[0][1]

    @property
    def inputs(self) -> set[str]:
        """All that its functions take."""
        taken = {name for method, _ in (*self.choices, *self.modifiers) for name in method.inputs}
        return taken | ({"summed"} if self.method.sums and "spectrum" in taken else set())

    @property
    def by_stage(self) -> bool:
        """Whether parameters are merged in the order in which inputs pass through the model."""
        return any(method.by_stage for method, _ in self.choices)

    @property
    def elementwise(self) -> bool:
        """Whether parameters may be taken apart."""
        return all(m.grain == "element" for m, _ in (*self.choices, *self.modifiers))


def plan_merge(
    method: str, parameters: Mapping[str, Any] | None = None, modifiers: Modifiers = ()
) -> Merge:
    """Look up a method and modifiers, and check their parameters.

    Parameters
    ----------
    parameters : those that differ from the method's defaults.
    modifiers : mappings of one name each to the parameters that differ from its defaults.

    Raises
    ------
    MergeloomError
        For an unknown method, modifier or parameter, a value out of range, or a modifier that does
        not go with the method.
    """
    chosen = get_method(method)
    settings = check_parameters(method, chosen.parameters, chosen.limits, parameters or {})
    added: list[Step] = []
    for entry in modifiers:
        for name, given in entry.items():
            found = get_modifier(name)
            if chosen.per_task and found.on == "matrices":
                raise MergeloomError(
                    f"{name} modifies one merged model, but {method} gives one per task. "
                    f"Leave out {name}, or take another method."
                )
            added.append(
                (found, check_parameters(name, found.parameters, found.limits, given or {}))
            )
    choices: list[Step] = [(chosen, settings)]
    if (fallback := settings.get("fallback", "mean")) != "mean":
        other = get_method(fallback)
        # What both are told, the masses of dual merging for instance, holds for the whole model.
        shared = {name: settings.get(name, own) for name, own in other.parameters.items()}
        choices.append((other, shared))
    return Merge(tuple(choices), tuple(added))


def check_data(merge: Merge, given: Sequence[str] = ()) -> None:
    """Raise if a merge takes what comes from training images and is not among what is given.

    Raises
    ------
    MergeloomError
        Says what it is, and how to come by it.
    """
    if missing := sorted((merge.inputs & OF_DATA.keys()) - set(given)):
        raise MergeloomError(
            f"{merge.method.name} needs {' and '.join(OF_DATA[name] for name in missing)}, which "
            "takes training images and not just the experts' files. Let the workflow make it: put "
            "each expert to models/{encoder}/{experts}/{task}/checkpoint.safetensors, and ask for "
            f"results/{{encoder}}/{{experts}}/{{benchmark}}/{merge.method.name}.json."
        )


def merge_files(
    base: PathLike,
    experts: Sequence[PathLike],
    merge: Merge,
    out: PathLike,
    family: str,
    device: str = "cpu",
    *,
    checkpoints: bool = False,
    alpha: float | None = None,
    names: Sequence[str] = (),
    seed: int = 0,
    svd: Sequence[PathLike] | None = None,
    summed: PathLike | None = None,
    fisher: Sequence[PathLike] | None = None,
    gram: Sequence[PathLike] | None = None,
    propagation: "Propagation | None" = None,
    workers: int | None = None,
    metadata: Mapping[str, str] | None = None,
    progress: Callable[[int, int], None] = lambda done, size: None,
) -> None:
    """Merge T experts into one, and write it.

    Holds one parameter of all tasks at a time for every worker, or a run of its elements where the
    method allows it, and the merged model not at all (a method that works across layers holds the
    layers' merged matrices).

    Parameters
    ----------
    base : safetensors file of θ_0; the experts must have its trained parameters.
    experts : T files of task vectors as `write_task_vector` writes them or, with `checkpoints`, of
        fine-tuned models.
    merge : what to do, from `plan_merge`.
    out : without `alpha`, the file of the merged task vector, float32, all-zero tensors elided; of
        a method that gives one model per task its tensors are [T, *shape]. With `alpha`, the file
        of the merged model θ_0 + alpha · Δ, in the base's types and with what the base has beside;
        of a method that gives one model per task, a folder with such a file for each.
    names : of the files in that folder, without suffix, in the order of the experts.
    family : name of the naming that tells matrices from vectors.
    device : where to compute, "cpu" or "cuda".
    seed : of methods that draw random numbers.
    svd : T files as `write_svd_cache` writes them, in the order of the experts; without them a
        method that needs singular vectors computes them.
    summed : file as `write_svd_cache` writes it of all experts; without it a method that needs the
        spectrum of their sum computes it.
    fisher, gram : T files as `write_fisher` and `write_grams` write them, in the order of the
        experts, for methods that take them.
    propagation : the tasks' examples, in the order of the experts, for methods that merge stage by
        stage.
    workers : threads that work on groups side by side; without it, torch's number of threads.
    metadata : text fields of the file's header.
    progress : is called with the number of elements merged and the number of all.

    Raises
    ------
    MergeloomError
        For tensors that differ from the base's or are not finite, caches or statistics of other
        files or none where they are needed, or caches that keep too little. `out` is then left as
        it was.
    """
    given = {"fisher": fisher, "gram": gram, "propagated": propagation}
    check_data(merge, [name for name, value in given.items() if value is not None])
    for files, what in ((svd, "SVD caches"), (fisher, "of Fisher information"), (gram, "of Grams")):
        if files is not None and len(files) != len(experts):
            raise MergeloomError(
                f"{len(experts)} task vectors were given, but {len(files)} {what}. "
                "Give one for each, in the same order, or none."
            )
    kinds = naming(family)
    with ExitStack() as stack:
        base_file = stack.enter_context(TensorFile(base))
        source: Source
        if checkpoints:
            source = stack.enter_context(Differences(base_file, experts, kinds))
        else:
            layout = trainable_layout(base_file, kinds)
            source = stack.enter_context(TaskVectorFiles(experts, base_file, layout))
        with_base = [base] if checkpoints else []
        caches = [stack.enter_context(TensorFile(path)) for path in svd] if svd else None
        for cache, expert in zip(caches or [], experts, strict=False):
            check_source(cache, [expert, *with_base])
        fisher_files, gram_files = (
            [stack.enter_context(TensorFile(path)) for path in paths or ()]
            for paths in (fisher, gram)
        )
        for found in (fisher_files, gram_files):
            for file, expert in zip(found, experts, strict=False):
                check_source(file, [expert, base])
        for file in fisher_files:
            check_layout(file, Layout(base_file.path, source.shapes))
        sum_cache = stack.enter_context(TensorFile(summed)) if summed else None
        if sum_cache:
            check_source(sum_cache, [*experts, *with_base])
        for path in source.idle():
            log.warning("%s equals its base: it adds nothing to the merge but its share", path)
        material = Material(
            source=source,
            places=places(kinds, source.shapes),
            device=device,
            seed=seed,
            identities=source.identities() if "random" in merge.inputs else [],
            svd=caches,
            summed=sum_cache,
            fisher=fisher_files,
            gram=_grams().GramFiles(gram_files) if gram_files else None,
        )
        _say_what_is_too_small(material, merge)
        output: Output = (
            MergedTaskVector(out, material, merge.method, metadata or {})
            if alpha is None
            else MergedWeights(out, base_file, material, merge.method, alpha, metadata or {}, names)
        )
        threads = stack.enter_context(pool(workers or torch.get_num_threads(), device))
        if merge.method.survey:
            material = replace(material, statistics=_survey(material, merge, threads))
        size, done = sum(math.prod(shape) for shape in source.shapes.values()), 0
        with output:
            parts = (
                merged_by_stage(material, merge, kinds, propagation, threads)
                if propagation and merge.by_stage
                else merged_parameters(material, merge, output.keys, threads)
            )
            for key, tensor in parts:
                output.write(key, tensor)
                done += math.prod(source.shapes[key])
                progress(done, size)
                del tensor  # before the next one is waited for


def merged_parameters(
    material: Material, merge: Merge, keys: Sequence[str], threads: Pool
) -> Iterator[tuple[str, Tensor]]:
    """Give the merged task vectors of all parameters, float32 on the CPU, in this order.

    Those of a method that works across layers come layer stack by layer stack, before the others.
    """
    if merge.method.grain == "stack":
        stacked: dict[str, list[str]] = {}
        for key in keys:
            place = material.places[key]
            if place.kind == "matrix" and place.stack:
                stacked.setdefault(f"{place.stack} {place.shape}", []).append(key)
        for names in stacked.values():
            names.sort(key=lambda key: material.places[key].depth)
            stack = Stack(material.places[names[0]].shape, tuple(names), material, threads)
            for key, tensor in zip(names, apply_to_stack(merge, stack, material), strict=True):
                yield key, tensor.cpu()
        keys = [key for key in keys if not any(key in names for names in stacked.values())]

    # What a method holds of an element; the sum is taken in runs of its own, and needs no cutting
    # but for the other threads.
    held = len(material.source) if "deltas" in merge.inputs else 1 / 4

    def groups() -> Iterator[Group]:
        for key in keys:
            size = math.prod(material.places[key].shape)
            if merge.elementwise:
                for span in spans(size, held) if size else [(0, 0)]:
                    yield Group(material, key, *span)
            else:
                yield Group(material, key)

    def work(group: Group) -> tuple[str, Tensor]:
        if math.prod(group.place.shape) == 0:
            # Nothing to merge, whatever the method; of one model per task, for each.
            lead = (group.tasks,) if merge.method.per_task else ()
            return group.place.key, torch.zeros((*lead, *group.shape))
        return group.place.key, merge_group(group, merge).cpu()

    def cost(group: Group) -> int:
        # Task vectors, and what a method makes of all of them: copies in float64, for instance.
        copies = 4 * len(material.source) if "deltas" in merge.inputs else 8
        if {"gram", "propagated"} & merge.inputs and group.place.kind == "matrix":
            # Gram matrices in float64: the sum, one task's, and what solving makes of them.
            return 4 * copies * math.prod(group.place.shape) + 32 * max(group.place.shape) ** 2
        return 0 if merge.elementwise else 4 * copies * math.prod(group.place.shape)

    for key, parts in groupby(threads.map(work, groups(), cost), key=lambda part: part[0]):
        tensors = [tensor for _, tensor in parts]
        if merge.elementwise:
            merged = tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim=-1)
            # [T, ...] of a method that gives one model per task.
            tensors = [merged.view((*merged.shape[:-1], *material.places[key].shape))]
            del merged
        yield key, tensors.pop()


def merged_by_stage(
    material: Material, merge: Merge, kinds: Naming, propagation: "Propagation", threads: Pool
) -> Iterator[tuple[str, Tensor]]:
    """Give the merged task vectors of all parameters, float32 on the CPU, stage by stage.

    Before a stage is merged, what its linear maps are fed is measured for each task, in the task's
    own stage behind the merged ones; after it, the examples pass the merged stage.
    """
    for stage, keys in enumerate(by_stage(kinds, sorted(material.places))):
        groups = [Group(material, key) for key in keys]
        measured = [
            propagation.measure(stage, task, {g.place.key: g.base + g.delta(task) for g in groups})
            for task in range(len(material.source))
        ]
        here = replace(material, propagated=_grams().MeasuredGrams(measured))
        merged: dict[str, Tensor] = {}
        for key, tensor in merged_parameters(here, merge, keys, threads):
            merged[key] = tensor
            yield key, tensor
        propagation.advance(
            stage, {g.place.key: g.base.cpu() + merged[g.place.key] for g in groups}
        )


def _grams() -> Any:
    # By name and not by import statement: a method that takes Gram matrices imports what they are,
    # and no other depends on it.
    return importlib.import_module("mergeloom.merging.grams")


def merge_group(group: Group, merge: Merge) -> Tensor:
    """Return the merged task vector of one parameter or of a run of its elements, float32.

    Methods made for matrices leave the others to the mean over tasks, as their papers do. So do
    those that share singular vectors among tasks with a matrix that has fewer than T of them. Of a
    method that gives one model per task, these are the task vectors themselves, or their shares.
    """
    chosen = next((choice for choice in merge.choices if _suits(choice[0], group)), None)
    if chosen:
        merged = apply(chosen[0], group, chosen[1])
    elif merge.method.per_task:
        merged = group.deltas / group.tasks if merge.method.shares else group.deltas
    else:
        merged = group.total / group.tasks
    return _modified(merged, group, merge)


def apply_to_stack(merge: Merge, stack: Stack, material: Material) -> Iterator[Tensor]:
    """Give the merged task vectors of a stack's matrices."""
    merged = merge.method.function(stack, **merge.settings)
    for key, tensor in zip(stack.keys, merged, strict=True):
        yield _modified(tensor, Group(material, key), merge)


def _modified(merged: Tensor, group: Group, merge: Merge) -> Tensor:
    is_sum = merge.method.sums
    for modifier, settings in merge.modifiers:
        if modifier.on == "all" or group.place.kind == "matrix":
            spectrum = partial(_spectrum, merged, group.summed if is_sum else None)
            merged = apply(modifier, group, settings, merged=merged, spectrum=spectrum)
            is_sum = False
    return merged


def _spectrum(matrix: Tensor, summed: Summed | None) -> tuple[Tensor, Tensor, Tensor]:
    """All singular triples of what was merged: if that is the sum, perhaps from its cache."""
    rank = min(matrix.shape)
    return summed.svd(rank) if summed and summed.cached else truncated_svd(matrix, rank)


def _suits(method: Method, group: Group) -> bool:
    if method.grain == "stack" or (method.on == "matrices" and group.place.kind != "matrix"):
        return False
    if any(
        getattr(group, name) is None for name in ("gram", "propagated") if name in method.inputs
    ):
        return False
    return "svd" not in method.inputs or group.share > 0


def _say_what_is_too_small(material: Material, merge: Merge) -> None:
    """Log matrices that have too few singular values to give each task one."""
    tasks = len(material.source)
    small = [k for k, p in material.places.items() if p.kind == "matrix" and min(p.shape) < tasks]
    if small and "svd" in merge.method.inputs:
        fallback = merge.settings.get("fallback", "mean")
        log.warning(
            "%s: fewer singular values than the %d tasks, so %s takes %s there",
            ", ".join(small),
            tasks,
            merge.method.name,
            "each task's own values" if merge.method.per_task else f"what {fallback} makes of them",
        )


def _survey(material: Material, merge: Merge, threads: Pool) -> Any:
    survey = merge.method.survey
    assert survey is not None
    wanted = inspect.signature(survey).parameters
    settings = {name: value for name, value in merge.settings.items() if name in wanted}
    return survey(Survey(material, threads), **settings)
