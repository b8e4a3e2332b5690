"""Convert a public checkpoint, at hand or of the hub, into the image tower that merging reads."""

from pathlib import Path

from mergeloom.models.formats.download import download_checkpoint
from mergeloom.models.formats.encoder import read_base
from mergeloom.models.formats.importing import open_checkpoint, write_checkpoint
from rule import job

with job(snakemake) as j:
    given = j.params.source
    if "hub" in given:
        path, downloads = download_checkpoint(given["hub"], given["file"], given["revision"])
    else:
        path, downloads = Path(given["path"]), {}
    source, vision = open_checkpoint(
        path, read_base(Path(j.input.base)), j.params.encoder["architecture"]
    )
    write_checkpoint(source, vision, Path(j.output.checkpoint), j.metadata(downloads=downloads))
