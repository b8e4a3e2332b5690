"""Write a task's answers, as an encoder's tokens, in the place of a head."""

from pathlib import Path

from mergeloom.data.texts import answers_of, write_answers
from rule import job

with job(snakemake) as j:
    task = j.params.task
    answers = answers_of(task, [Path(path) for path in j.input.answers])
    write_answers(task, answers, Path(j.input.tokenizer), Path(j.output.head), j.metadata())
