"""Fetch a model of text with its published weights, once, into safetensors."""

from mergeloom.io.checksums import sha256
from mergeloom.io.hub import named
from mergeloom.io.tensors import write_tensors
from mergeloom.models.family import get_family
from rule import job

with job(snakemake) as j:
    encoder = j.params.encoder
    family = get_family(encoder["family"])
    model, file = family.pretrained(encoder["architecture"], encoder["weights"]["published"])
    # A file at hand is an input already.
    downloads = {} if j.input.weights else {named(file): sha256(file)}
    weights = {key: tensor.detach() for key, tensor in family.tower_weights(model).items()}
    write_tensors(j.output.base, weights, j.metadata(downloads=downloads))
