"""Tasks from data sets of the Hugging Face hub: Parquet files or WebDataset shards."""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from mergeloom.data.image_tables import class_names, read_table
from mergeloom.data.labels import Numbering
from mergeloom.data.shards import IMAGE_SUFFIXES, Sample, decode_image, read_samples
from mergeloom.errors import MergeloomError
from mergeloom.io.checksums import sha256
from mergeloom.io.hub import fetch, listing


class HubTask:
    """The splits of a data set of the hub, downloaded file by file as they are read.

    Parameters
    ----------
    source : the entry of the task's preset: `hub`, `revision`, `files`, and perhaps `format`,
        `columns`, `names`, `transform`.
    classnames : the task's classes in the order of its labels.

    Attributes
    ----------
    downloads : what was read: "repository@commit/file" -> SHA-256.

    Raises
    ------
    MergeloomError – a pattern of `files` that no file of the repository matches, and whatever the
    hub refuses.
    """

    def __init__(self, source: Mapping[str, Any], classnames: Sequence[str]) -> None:
        self._source = source
        self._repository, self._revision = source["hub"], source["revision"]
        self.title = f"data set {self._repository} (revision {self._revision})"
        self.downloads: dict[str, str] = {}
        self._numbering = Numbering(classnames, source.get("names"), self.title)
        there_is = listing(self._repository, self._revision, "dataset")
        self._files = {
            # A file that two patterns match is one file.
            split: list(
                dict.fromkeys(file for glob in globs for file in self._matching(glob, there_is))
            )
            for split, globs in source["files"].items()
        }

    def samples(self, split: str) -> Iterator[Sample]:
        """The samples of a split, with the task's labels, in the order of the files and rows.

        Raises
        ------
        MergeloomError – a download that fails, a damaged file, a column that is missing, a label
        outside the classes, classes of which train has no image.
        """
        samples = self._numbering.apply(self._raw(split), complete=split == "train")
        return map(transposed, samples) if "transform" in self._source else samples

    def _raw(self, split: str) -> Iterator[Sample]:
        columns = self._source.get("columns", {})
        for file in self._files[split]:
            path = self._fetch(file)
            name = f"{self._repository}/{file}"
            if self._source.get("format", "parquet") == "parquet":
                recorded = class_names(path, name, columns.get("label", "label"))
                if recorded is not None:
                    self._numbering.check_recorded(recorded, name)
                yield from read_table(path, name, **columns)
            else:
                images = (columns["image"],) if "image" in columns else IMAGE_SUFFIXES
                yield from read_samples(path, None, images, columns.get("label", "cls"), name)

    def _fetch(self, file: str) -> Path:
        path = fetch(self._repository, file, self._revision, "dataset")
        # The cache holds {…}/snapshots/{commit}/{file}. What a branch stood at when the first file
        # was fetched holds for all of them.
        self._revision = path.parents[file.count("/")].name
        self.downloads[f"{self._repository}@{self._revision}/{file}"] = sha256(path)
        return path

    def _matching(self, glob: str, files: Sequence[str]) -> list[str]:
        pattern = re.escape(glob).replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")
        found = [file for file in files if re.fullmatch(pattern, file)]
        if not found:
            raise MergeloomError(
                f"{self.title}: no file matches {glob!r}; it has {len(files)} files, the first are "
                f"{', '.join(sorted(files)[:8])}. Correct `files` in the preset."
            )
        return sorted(found, key=_by_number)


def _by_number(file: str) -> list[int | str]:
    """Sorts 2.tar before 10.tar: texts and numbers take turns."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", file)]


def transposed(sample: Sample) -> Sample:
    """The sample with rows and columns of its image swapped, as PNG (EMNIST is stored so)."""
    buffer = io.BytesIO()
    decode_image(sample).transpose(Image.Transpose.TRANSPOSE).save(buffer, "PNG", compress_level=1)
    return sample._replace(image=buffer.getvalue())
