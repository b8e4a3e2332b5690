"""Image networks of transformers, pretrained, without their classifiers."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mergeloom.errors import MergeloomError
from mergeloom.features.automodel import CONFIG, WEIGHTS, build_model, pretrained_weights
from mergeloom.features.model_files import ModelFiles
from mergeloom.features.source import Published, extractor, fetcher
from mergeloom.io.tensors import TensorFile

if TYPE_CHECKING:
    from torch import Tensor, nn


@extractor("transformers", modality="images")
class Transformers:
    """Pooled features of `AutoModel`: of microsoft/resnet-18 and -50 what their classifiers read.

    Images are scaled to the preset's size and normalised, as everywhere here; the model's own
    processor crops a larger image, and is not asked.
    """

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


@fetcher("transformers")
def fetch_transformers(extractor: Mapping[str, Any]) -> Published:
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
