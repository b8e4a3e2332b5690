"""Ask the questions of some splits and write them as an encoder's tokens."""

from pathlib import Path

from mergeloom.data.texts import answers_of, read_prompts, tokenize_split
from rule import job

with job(snakemake) as j:
    answers = answers_of(j.params.task, [Path(path) for path in j.input.answers])
    record = Path(j.input.splits[0]) if j.input.splits else None
    for split, out in j.output.items():
        table = Path(j.input[split])
        prompts, labels = read_prompts(table, j.params.task, answers, record, split)
        tokenize_split(
            prompts, labels, Path(j.input.tokenizer), j.params.length, Path(out), j.metadata()
        )
