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


def fill(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Give a model without memory random weights, biases and norms, faster than its own start."""
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0, 0.03, generator=generator)
            if parameter.ndim == 1 and name.endswith("weight"):  # of a norm
                parameter.add_(1)
    return model.eval()


def open_clip_model(architecture: dict, seed: int = 0, text: bool = True) -> torch.nn.Module:
    """A CLIP, or one whose text tower takes no memory."""
    torch.manual_seed(seed)
    if text:
        model = open_clip.model.CLIP(**architecture)
        model.visual = model.visual.to("meta")
    else:
        with torch.device("meta"):
            model = open_clip.model.CLIP(**architecture)
    fill(model.visual, seed)
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
    with torch.device("meta"):
        model = getattr(transformers, kind)(transformers_config(architecture))
    fill(model, seed)
    for name, buffer in model.named_buffers():
        assert name.endswith("position_ids")
        buffer.copy_(torch.arange(buffer.shape[-1]))
    return model


@dataclass
class Files:
    """A base in open_clip's layout, and the model that it was written from."""

    folder: Path
    architecture: dict
    model: torch.nn.Module

    @property
    def base(self) -> Path:
        return self.folder / "base.safetensors"


def write_base(folder: Path, architecture: dict, text: bool = True) -> Files:
    model = open_clip_model(architecture, text=text)
    files = Files(folder, architecture, model)
    there = {k: v.contiguous() for k, v in model.state_dict().items() if not v.is_meta}
    save_file(there, files.base)
    return files
