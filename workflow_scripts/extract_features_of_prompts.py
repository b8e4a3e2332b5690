"""Compute the features of a split of a text task with a frozen sentence encoder."""

from pathlib import Path

from mergeloom.data.texts import answers_of, read_prompts
from mergeloom.features.extract import extract_features
from rule import job

with job(snakemake) as j:
    table = Path(j.input.prompts)
    answers = answers_of(j.params.task, [Path(path) for path in j.input.answers])
    record = Path(j.input.splits[0]) if j.input.splits else None
    texts, _ = read_prompts(table, j.params.task, answers, record, j.wildcards.inputs)
    extract_features(
        name=j.wildcards.extractor,
        extractor=j.params.extractor,
        encoder=None,
        weights=Path(j.input.network),
        examples=texts,
        batch_size=j.params.batch_size,
        device=j.device,
        out=Path(j.output.features),
        metadata=j.metadata(),
    )
