"""What a task's preset says about its files: where they come from, its splits, how many shards."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mergeloom.errors import MergeloomError

SPLITS = ("train", "val", "test")
SHARD_SIZE = 5000  # samples of a shard, but for the last


def modality_of(task: Mapping[str, Any]) -> str:
    """What a task's examples are: `text`, where a prompt asks for an answer, or `images`."""
    return "text" if "prompt" in task else "images"


def source_of(task: Mapping[str, Any]) -> str:
    """Where a task's examples come from: `shards` or `tables` (given), `rendered`, `hub`, `folder`
    or `files`."""
    source = task["source"]
    if isinstance(source, str):
        return source
    return next(kind for kind in ("rendered", "hub", "folder", "files") if kind in source)


def made_shards(task: Mapping[str, Any]) -> dict[str, int]:
    """The splits that a rule makes of a task, and how many shards of each; none of given ones.

    Rules name their outputs before they run: without `counts`, a split is one shard. A split of a
    text task is always one table.
    """
    source = task["source"]
    match source_of(task):
        case "rendered":
            return dict.fromkeys(SPLITS, 1)
        case "hub":
            counts = source.get("counts", {})
            return {
                split: -(-counts.get(split, 1) // SHARD_SIZE)
                for split in SPLITS
                if split in source["files"]
            }
        case "files":
            return {split: 1 for split in SPLITS if split in source["files"]}
        case "folder":
            drawn = not Path(source["folder"], "val").is_dir()
            return {split: 1 for split in SPLITS if split != "val" or not drawn}
    return {}


def check_names(names: Sequence[str], classnames: Sequence[str], title: str) -> None:
    """Raise MergeloomError if names of a data set have no counterpart among a task's classes."""
    strange = [name for name in names if name not in set(classnames)]
    if strange:
        raise MergeloomError(
            f"{title}: `names` {', '.join(map(repr, strange[:5]))} are not among `classnames`; "
            "spell a class alike in both"
        )
