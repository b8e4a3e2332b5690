"""Image networks of timm, pretrained, without their classifiers."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mergeloom.errors import MergeloomError
from mergeloom.features.model_files import ModelFiles
from mergeloom.features.source import Published, extractor, fetcher, library
from mergeloom.io.tensors import TensorFile

if TYPE_CHECKING:
    from torch import nn

WEIGHTS = "model.safetensors"


@extractor("timm", modality="images")
class Timm:
    """Pooled features of `timm.create_model(name, num_classes=0)`.

    Weights are those of the model's repository on the hub, which hold timm's own keys.
    """

    def build(self, extractor: Mapping[str, Any], file: TensorFile) -> "nn.Module":
        """The network with the file's weights."""
        network = _network(extractor["timm"])
        network.load_state_dict({key: file.read(key) for key in file})
        return network

    def preprocessing(self, extractor: Mapping[str, Any], file: TensorFile) -> dict[str, Any]:
        """Size, mean and deviation of the preset."""
        return dict(extractor["image"])


@fetcher("timm")
def fetch_timm(extractor: Mapping[str, Any]) -> Published:
    """Fetch the weights.

    Raises
    ------
    MergeloomError
        If timm is not installed or knows no weights of this name, reads images of another size
        only, or as `fetch` does.
    """
    name, size = extractor["timm"], extractor["image"]["size"]
    timm = _timm()
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError:  # a network that is known, with weights that are not
        config = None
    if config is None or not config.hf_hub_id:
        raise MergeloomError(
            f"timm: {name!r} has no pretrained weights on the hub; "
            "`python -c 'import timm; print(timm.list_pretrained())'` lists those that have"
        )
    if config.fixed_input_size and config.input_size[1:] != (size, size):
        raise MergeloomError(
            f"timm: {name} reads images of {config.input_size[1]} px only; set image.size of "
            f"the extractor, which is {size}, to that"
        )
    files = ModelFiles(config.hf_hub_id, extractor.get("revision"))
    with TensorFile(files.path(WEIGHTS)) as file:
        weights = {key: file.read(key) for key in _network(name).state_dict()}
    return Published(weights, files.record)


def _network(name: str) -> "nn.Module":
    import torch

    with torch.random.fork_rng(devices=[]):  # initial weights, overwritten at once
        network: nn.Module = _timm().create_model(name, pretrained=False, num_classes=0)
    return network


def _timm() -> Any:
    from mergeloom.models.torchvision_cure import cure_torchvision

    cure_torchvision()
    return library("timm", "timm")
