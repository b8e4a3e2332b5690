"""Download a text task's splits from the hub and write them as tables."""

from pathlib import Path

from mergeloom.data.hub_files import HubFiles
from mergeloom.data.text_sources import read_tables
from mergeloom.data.text_tables import write_table
from rule import job

with job(snakemake) as j:
    task = j.params.task
    files = HubFiles(task["source"])
    splits = {
        split: read_tables(list(files.fetched(split)), task, split, files.title)
        for split in j.output.keys()  # noqa: SIM118 – no mapping
    }
    for split, columns in splits.items():
        write_table(Path(j.output[split]), columns, task, j.metadata(downloads=files.downloads))
