"""Image networks of transformers, pretrained, without their classifiers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergeloom.errors import MergeloomError
from mergeloom.features.model_files import ModelFiles
from mergeloom.features.source import Published, extractor
from mergeloom.io.tensors import TensorFile
from mergeloom.models.torchvision_cure import cure_torchvision

if TYPE_CHECKING:
    from torch import Tensor, nn

CONFIG, WEIGHTS = "config.json", "model.safetensors"


@extractor("transformers", modality="images")
class Transformers:
    """Pooled features of `AutoModel`: of microsoft/resnet-18 and -50 what their classifiers read.

    Images are scaled to the preset's size and normalised, as everywhere here; the model's own
    processor crops a larger image, and is not asked.
    """

    def fetch(self, extractor: Mapping[str, Any]) -> Published:
        """Fetch configuration and weights; safetensors only.

        Raises
        ------
        MergeloomError
            If weights are missing for a part of the network, or as `ModelFiles` does.
        """
        files = ModelFiles(extractor["transformers"], extractor.get("revision"))
        config, weights = files.path(CONFIG), files.path(WEIGHTS)
        return Published(
            pretrained_weights(files.model, config, weights),
            files.record,
            {"config": config.read_text()},
        )

    def build(self, extractor: Mapping[str, Any], file: TensorFile) -> "nn.Module":
        """The network with the file's weights."""
        from torch import nn

        class Pooled(nn.Module):
            def __init__(self, network: nn.Module) -> None:
                super().__init__()
                self.network = network

            def forward(self, images: "Tensor") -> "Tensor":
                """float32 [b, 3, s, s] to [b, d]."""
                pooled = getattr(self.network(images), "pooler_output", None)
                if pooled is None:
                    raise MergeloomError(
                        f"{extractor['transformers']}: gives no pooled features. Name another model"
                    )
                features: Tensor = pooled.flatten(1)
                return features

        return Pooled(build_model(file))

    def preprocessing(self, extractor: Mapping[str, Any], file: TensorFile) -> dict[str, Any]:
        """Size, mean and deviation of the preset."""
        return dict(extractor["image"])


def pretrained_weights(model: str, config: Path, weights: Path) -> "dict[str, Tensor]":
    """Weights of transformers' `AutoModel` of a configuration, in float32.

    Parameters
    ----------
    config, weights : config.json and model.safetensors, in one folder.

    Raises
    ------
    MergeloomError
        If the file lacks weights of the model, which would then stay random.
    """
    import torch

    cure_torchvision()
    from transformers import AutoModel

    try:
        network, report = AutoModel.from_pretrained(
            config.parent,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError) as error:
        raise MergeloomError(f"{model}: transformers cannot read the model: {error}") from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise MergeloomError(
            f"{model}: {weights.name} lacks {len(missing)} weights of the network, the first are "
            f"{', '.join(missing[:3])}; they would stay random. Name another model."
        )
    return dict(network.state_dict())


def build_model(file: TensorFile) -> "nn.Module":
    """The model of the configuration in a file's header, with the file's weights."""
    import torch

    cure_torchvision()
    from transformers import CONFIG_MAPPING, AutoModel

    given = json.loads(file.metadata["config"])
    config = CONFIG_MAPPING[given["model_type"]].from_dict(given)
    with torch.random.fork_rng(devices=[]):  # initial weights, overwritten at once
        network: nn.Module = AutoModel.from_config(config, dtype=torch.float32)
    network.load_state_dict({key: file.read(key) for key in file})
    return network
