"""Small pictures in files of every kind that tasks come in, written without the code under test."""

import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def pixels(count, seed=0, size=(8, 8)):
    """Random pictures, uint8 [count, height, width, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (count, *size, 3), dtype=np.uint8)


def encoded(picture, kind="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, kind, **options)
    return buffer.getvalue()


def parquet(images, labels, names=None, packed=True, image="image", label="label", rows=None):
    """A table of encoded images as `datasets` writes it, or with plain binaries."""
    cells = pa.array(images, pa.binary())
    if packed:
        paths = pa.array([f"{index}.png" for index in range(len(images))])
        cells = pa.StructArray.from_arrays([cells, paths], ["bytes", "path"])
    table = pa.table({image: cells, label: pa.array(labels)})
    if names:
        feature = {"names": names, "_type": "ClassLabel"}
        recorded = {"info": {"features": {image: {"_type": "Image"}, label: feature}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(recorded)})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=rows)
    return buffer.getvalue()


def shard(images, labels, suffix="webp"):
    """A WebDataset shard in the layout of CLIP-benchmark's repositories."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            for kind, content in ((suffix, image), ("cls", str(label).encode())):
                member = tarfile.TarInfo(f"s{index:07d}.{kind}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()
