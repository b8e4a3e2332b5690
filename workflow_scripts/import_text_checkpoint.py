"""Convert a public checkpoint of a T5, at hand or of the hub, into the file that merging reads."""

from pathlib import Path

from mergeloom.models.formats.download import download_checkpoint
from mergeloom.models.formats.t5_checkpoint import import_checkpoint
from rule import job

with job(snakemake) as j:
    given = j.params.source
    if "hub" in given:
        path, downloads = download_checkpoint(given["hub"], given["file"], given["revision"])
    else:
        path, downloads = Path(given["path"]), {}
    import_checkpoint(
        path,
        Path(j.input.base),
        j.params.encoder["architecture"],
        Path(j.output.checkpoint),
        j.metadata(downloads=downloads),
    )
