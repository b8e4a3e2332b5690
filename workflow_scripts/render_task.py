"""Render a task's images by its rule and write them as WebDataset shards."""

from pathlib import Path

from mergeloom.data.rendered.registry import render
from mergeloom.data.shards import write_lines, write_shard
from rule import job

with job(snakemake) as j:
    task = j.params.task
    counts = {split: task["source"][split] for split in ("train", "val", "test")}
    imbalance = task["source"].get("imbalance", 1)
    splits = render(task["source"]["rendered"], task["classnames"], counts, j.seed, imbalance)
    for split, (images, labels) in splits.items():
        write_shard(Path(j.output[split]), images, labels)
        write_lines(Path(j.output[f"{split}_count"]), ["1"])
    write_lines(Path(j.output.classnames), task["classnames"])
    write_lines(Path(j.output.templates), task["templates"])
    j.write_sidecar(Path(j.output.record).parent)
