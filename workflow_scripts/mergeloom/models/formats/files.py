"""Files of weights, and what may lie beside them and say how they are used."""

from pathlib import Path

from torch import Tensor

from mergeloom.errors import MergeloomError
from mergeloom.io.headers import read_header
from mergeloom.io.tensors import TensorFile
from mergeloom.models.formats.pickles import read_pickle

CONFIG, ADAPTER, OPEN_CLIP = "config.json", "adapter_config.json", "open_clip_config.json"
WEIGHTS = (
    "model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin", "adapter_model.safetensors", "adapter_model.bin",
)  # fmt: skip


def file_of_weights(path: Path) -> Path:
    """The file itself, or that of a folder which holds the weights.

    Raises
    ------
    MergeloomError
        If there is no such file or folder, or none of weights in the folder.
    """
    if not path.is_dir():
        if not path.exists():
            raise MergeloomError(f"{path}: no such file or folder. Check the path.")
        return path
    found = [path / name for name in WEIGHTS if (path / name).is_file()]
    if not found:
        names = sorted(p.name for p in path.iterdir())
        raise MergeloomError(
            f"{path}: has none of {', '.join(WEIGHTS)}. Name the file that is meant; it has: "
            f"{', '.join(names[:10]) or 'nothing'}."
        )
    return found[0]


def tensors_of(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file or a pickle by name, and the header's text fields.

    Raises
    ------
    MergeloomError
        If the file is damaged, cut short, or holds no tensors.
    """
    with path.open("rb") as file:
        is_safetensors = file.read(9)[8:] == b"{"
    if path.suffix == ".safetensors" or is_safetensors:
        read_header(path)
        with TensorFile(path) as file_:  # its tensors are mapped, and outlive it
            return {key: file_[key] for key in file_}, file_.metadata
    return read_pickle(path), {}
