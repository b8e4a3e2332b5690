"""Train an encoder's tokenizer on the prompts and answers that it is pretrained on."""

from pathlib import Path

from mergeloom.data.texts import answers_of, read_prompts
from mergeloom.data.tokenizer_training import train_tokenizer
from rule import job

with job(snakemake) as j:
    texts: list[str] = []
    for task, table in zip(j.params.tasks, map(Path, j.input.train), strict=True):
        answers = answers_of(task, [table])
        prompts, labels = read_prompts(table, task, answers)
        texts += [*prompts, *(answers[label] for label in labels), *answers]
    train_tokenizer(texts, j.params.size, Path(j.output.tokenizer), j.wildcards.encoder)
    j.write_sidecar(j.output.tokenizer)
