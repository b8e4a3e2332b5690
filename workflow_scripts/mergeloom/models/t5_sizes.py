"""Sizes of T5s: those that an encoder's preset gives, or those of a published model by its name."""

from collections.abc import Mapping
from typing import Any

from mergeloom.errors import MergeloomError

# Sizes of published models by their repository of the hub; the rest is T5Config's default.
_FLAN = {"vocab_size": 32128, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
PUBLISHED: dict[str, dict[str, Any]] = {
    f"google/flan-t5-{name}": _FLAN
    | {"d_model": width, "d_ff": hidden, "num_layers": layers, "num_heads": heads}
    for name, width, hidden, layers, heads in (
        ("small", 512, 1024, 8, 6),
        ("base", 768, 2048, 12, 12),
        ("large", 1024, 2816, 24, 16),
    )
}


def sizes(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """T5Config's keys: those that the preset has, or those of a published model by its name.

    Raises
    ------
    MergeloomError
        If there are none, and the name is of no model that is known.
    """
    given = {key: value for key, value in architecture.items() if key != "transformers"}
    name = architecture.get("transformers")
    if not given and name not in PUBLISHED:
        raise MergeloomError(
            f"architecture.transformers: {name!r} is none of {', '.join(PUBLISHED)}; of another "
            "T5, give T5Config's keys (d_model, d_ff, num_layers, …), too"
        )
    return given or PUBLISHED[str(name)]
