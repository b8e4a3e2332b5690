"""Take the tokenizer of a published encoder from the hub, or from where its weights lie."""

import shutil
from pathlib import Path

from mergeloom.data.tokenizer import check_size, read_tokenizer
from mergeloom.io.atomic import atomic_path
from mergeloom.io.checksums import sha256
from mergeloom.io.hub import fetch, named
from rule import job

with job(snakemake) as j:
    source = j.params.source
    given = [Path(path) for path in j.input]
    path = given[0] if given else fetch(source["hub"], "tokenizer.json", source["revision"])
    check_size(read_tokenizer(path), j.params.size, path)
    with atomic_path(j.output.tokenizer) as temporary:
        shutil.copyfile(path, temporary)
    # A file at hand is an input already.
    downloads = {} if given else {named(path): sha256(path)}
    j.write_sidecar(j.output.tokenizer, downloads=downloads)
