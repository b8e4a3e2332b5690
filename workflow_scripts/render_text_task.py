"""Write a text task's splits by its rule, as tables."""

from pathlib import Path

from mergeloom.data.layout import SPLITS
from mergeloom.data.rendered_text.registry import render_texts
from mergeloom.data.text_tables import write_table
from rule import job

with job(snakemake) as j:
    task = j.params.task
    source = task["source"]
    splits = render_texts(source["rendered"], {split: source[split] for split in SPLITS}, j.seed)
    for split, columns in splits.items():
        write_table(Path(j.output[split]), columns, task, j.metadata())
