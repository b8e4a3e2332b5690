"""What the names of parameters say: which are matrices, which block of the model they belong to.

This is all that merging needs to know of a kind of model. A family that the workflow can also
build and evaluate (`models/family.py`) is a naming, too; the ones here serve checkpoints at hand.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from mergeloom.errors import MergeloomError

Kind = Literal["matrix", "vector", "frozen"]
Shape = tuple[int, ...]
Block = tuple[int | str, ...]


class Naming(Protocol):
    """What a family of models says about the names of its parameters."""

    def kind(self, key: str, shape: Shape) -> Kind:
        """Matrix (for spectral methods), vector (averaged by them), or frozen (never tuned)."""
        ...

    def block(self, key: str) -> tuple[Block, str] | None:
        """The block that a parameter belongs to, and its name within any block; None outside.

        Blocks sort in the order in which the input passes through them.
        """
        ...

    def is_input(self, key: str) -> bool:
        """Whether a parameter outside the blocks comes before them (embeddings) or after."""
        ...

    def order(self, key: str) -> tuple[int | str, ...]:
        """Sorts parameters of one block, or of those before or after all blocks, by use."""
        ...


@dataclass(frozen=True)
class Place:
    """Where in the model a parameter is.

    kind : "matrix" or "vector".
    depth : 0 before the first block, 1 behind the last one, ℓ / (L - 1) in block ℓ = 0 … L - 1.
    stack : name that the parameter shares with those of the other blocks, None outside blocks.
    atoms : the model's linear maps in the order in which the input passes through them: matrices,
        and convolutions of four dimensions.
    embeddings : those of `atoms` that are matrices before the first block, as positions are.
    """

    key: str
    shape: Shape
    kind: Kind
    depth: float
    stack: str | None
    atoms: tuple[str, ...]
    embeddings: tuple[str, ...]


def places(naming: Naming, shapes: Mapping[str, Shape]) -> dict[str, Place]:
    """Return the place of every trained parameter, by name."""
    kinds = {key: naming.kind(key, shape) for key, shape in shapes.items()}
    trained = [key for key in shapes if kinds[key] != "frozen"]
    found = {key: naming.block(key) for key in trained}
    before, *blocks, _ = by_stage(naming, trained)
    position = {key: index for index, keys in enumerate(blocks) for key in keys}
    where = dict.fromkeys(trained, len(blocks)) | dict.fromkeys(before, -1) | position

    def depth(key: str) -> float:
        index = where[key]
        if index == len(blocks):
            return 1.0
        return max(index, 0) / max(len(blocks) - 1, 1)

    ordered = sorted(trained, key=lambda key: (where[key], naming.order(key)))
    atoms = tuple(k for k in ordered if kinds[k] == "matrix" or len(shapes[k]) == 4)
    embeddings = tuple(k for k in atoms if where[k] < 0 and kinds[k] == "matrix")
    return {
        key: Place(
            key=key,
            shape=tuple(shapes[key]),
            kind=kinds[key],
            depth=depth(key),
            stack=entry[1] if (entry := found[key]) else None,
            atoms=atoms,
            embeddings=embeddings,
        )
        for key in trained
    }


def by_stage(naming: Naming, keys: Iterable[str]) -> list[list[str]]:
    """Parameters before the first block, those of each block, and those behind the last one."""
    before: list[str] = []
    behind: list[str] = []
    blocks: dict[Block, list[str]] = {}
    for key in keys:
        if entry := naming.block(key):
            blocks.setdefault(entry[0], []).append(key)
        else:
            (before if naming.is_input(key) else behind).append(key)
    return [before, *(blocks[block] for block in sorted(blocks)), behind]


def natural(key: str) -> tuple[int | str, ...]:
    """Sort key that orders numbers within names by value: block 2 before block 10."""
    # Text and numbers alternate, text first, so entries at one position are of one type.
    return tuple(int(p) if i % 2 else p for i, p in enumerate(re.split(r"(\d+)", key)))


class Generic:
    """Any state dict: two-dimensional tensors are matrices, the first number names the block.

    That is a number of its own (`layers.3.`) or at the end of a name (`encoder_layer_3.`). Blocks
    of an encoder come before those of a decoder, others in the order of their names.
    """

    inputs = re.compile(
        r"(?<!un)embed(?!_out)|stem|patch|(class|cls|dist)_token|wte|wpe|shared|conv_proj"
        r"|(^|\.)conv1\.|(^|\.)bn1\.|ln_pre|pre_layrnorm|pre_layernorm"
    )
    number = re.compile(r"(?:^|[._])(\d+)\.")

    def kind(self, key: str, shape: Shape) -> Kind:
        """Two-dimensional tensors are matrices, all others vectors; nothing is frozen."""
        return "matrix" if len(shape) == 2 else "vector"

    def block(self, key: str) -> tuple[Block, str] | None:
        """The text before the first number and the number."""
        found = self.number.search(key)
        if not found:
            return None
        start, end = found.span(1)
        which = int("decoder" in key[:start])
        return (which, *natural(key[:end])), key[:start] + "{}" + key[end:]

    def is_input(self, key: str) -> bool:
        """Embeddings, stems and first convolutions, as they are usually called."""
        return bool(self.inputs.search(key))

    def order(self, key: str) -> tuple[int | str, ...]:
        """By name, numbers by value."""
        return natural(key)


class Cnn(Generic):
    """Convolutional networks of torchvision's layout: `features.{i}` or `layer{stage}.{i}`.

    Convolutions are no matrices; running statistics of batch norm are merged as weights are, and
    its counters of batches are left alone.
    """

    stage = re.compile(r"^layer(\d+)\.(\d+)\.")
    feature = re.compile(r"^features\.(\d+)\.")

    def kind(self, key: str, shape: Shape) -> Kind:
        """Linear layers are matrices."""
        if key.endswith("num_batches_tracked"):
            return "frozen"
        return super().kind(key, shape)

    def block(self, key: str) -> tuple[Block, str] | None:
        """A residual block, or an entry of `features`; the classifier comes after all."""
        if found := self.stage.search(key):
            return (int(found[1]), int(found[2])), "layer{}.{}." + key[found.end() :]
        if found := self.feature.search(key):
            return (int(found[1]),), "features.{}." + key[found.end() :]
        return None


class T5(Generic):
    """T5 (arXiv 1910.10683) as transformers names it: encoder blocks, then decoder blocks.

    Tables are no linear maps, but vectors: those of relative positions and those with a row for
    each token. Of the latter a file may hold copies, which are merged alike and so stay copies.
    """

    stage = re.compile(r"^(encoder|decoder)\.block\.(\d+)\.")
    table = re.compile(r"^shared\.|embed_tokens\.|^lm_head\.|relative_attention_bias\.")

    def kind(self, key: str, shape: Shape) -> Kind:
        """Two-dimensional tensors but tables are matrices."""
        return "vector" if self.table.search(key) else super().kind(key, shape)

    def block(self, key: str) -> tuple[Block, str] | None:
        """A block of the encoder or, after all of those, of the decoder."""
        found = self.stage.search(key)
        if not found:
            return None
        which = ("encoder", "decoder").index(found[1])
        return (which, int(found[2])), f"{found[1]}.block.{{}}." + key[found.end() :]


def naming(name: str) -> Naming:
    """The naming `generic`, `cnn`, `t5`, or that of a family of `models/family.py`.

    Raises
    ------
    MergeloomError
        If there is none of this name; the message lists those that exist.
    """
    from mergeloom.models.family import families

    known: dict[str, Naming] = {"generic": Generic(), "cnn": Cnn(), "t5": T5(), **families()}
    if name not in known:
        raise MergeloomError(f"unknown family {name!r}; there is: {', '.join(sorted(known))}")
    return known[name]


def recognise(keys: Iterable[str]) -> str:
    """Name the naming that a file's keys look like: `clip`, `t5`, `cnn`, else `generic`."""
    keys = list(keys)
    signs = {
        "clip": r"^visual\.",
        "t5": r"^(encoder|decoder)\.block\.\d+\.layer\.\d+\.",
        "cnn": r"^(features\.\d+|layer\d+\.\d+\.conv\d+)\.",
    }
    for name, sign in signs.items():
        if any(re.search(sign, key) for key in keys):
            return name
    return "generic"
