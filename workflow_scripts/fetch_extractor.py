"""Fetch a published feature extractor, once, into safetensors, with what it takes to build it."""

from mergeloom.features.source import fetch_network
from mergeloom.io.tensors import write_tensors
from rule import job

with job(snakemake) as j:
    published = fetch_network(j.params.extractor)
    # Files at hand are inputs already.
    downloads = {} if j.input.files else dict(published.record)
    header = {**j.metadata(downloads=downloads), **published.fields}
    write_tensors(j.output.network, published.weights, header)
