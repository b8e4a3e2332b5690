"""Pack the files of texts that are given for a task into a table for each split."""

from pathlib import Path

from mergeloom.data.text_sources import read_tables
from mergeloom.data.text_tables import write_table
from rule import job

with job(snakemake) as j:
    for split, out in j.output.items():
        given = [(path, Path(path)) for path in j.input[split]]
        columns = read_tables(given, j.params.task, split, Path(out).parent.name)
        write_table(Path(out), columns, j.params.task, j.metadata(of=list(j.input[split])))
