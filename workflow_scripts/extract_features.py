"""Compute the features of splits with a frozen extractor."""

from pathlib import Path

from mergeloom.features.extract import extract_features
from rule import job

with job(snakemake) as j:
    splits = [j.input.examples] if isinstance(j.input.examples, str) else j.input.examples
    for examples, out in zip(splits, j.output, strict=True):
        extract_features(
            name=j.wildcards.extractor,
            extractor=j.params.extractor,
            encoder=j.params.encoder,
            weights=Path(j.input.network),
            examples=Path(examples),
            batch_size=j.params.batch_size,
            device=j.device,
            out=Path(out),
            metadata=j.metadata(of=[j.input.network, examples]),
        )
