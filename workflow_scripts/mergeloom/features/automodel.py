"""transformers' `AutoModel`: read from a model's files, and built again from a file's header."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from mergeloom.errors import MergeloomError
from mergeloom.io.tensors import TensorFile
from mergeloom.models.torchvision_cure import cure_torchvision

if TYPE_CHECKING:
    from torch import Tensor, nn

CONFIG, WEIGHTS = "config.json", "model.safetensors"


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
