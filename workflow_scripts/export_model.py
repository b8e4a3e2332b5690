"""Write θ0 + αΔ as a folder for transformers or open_clip, α being the one of its result."""

from pathlib import Path

from mergeloom.evaluation.results import read_result
from mergeloom.io.tensors import TensorFile
from mergeloom.models.formats.architecture import vision_of
from mergeloom.models.formats.card import Facts, expert
from mergeloom.models.formats.encoder import read_base
from mergeloom.models.formats.exporting import (
    Export,
    text_config,
    write_open_clip,
    write_transformers,
)
from mergeloom.models.formats.sources import source_of_tower
from mergeloom.models.weights import merged_weights
from rule import job

with job(snakemake) as j:
    encoder, record = j.params.encoder, j.provenance
    result = read_result(j.input.result)
    merger, alpha = result["merger"], result["alpha"]
    merged = Path(j.input.merged)
    with TensorFile(j.input.base) as base_file, TensorFile(merged) as delta:
        tower = dict(merged_weights(base_file, delta, alpha["value"]))
    base = read_base(Path(j.input.base))
    source = source_of_tower(merged, tower)
    digests = {Path(name).name: digest for name, digest in record["inputs"].items()}
    facts = Facts(
        title=f"{j.wildcards.encoder}, {merger['name']} merge of {len(j.params.tasks)} tasks",
        method=merger["method"],
        parameters=merger["parameters"],
        modifiers=merger["modifiers"],
        alpha=f"{alpha['value']:g} ({alpha['how']})",
        experts=[
            expert(task, Path(path))
            for task, path in zip(j.params.tasks, j.input.checkpoints, strict=True)
        ],
        base=(j.wildcards.encoder, digests["base.safetensors"]),
    )
    export = Export(
        source, vision_of(encoder["architecture"]), facts, j.metadata(), encoder["image"]
    )
    folder = Path(j.output.folder)
    if j.wildcards.format == "transformers":
        write_transformers(export, folder)
    else:
        write_open_clip(export, base, text_config(encoder["architecture"], base, source), folder)
