"""Presets of feature extractors: what each reads, and which one an adapter takes."""

from collections.abc import Mapping
from typing import Any

from mergeloom.config.presets import choose
from mergeloom.errors import MergeloomError
from mergeloom.provenance.code import registered

Presets = Mapping[str, Mapping[str, Any]]
ENCODER = "encoder"  # the key of an extractor whose features are those of an encoder's base


def source_name(extractor: Mapping[str, Any]) -> str:
    """The key of a preset that says where its network comes from."""
    return next(name for name in (ENCODER, *registered("extractor")) if name in extractor)


def reads(encoder: Mapping[str, Any]) -> str:
    """What an encoder's examples are, by its preset: `text` or `images`."""
    return "text" if "text" in encoder else "images"


def modality_of_extractor(extractor: Mapping[str, Any], presets: Presets) -> str:
    """What an extractor reads: `images` or `text`."""
    source = source_name(extractor)
    if source == ENCODER:
        return reads(presets["encoders"][extractor[ENCODER]])
    return str(registered("extractor")[source].options["modality"])


def choose_extractor(adapter: Mapping[str, Any], encoder: str, presets: Presets) -> str:
    """The name of the extractor that an adapter of an encoder takes: its own, or the encoder's.

    Raises
    ------
    MergeloomError
        If neither names one, there is none of this name, or it reads the other modality.
    """
    given = presets["encoders"][encoder]
    name = adapter.get("extractor") or given.get("extractor")
    if name is None:
        raise MergeloomError(
            f"encoder {encoder!r} names no extractor of features: add `extractor:` to its preset "
            f"or to the adapter's; there is: {', '.join(sorted(presets['extractors']))}"
        )
    check_extractor(name, encoder, presets)
    return str(name)


def check_extractor(name: str, encoder: str, presets: Presets) -> None:
    """Check that an extractor exists and reads what an encoder reads."""
    found = modality_of_extractor(choose("extractors", presets["extractors"], name), presets)
    wanted = reads(presets["encoders"][encoder])
    if found != wanted:
        there_is = sorted(presets["extractors"].items())
        fitting = [n for n, e in there_is if modality_of_extractor(e, presets) == wanted]
        raise MergeloomError(
            f"extractor {name!r} reads {found}, but the encoder {encoder!r} reads {wanted}; "
            f"extractors of {wanted}: {', '.join(fitting) or 'none'}"
        )


def functions_of_extractor(extractor: Mapping[str, Any], presets: Presets) -> dict[str, str]:
    """What an extractor looks up by name: its source, or the family of its encoder."""
    source = source_name(extractor)
    if source == ENCODER:
        return {"family": presets["encoders"][extractor[ENCODER]]["family"]}
    return {"extractor": source}
