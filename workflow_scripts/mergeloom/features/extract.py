"""Features of a split: a frozen network, in evaluation mode, over the split in its order."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mergeloom.data.decoded import open_images
from mergeloom.evaluation.examples import ImageExamples, open_examples
from mergeloom.evaluation.models import place_tower
from mergeloom.features.feature_file import DESCRIPTION, FEATURES
from mergeloom.features.source import source_of
from mergeloom.io.tensors import TensorFile, check_finite, write_tensors
from mergeloom.models.family import get_family

Network = Callable[[Any], Tensor]  # inputs of a batch to features [b, d]


def extract_features(
    *,
    name: str,
    extractor: Mapping[str, Any],
    encoder: Mapping[str, Any] | None,
    weights: Path,
    examples: Path | Sequence[str],
    batch_size: int,
    device: str,
    out: Path,
    metadata: Mapping[str, str],
) -> None:
    """Compute the features of a split and write them: `features` float32 [n, d].

    Parameters
    ----------
    name, extractor : the preset.
    encoder : the preset of the encoder that the extractor names, if it names one.
    weights : the encoder's base, or the file that was made of a published network.
    examples : a file with the split as the encoder reads it, or with images decoded at the
        extractor's size; or the split as texts in its order, for a published network that reads
        text.

    Raises
    ------
    MergeloomError
        If a feature is not finite, or the weights are of another network.
    """
    network: Network
    batches: Iterable[Any]
    with TensorFile(weights) as file:
        if encoder is not None:
            family, tower = get_family(encoder["family"]), place_tower(encoder, file, device)
            network = partial(family.features, tower)
            preprocessing = dict(encoder["text" if family.modality == "text" else "image"])
        else:
            source = source_of(extractor)
            network = source.build(extractor, file).to(device).eval().requires_grad_(False)
            preprocessing = source.preprocessing(extractor, file)
    if not isinstance(examples, Path):
        batches = (examples[i : i + batch_size] for i in range(0, len(examples), batch_size))
    elif encoder is not None:
        batches = inputs(open_examples(examples, encoder, device).batches(batch_size))
    else:
        images = ImageExamples(open_images(examples), extractor["image"], device)
        batches = inputs(images.batches(batch_size))
    features = features_of(network, batches)
    check_finite(features, out, FEATURES)
    description = {
        "extractor": name,
        "source": dict(extractor),
        "d": features.shape[1],
        "preprocessing": preprocessing,
    }
    header = {**metadata, DESCRIPTION: json.dumps(description, sort_keys=True)}
    write_tensors(out, {FEATURES: features}, header)


def inputs(batches: Iterable[tuple[Any, Tensor]]) -> Iterator[Any]:
    """Batches without their labels."""
    return (batch for batch, _ in batches)


@torch.inference_mode()
def features_of(network: Network, batches: Iterable[Any]) -> Tensor:
    """Features of all batches, float32 [n, d] on the CPU."""
    return torch.cat([network(batch).float().cpu() for batch in batches])
