"""CLIPs with random weights, built by open_clip and by transformers themselves."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from mergeloom.models.torchvision_cure import cure_torchvision

cure_torchvision()
import open_clip  # noqa: E402
import transformers  # noqa: E402

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 64, "layers": 2, "head_width": 32},
    "text_cfg": {"context_length": 16, "vocab_size": 50, "width": 64, "heads": 1, "layers": 1},
    "quick_gelu": True,
}


def architecture_of(name: str) -> dict:
    """open_clip's config of a published model."""
    return open_clip.get_model_config(name)


def images(size: int, count: int = 1) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(7))


def open_clip_model(architecture: dict, seed: int = 0) -> torch.nn.Module:
    """A CLIP whose biases, norms and embeddings are random, too."""
    torch.manual_seed(seed)
    model = open_clip.model.CLIP(**architecture)
    with torch.no_grad():
        for parameter in model.visual.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model.eval()


def transformers_config(architecture: dict) -> transformers.CLIPVisionConfig:
    vision = architecture["vision_cfg"]
    return transformers.CLIPVisionConfig(
        hidden_size=vision["width"],
        intermediate_size=4 * vision["width"],
        projection_dim=architecture["embed_dim"],
        num_hidden_layers=vision["layers"],
        num_attention_heads=vision["width"] // vision.get("head_width", 64),
        image_size=vision["image_size"],
        patch_size=vision["patch_size"],
        hidden_act="quick_gelu" if architecture.get("quick_gelu") else "gelu",
    )


def transformers_model(architecture: dict, kind: str, seed: int = 1) -> torch.nn.Module:
    torch.manual_seed(seed)
    model = getattr(transformers, kind)(transformers_config(architecture))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model.eval()


@dataclass
class Files:
    """A base in open_clip's layout, and the model that it was written from."""

    folder: Path
    architecture: dict
    model: torch.nn.Module

    @property
    def base(self) -> Path:
        return self.folder / "base.safetensors"


def write_base(folder: Path, architecture: dict) -> Files:
    model = open_clip_model(architecture)
    files = Files(folder, architecture, model)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, files.base)
    return files
