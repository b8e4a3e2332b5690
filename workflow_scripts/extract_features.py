"""Compute the features of a split with a frozen extractor."""

from pathlib import Path

from mergeloom.features.extract import extract_features
from rule import job

with job(snakemake) as j:
    extract_features(
        name=j.wildcards.extractor,
        extractor=j.params.extractor,
        encoder=j.params.encoder,
        weights=Path(j.input.network),
        examples=Path(j.input.examples),
        batch_size=j.params.batch_size,
        device=j.device,
        out=Path(j.output.features),
        metadata=j.metadata(),
    )
