"""Tasks from data sets of the Hugging Face hub: Parquet files or WebDataset shards."""

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from PIL import Image

from mergeloom.data.hub_files import HubFiles
from mergeloom.data.image_tables import class_names, read_table
from mergeloom.data.labels import Numbering
from mergeloom.data.shards import IMAGE_SUFFIXES, Sample, decode_image, read_samples


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
        self._files = HubFiles(source)
        self.title, self.downloads = self._files.title, self._files.downloads
        self._numbering = Numbering(classnames, source.get("names"), self.title)

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
        for name, path in self._files.fetched(split):
            if self._source.get("format", "parquet") == "parquet":
                recorded = class_names(path, name, columns.get("label", "label"))
                if recorded is not None:
                    self._numbering.check_recorded(recorded, name)
                yield from read_table(path, name, **columns)
            else:
                images = (columns["image"],) if "image" in columns else IMAGE_SUFFIXES
                yield from read_samples(path, None, images, columns.get("label", "cls"), name)


def transposed(sample: Sample) -> Sample:
    """The sample with rows and columns of its image swapped, as PNG (EMNIST is stored so)."""
    buffer = io.BytesIO()
    decode_image(sample).transpose(Image.Transpose.TRANSPOSE).save(buffer, "PNG", compress_level=1)
    return sample._replace(image=buffer.getvalue())
