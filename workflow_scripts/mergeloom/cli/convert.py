"""The work of `mergeloom convert`: a checkpoint of one format to another."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mergeloom.cli.file_names import shortest_names
from mergeloom.cli.output import check_output
from mergeloom.config.presets import read_yaml
from mergeloom.errors import MergeloomError
from mergeloom.io.checksums import sha256
from mergeloom.models.clip import model_config
from mergeloom.models.formats.architecture import architecture_of_record
from mergeloom.models.formats.card import Facts, facts_of_merge
from mergeloom.models.formats.encoder import read_base
from mergeloom.models.formats.exporting import (
    OPEN_CLIP_FILES,
    OPENAI,
    TRANSFORMERS_FILES,
    Export,
    text_config,
    write_open_clip,
    write_transformers,
)
from mergeloom.models.formats.importing import open_checkpoint, write_checkpoint
from mergeloom.models.formats.sources import Source
from mergeloom.provenance.code import digest
from mergeloom.provenance.record import as_metadata, record

RULE = "mergeloom convert"  # stands in the record where a job of the workflow names its rule
PACKAGES = ("open-clip-torch", "safetensors", "torch", "transformers")
Target = Literal["merge", "transformers", "open_clip"]
FILES = {"transformers": TRANSFORMERS_FILES, "open_clip": OPEN_CLIP_FILES}


@dataclass(frozen=True)
class Request:
    """What the user asks for, as it was typed.

    encoder : open_clip's name of an architecture, or the file of an encoder's preset.
    """

    source: Path
    out: Path
    to: Target = "merge"
    base: Path | None = None
    encoder: str | None = None
    overwrite: bool = False


def convert_checkpoint(request: Request) -> Path:
    """Convert a checkpoint as the user asks for it, and return what was written.

    What the user should know of the input is logged.

    Raises
    ------
    MergeloomError
        For whatever is wrong with the request or the files. Nothing is then left behind.
    """
    written = FILES.get(request.to, ())
    check_output(
        request.out,
        [request.source, *([request.base] if request.base else [])],
        folder=bool(written),
        why_folder=f"{request.to} reads several files",
        overwrite=request.overwrite,
        ours=lambda name: name in written,
    )
    preset = _preset(request.encoder)
    architecture: Mapping[str, Any] | None = preset.get("architecture")
    base = read_base(request.base) if request.base else None
    source, vision = open_checkpoint(request.source, base, architecture)
    metadata = as_metadata(_record(request, source))
    if request.to == "merge":
        write_checkpoint(source, vision, request.out, metadata)
        return request.out
    facts = facts_of_merge(source.metadata) or Facts(
        title=f"CLIP image tower from {source.path.name}",
        source=(source.path.name, sha256(source.path)),
    )
    image = preset.get("image", OPENAI)
    export = Export(source, vision, facts, metadata, image)
    if request.to == "transformers":
        write_transformers(export, request.out)
    else:
        if architecture is None:
            of_base = architecture_of_record(base.metadata) if base else None
            architecture = of_base or source.architecture
        text = text_config(architecture, base, source)
        write_open_clip(export, base, text, request.out)
    return request.out


def _preset(encoder: str | None) -> Mapping[str, Any]:
    if encoder is None:
        return {}
    if encoder.endswith((".yaml", ".yml")):
        preset = read_yaml(Path(encoder))
        if not isinstance(preset, dict) or "architecture" not in preset:
            raise MergeloomError(f"--encoder {encoder}: is no encoder's preset.")
        return preset
    architecture = {"open_clip": encoder}
    try:
        model_config(architecture)
    except MergeloomError as error:
        raise MergeloomError(f"--encoder {encoder}: {error}") from None
    return {"architecture": architecture}


def _record(request: Request, source: Source) -> dict[str, Any]:
    files = [*source.files, *([request.base] if request.base else [])]
    names = shortest_names(files)
    content = record(
        rule=RULE,
        inputs=[],
        params={
            "from": source.format,
            "to": request.to,
            "encoder": request.encoder,
            "source": names[source.path],
            "base": names[request.base] if request.base else None,
        },
        code=digest("mergeloom/cli/convert.py", family="clip"),
        packages=PACKAGES,
        device="cpu",
        seed=0,
        roots={},
    )
    return content | {"inputs": {names[path]: sha256(path) for path in files}}
