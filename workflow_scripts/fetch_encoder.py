"""Fetch an encoder with its published weights, once, into safetensors.

The header holds image features of a seeded probe too, by which a checkpoint's import sees that the
base was built as it was trained.
"""

from mergeloom.io.checksums import sha256
from mergeloom.io.hub import named
from mergeloom.io.tensors import write_tensors
from mergeloom.models.family import get_family
from mergeloom.models.formats.probe import probe_images, probe_record, tower_features
from rule import job

with job(snakemake) as j:
    encoder = j.params.encoder
    family = get_family(encoder["family"])
    model, file = family.pretrained(encoder["architecture"], encoder["weights"]["published"])
    weights = model.state_dict()
    images = probe_images(encoder["image"]["size"])
    features = tower_features(
        family, encoder["architecture"], family.tower_weights(model.visual), images
    )
    # A file at hand is an input already.
    downloads = {} if j.input.weights else {named(file): sha256(file)}
    record = j.metadata(downloads=downloads)
    write_tensors(j.output.base, weights, {**record, **probe_record(features)})
