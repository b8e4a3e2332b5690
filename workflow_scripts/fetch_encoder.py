"""Fetch an encoder with its published weights, once, into safetensors."""

from mergeloom.io.tensors import write_tensors
from mergeloom.models.family import get_family
from rule import job

with job(snakemake) as j:
    encoder = j.params.encoder
    family = get_family(encoder["family"])
    model = family.pretrained(encoder["architecture"], encoder["weights"]["published"])
    write_tensors(j.output.base, model.state_dict(), j.metadata())
