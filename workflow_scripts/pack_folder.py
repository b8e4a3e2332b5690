"""Pack a folder of images per class into WebDataset shards."""

from pathlib import Path

from mergeloom.data.image_folder import ImageFolder
from mergeloom.data.shards import write_task
from rule import job

with job(snakemake) as j:
    folder, splits = Path(j.output.record).parent, dict(j.input.items())
    task = ImageFolder(Path(splits["train"]).parent, j.params.classnames)
    write_task(
        folder,
        {split: task.samples(split) for split in splits},
        shards={split: len(j.output[split]) for split in splits},
        counts={},
        classnames=task.classnames,
        title=str(Path(splits["train"]).parent),
    )
    j.write_sidecar(folder)
