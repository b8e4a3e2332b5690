"""The work of `mergeloom merge`: fine-tuned checkpoints at hand to merged models."""

import logging
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mergeloom.cli.device import chosen_device
from mergeloom.cli.file_names import shortest_names
from mergeloom.cli.output import check_output
from mergeloom.cli.parameters import parse_parameters
from mergeloom.cli.svd_folder import SvdFolder, registered_family
from mergeloom.errors import MergeloomError
from mergeloom.io.checksums import sha256
from mergeloom.io.tensors import TensorFile
from mergeloom.merging.engine import Merge, check_data, merge_files, plan_merge
from mergeloom.merging.sources import Differences
from mergeloom.models.naming import naming, recognise
from mergeloom.provenance.code import digest
from mergeloom.provenance.record import as_metadata, record

log = logging.getLogger(__name__)
RULE = "mergeloom merge"  # stands in the record where a job of the workflow names its rule
PACKAGES = ("numpy", "safetensors", "scipy", "tensorly", "torch")
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Request:
    """What the user asks for, as it was typed.

    parameters : "name=value" of the method, "modifier.name=value" of a modifier.
    alpha : None for the method's own.
    family : name of a naming, or "auto".
    device : "cpu", "cuda" or "auto".
    cache : folder of SVD caches.
    """

    base: Path
    experts: Sequence[Path]
    out: Path
    method: str
    parameters: Sequence[str] = ()
    modifiers: Sequence[str] = ()
    alpha: float | None = None
    family: str = "auto"
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    cache: Path | None = None
    overwrite: bool = False


def merge_checkpoints(
    request: Request, progress: Progress = lambda what, done, size: None
) -> list[Path]:
    """Merge fine-tuned checkpoints as the user asks for it, and return the files written.

    What the user should know of the input is logged.

    Parameters
    ----------
    progress : is called with what is being done, how much of it is done, and how much there is.

    Raises
    ------
    MergeloomError
        For whatever is wrong with the request or the files. No file is then left behind.
    """
    base, experts = request.base, list(request.experts)
    merge = _plan(request)
    check_data(merge)
    alpha = _alpha(request.alpha, merge)
    if not experts:
        raise MergeloomError("There is nothing to merge: name the fine-tuned files by --experts.")
    check_output(
        request.out,
        [base, *experts],
        folder=merge.method.per_task,
        why_folder="this method gives one model per task",
        overwrite=request.overwrite,
        ours=lambda name: name.endswith(".safetensors"),
    )
    names = task_names(experts) if merge.method.per_task else []
    device = chosen_device(request.device)
    family = _family(request.family, base)
    _look_at(base, experts, family)

    with ThreadPoolExecutor(request.threads or torch.get_num_threads()) as pool:
        files = [base, *experts]
        for done, _ in enumerate(pool.map(sha256, files)):
            progress("reading", done + 1, len(files))
    _name_twins(experts)

    svd: list[Path] | None = None
    summed: Path | None = None
    if request.cache:
        folder = SvdFolder(request.cache, base, family, device, request.threads)
        if "svd" in merge.inputs:
            svd = []
            for path in folder.of_each(experts):
                svd.append(path)
                progress("decomposing", len(svd), len(experts))
        if "summed" in merge.inputs:
            summed = folder.of_sum(experts)

    merge_files(
        base,
        experts,
        merge,
        request.out,
        family,
        device,
        checkpoints=True,
        alpha=alpha,
        names=names,
        seed=request.seed,
        svd=svd,
        summed=summed,
        workers=request.threads,
        metadata=as_metadata(_record(request, merge, alpha, family, device)),
        progress=lambda done, size: progress("merging", done, size),
    )
    return [request.out / f"{name}.safetensors" for name in names] or [request.out]


def task_names(experts: Sequence[Path]) -> list[str]:
    """Names of the files of one model per task: the experts' stems, else their folders' names.

    Raises
    ------
    MergeloomError
        If neither tells the experts apart.
    """
    stems = [path.stem for path in experts]
    folders = [path.absolute().parent.name for path in experts]
    for names in (stems, folders):
        if len(set(names)) == len(names):
            return names
    twice = next(path for path, name in zip(experts, stems, strict=True) if stems.count(name) > 1)
    raise MergeloomError(
        f"{twice}: another expert has this name, and the folders' names do not tell the experts "
        "apart either. Rename the files, or make links with names that differ."
    )


def _plan(request: Request) -> Merge:
    of_method, of_modifiers = parse_parameters(request.parameters, request.modifiers)
    return plan_merge(request.method, of_method, [{n: p} for n, p in of_modifiers.items()])


def _alpha(given: float | None, merge: Merge) -> float:
    if given is None:
        log.info("alpha %g, the default of %s", merge.method.alpha, merge.method.name)
        return merge.method.alpha
    if not math.isfinite(given):
        raise MergeloomError(f"--alpha is {given}, expected a finite number.")
    return given


def _family(wanted: str, base: Path) -> str:
    if wanted == "auto":
        with TensorFile(base) as file:
            wanted = recognise(file)
        log.info("family %s, recognised by the names of parameters in %s", wanted, base)
    naming(wanted)  # raises for one that does not exist
    return wanted


def _look_at(base: Path, experts: Sequence[Path], family: str) -> None:
    """Check names, shapes and types by the files' headers, and say what is special about them."""
    types: dict[str, list[Path]] = {}
    with ExitStack() as stack:
        base_file = stack.enter_context(TensorFile(base))
        source = stack.enter_context(Differences(base_file, experts, naming(family)))
        for file in [base_file, *(stack.enter_context(TensorFile(path)) for path in experts)]:
            for key in source.shapes:
                if not file.dtype(key).is_floating_point:
                    raise MergeloomError(
                        f"{file.path}: tensor {key} has the type {_short(file.dtype(key))}, but "
                        f"{_short(base_file.dtype(key))} in {base}. Whole numbers cannot be "
                        "merged: give a checkpoint that is not quantised."
                    )
            used = sorted({_short(file.dtype(key)) for key in source.shapes})
            types.setdefault(" and ".join(used), []).append(file.path)
    if len(types) > 1:
        lists = (f"{name} in {', '.join(map(str, paths))}" for name, paths in types.items())
        log.info(
            "types differ (%s): computed in float32, written in those of the base",
            "; ".join(lists),
        )
    if len(experts) == 1:
        log.info("only one expert (T = 1): this scales its task vector, and merges nothing with it")


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _name_twins(experts: Sequence[Path]) -> None:
    first: dict[str, Path] = {}
    for path in experts:
        twin = first.setdefault(sha256(path), path)
        if twin is not path:
            log.warning("%s and %s hold the same bytes: this expert counts twice", twin, path)


def _record(
    request: Request, merge: Merge, alpha: float, family: str, device: str
) -> dict[str, Any]:
    """What was done, with the names of inputs and not their places: a record as jobs write it."""
    files = [request.base, *request.experts]
    names = shortest_names(files)
    content = record(
        rule=RULE,
        inputs=[],
        params={
            "method": merge.method.name,
            "parameters": merge.settings,
            "modifiers": [{method.name: settings} for method, settings in merge.modifiers],
            "alpha": alpha,
            "family": family,
            "base": names[request.base],
            "experts": [names[path] for path in request.experts],
        },
        code=_code(merge, family),
        packages=PACKAGES,
        device=device,
        seed=request.seed,
        roots={},
    )
    return content | {"inputs": {names[path]: sha256(path) for path in files}}


def _code(merge: Merge, family: str) -> str:
    return digest(
        "mergeloom/cli/merge.py",
        merger=tuple(method.name for method, _ in merge.choices),
        modifier=tuple(method.name for method, _ in merge.modifiers),
        family=registered_family(family),
    )
