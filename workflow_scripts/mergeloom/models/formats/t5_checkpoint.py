"""T5's checkpoints: transformers' files, and LoRA adapters of PEFT on them, as the family has them.

Names are transformers' own. What differs from file to file is which copies of a tied table it holds
and what adapts which layers.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mergeloom.errors import MergeloomError
from mergeloom.io.hub import fetch, listing
from mergeloom.io.jsonfile import read_json
from mergeloom.io.tensors import TensorFile, check_finite, write_tensors
from mergeloom.models.formats.files import ADAPTER, CONFIG, file_of_weights, tensors_of
from mergeloom.models.formats.lora import read_adapter
from mergeloom.models.formats.parts import Part
from mergeloom.models.t5 import model_config

log = logging.getLogger(__name__)
WHOLE = ("model.safetensors", "pytorch_model.bin")
TABLE, HEAD = "shared.weight", "lm_head.weight"
COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
# Old files hold a table of positions that no layer looks anything up in.
UNUSED = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
# What changes what a model computes without changing the shapes of its tensors.
SETTINGS = (
    "feed_forward_proj", "relative_attention_max_distance", "layer_norm_epsilon",
    "scale_decoder_outputs", "num_heads", "d_kv",
)  # fmt: skip


def download_base(repository: str, revision: str) -> Path:
    """Fetch the weights of a T5 of the hub, and its config.json beside them.

    Raises
    ------
    MergeloomError
        If there is neither of the files that transformers writes for a model in one file, or for
        whatever `mergeloom.io.hub.fetch` raises.
    """
    there = listing(repository, revision)
    file = next((name for name in WHOLE if name in there), None)
    if file is None:
        raise MergeloomError(
            f"{repository} (revision {revision}): has none of {', '.join(WHOLE)}; of weights in "
            "several files, save the model in one and give its folder as weights.published"
        )
    path = fetch(repository, file, revision)
    if CONFIG in there:
        fetch(repository, CONFIG, path.parent.name)
    return path


def read_weights(path: Path, architecture: Mapping[str, Any]) -> tuple[Path, dict[str, Tensor]]:
    """The tensors of a whole T5 by the family's names, and the file that they are of.

    Raises
    ------
    MergeloomError
        For a file that is damaged or no T5, whose config.json says another architecture, or copies
        of whose table differ.
    """
    path = file_of_weights(path)
    tensors, _ = tensors_of(path)
    try:
        _check_config(path, architecture)
        return path, _canonical(tensors, architecture)
    except MergeloomError as error:
        raise MergeloomError(f"{path}: {error}") from None


def import_checkpoint(
    path: Path, base: Path, architecture: Mapping[str, Any], out: Path, metadata: Mapping[str, str]
) -> None:
    """Write a fine-tuned T5, or a LoRA adapter folded into its base, as merging reads it.

    Parameters
    ----------
    path : a file or folder; beside an adapter lies its adapter_config.json.
    base : the encoder's base, safetensors.

    Raises
    ------
    MergeloomError
        For a file that is damaged or no T5, for one of another encoder (names a tensor), and for a
        value that is NaN or infinite.
    """
    with TensorFile(base) as file:
        start = {key: file[key] for key in file}
        path = file_of_weights(path)
        tensors, _ = tensors_of(path)
        try:
            if any("lora_" in key for key in tensors):
                found = _fold(path, tensors, start)
            else:
                _check_config(path, architecture)
                found = _canonical(tensors, architecture)
            _check_shapes(found, start)
        except MergeloomError as error:
            raise MergeloomError(f"{path}: {error}") from None
        for key, tensor in found.items():
            check_finite(tensor, path, key)
        write_tensors(out, {key: tensor.contiguous() for key, tensor in found.items()}, metadata)
    log.info("%s: %d tensors of a T5", path, len(found))


def _canonical(tensors: Mapping[str, Tensor], architecture: Mapping[str, Any]) -> dict[str, Tensor]:
    found = {key: tensor for key, tensor in tensors.items() if key != UNUSED}
    table = next((found[key] for key in (TABLE, *COPIES) if key in found), None)
    if table is None:
        raise MergeloomError(
            f"has no {TABLE}: it is no T5 of transformers. Its tensors are "
            f"{', '.join(sorted(found)[:5])}, …"
        )
    tied = [*COPIES, *([HEAD] if model_config(architecture).scale_decoder_outputs else [])]
    for key in tied:
        copy = found.pop(key, table)
        if copy.shape != table.shape or not torch.equal(copy, table):
            raise MergeloomError(
                f"its {key} is not its {TABLE}, but this encoder has one table for both: give the "
                "encoder an architecture with tie_word_embeddings: false"
                if key == HEAD
                else f"its {key} is not its {TABLE}: it is no T5 as transformers builds it"
            )
    return {**found, TABLE: table}


def _check_config(path: Path, architecture: Mapping[str, Any]) -> None:
    """Compare config.json, where one lies beside the file, with the architecture."""
    beside = path.with_name(CONFIG)
    if not beside.is_file():
        return
    config = read_json(beside)
    if config.get("model_type") != "t5":
        raise MergeloomError(
            f"its config.json has the model_type {config.get('model_type')!r}, expected t5"
        )
    expected = model_config(architecture)
    seen = type(expected).from_dict(dict(config))
    for name in SETTINGS:
        if getattr(seen, name) != getattr(expected, name):
            raise MergeloomError(
                f"its config.json has {name} {getattr(seen, name)}, the encoder "
                f"{getattr(expected, name)}: it is a checkpoint of another encoder, or the "
                "encoder's architecture is not that of its weights"
            )


def _check_shapes(found: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> None:
    for key in sorted(found.keys() | base.keys()):
        seen, expected = (
            list(some[key].shape) if key in some else "absent" for some in (found, base)
        )
        if seen != expected:
            raise MergeloomError(
                f"tensor {key} is {seen}, but in the base {expected}: it is a checkpoint of "
                "another encoder"
            )


def _fold(
    path: Path, tensors: Mapping[str, Tensor], base: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """W + scale · B A for every layer of the adapter, the base's tensors for the rest."""
    config = path.with_name(ADAPTER)
    if not config.is_file():
        raise MergeloomError(
            f"holds a LoRA adapter, but {ADAPTER}, which says its scale, is not beside it. Put it "
            "there."
        )
    adapter = read_adapter(tensors, read_json(config))
    found = dict(base)
    changed = {f"{layer}.weight": change for layer, change in adapter.changes.items()}
    for key in (*changed, *adapter.replaced):
        if key not in base:
            raise MergeloomError(f"adapts {key}, which the base does not have.")
    for key, change in changed.items():
        size = [len(change.b), change.a.shape[1]]
        if size != list(base[key].shape):
            raise MergeloomError(
                f"adapts {key} of shape {size}, but the base has {list(base[key].shape)}: it is "
                "an adapter of another encoder."
            )
        found[key] = Part(base[key], change).read()
    return found | adapter.replaced
