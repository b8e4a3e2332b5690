"""Download a task's splits from the hub and write them as WebDataset shards."""

from pathlib import Path

from mergeloom.data.hub_task import HubTask
from mergeloom.data.shards import write_task
from rule import job

with job(snakemake) as j:
    folder, source = Path(j.output.record).parent, j.params.source
    task = HubTask(source, j.params.classnames)
    write_task(
        folder,
        {split: task.samples(split) for split in source["files"]},
        shards={split: len(j.output[split]) for split in source["files"]},
        counts=source.get("counts", {}),
        classnames=j.params.classnames,
        title=task.title,
    )
    j.write_sidecar(folder, downloads=task.downloads)
