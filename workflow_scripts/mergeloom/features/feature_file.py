"""Features of a split in a file: `features` float32 [n, d], rows in the order of the split.

The header's field `features` says which extractor made them, from what, and how inputs were
prepared for it.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mergeloom.errors import MergeloomError
from mergeloom.io.tensors import TensorFile, check_finite

FEATURES = "features"  # the tensor
DESCRIPTION = "features"  # the field of the header


def read_features(path: str | Path, *, rows: int, extractor: str) -> Tensor:
    """Read the features of a split, float32 [rows, d].

    Parameters
    ----------
    rows : examples of the split.
    extractor : name of the extractor that they must be of.

    Raises
    ------
    MergeloomError
        If the file is missing, or holds features of another extractor, of another number of
        examples, or that are not finite.
    """
    if not Path(path).is_file():
        raise MergeloomError(
            f"{path}: no such file. It holds the features that the extractor {extractor!r} makes "
            f"of a split; the workflow makes it: snakemake {path}"
        )
    made_by = describe_features(path)["extractor"]
    if made_by != extractor:
        raise MergeloomError(
            f"{path}: holds features of the extractor {made_by!r}, expected those of "
            f"{extractor!r}. Give the features of that extractor: …/features/{extractor}/…"
        )
    with TensorFile(path) as file:
        features = file.read(FEATURES)
    if features.dtype != torch.float32 or features.ndim != 2 or len(features) != rows:
        raise MergeloomError(
            f"{path}: features are {features.dtype} {list(features.shape)}, but the split has "
            f"{rows} examples: expected torch.float32 [{rows}, d]. They are of another split or "
            "of an older one: delete the file, and the workflow makes it anew"
        )
    check_finite(features, path, FEATURES)
    return features


def describe_features(path: str | Path) -> dict[str, Any]:
    """What made the features of a file: `extractor`, `source` (its preset), `d`, `preprocessing`.

    Raises
    ------
    MergeloomError
        If the file is missing, or holds no features.
    """
    with TensorFile(path) as file:
        if FEATURES not in file or DESCRIPTION not in file.metadata:
            raise MergeloomError(
                f"{path}: holds no features. Those of a split are made by the workflow as "
                "{task}/features/{extractor}/{inputs}.safetensors in the cache"
            )
        description: dict[str, Any] = json.loads(file.metadata[DESCRIPTION])
    return description
