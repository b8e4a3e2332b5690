"""The family `clip`: open_clip models whose image tower is fine-tuned under a frozen zero-shot
head.

Files hold open_clip's own keys. A base holds both towers; a fine-tuned checkpoint, a task vector
and a merged model hold the image tower, `visual.*`.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergeloom.errors import MergeloomError
from mergeloom.models.family import family
from mergeloom.models.naming import Block, Kind, Shape

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mergeloom.io.tensors import TensorFile

TOWER = "visual."
QUICK = "-quickgelu"  # ends open_clip's names of architectures with that activation
BEHIND = ("ln_post", "attn_pool", "proj", "head")  # the blocks
ORDER = ("conv1", "positional_embedding", "in_proj_weight", "out_proj", "c_fc", "c_proj", "proj")


@family("clip", modality="images")
class Clip:
    """CLIP (arXiv 2103.00020) as open_clip builds it."""

    def kind(self, key: str, shape: Shape) -> Kind:
        """Two-dimensional tensors of the image tower are matrices; the patch convolution is not
        one.

        The fused `in_proj_weight` is one matrix of 3d × d, as in the papers' code.
        """
        if not key.startswith(TOWER):
            return "frozen"
        return "matrix" if len(shape) == 2 else "vector"

    def block(self, key: str) -> tuple[Block, str] | None:
        """A residual attention block."""
        name, found, rest = key.partition(".resblocks.")
        if not found:
            return None
        number, _, rest = rest.partition(".")
        return (int(number),), f"{name}.resblocks.{{}}.{rest}"

    def is_input(self, key: str) -> bool:
        """Patch convolution, class and positional embedding, and the norm before the blocks."""
        return not key.startswith(tuple(TOWER + name for name in BEHIND))

    def order(self, key: str) -> tuple[int | str, ...]:
        """By use: patches, positions; attention's projections, the perceptron's; the projection."""
        name = key.removesuffix(".weight")
        return next((i for i, end in enumerate(ORDER) if name.endswith(end)), len(ORDER)), key

    def build(self, architecture: Mapping[str, Any]) -> "nn.Module":
        """Both towers, initialised at random from torch's global generator."""
        return _open_clip().model.CLIP(**model_config(architecture))

    def pretrained(self, architecture: Mapping[str, Any], weights: str) -> tuple["nn.Module", Path]:
        """Both towers with published weights: an open_clip tag, or a file of an open_clip state
        dict.

        Beside it, the file that they were read from: of a tag, where the download lies.

        The activation comes from the architecture alone: OpenAI's weights need a `-quickgelu` one.

        Raises
        ------
        MergeloomError
            If the weights cannot be had, or open_clip says that they were trained with another
            activation than the architecture has.
        """
        open_clip = _open_clip()
        if "open_clip" not in architecture:
            raise MergeloomError(
                "published weights need a published architecture: set architecture.open_clip"
            )
        _check_activation(architecture, weights)
        name = architecture["open_clip"]
        entry = open_clip.pretrained.get_pretrained_cfg(name, weights)
        try:
            file = open_clip.pretrained.download_pretrained(entry) if entry else weights
            model = open_clip.create_model(name, pretrained=file, require_pretrained=True)
        except (RuntimeError, OSError, ValueError) as error:
            raise MergeloomError(
                f"{architecture['open_clip']}: cannot load the weights {weights!r}: {error}\n"
                "They come from the model hub unless the file is in its cache (HF_HOME); "
                "`python -m open_clip.pretrained` names the tags that exist."
            ) from error
        return model, Path(file)

    def build_tower(
        self, architecture: Mapping[str, Any], weights: Mapping[str, "Tensor"]
    ) -> "nn.Module":
        """The image tower with these weights; keys that do not fit are an error that names them."""
        import torch

        with torch.device("meta"):  # the text tower is never allocated
            tower: nn.Module = _open_clip().model.CLIP(**model_config(architecture)).visual
        state = {k.removeprefix(TOWER): v for k, v in weights.items() if k.startswith(TOWER)}
        expected = {k: tuple(v.shape) for k, v in tower.state_dict().items()}
        wrong = [
            f"{TOWER}{k}: {_shape(state, k)} here, {expected.get(k, 'absent')} in the architecture"
            for k in sorted(expected.keys() | state.keys())
            if k not in state or k not in expected or tuple(state[k].shape) != expected[k]
        ]
        if wrong:
            raise MergeloomError(
                "the weights are of another encoder:\n  "
                + "\n  ".join(wrong[:5])
                + (f"\n  and {len(wrong) - 5} more" if len(wrong) > 5 else "")
            )
        tower.load_state_dict(state, assign=True)
        return tower

    def tower_weights(self, tower: "nn.Module") -> dict[str, "Tensor"]:
        """The tower's tensors, not copies, under `visual.*`."""
        return {TOWER + key: value for key, value in tower.state_dict().items()}

    def read_head(self, file: "TensorFile", device: str) -> "Tensor":
        """Scaled class embeddings, float32 [classes, d]."""
        return file.read("weight").to(device)

    def logits(self, tower: "nn.Module", head: "Tensor", inputs: "Tensor") -> "Tensor":
        """Cosine of image features [n, d] and class embeddings [classes, d], scaled by the head.

        inputs : normalised images, float32 [n, 3, s, s].
        """
        from torch.nn.functional import normalize

        return normalize(tower(inputs), dim=-1) @ head.T

    def entropy_logits(self, tower: "nn.Module", head: "Tensor", inputs: "Tensor") -> "Tensor":
        """Those of the task's classes."""
        return self.logits(tower, head, inputs)

    def loss(
        self, tower: "nn.Module", head: "Tensor", inputs: "Tensor", labels: "Tensor"
    ) -> tuple["Tensor", "Tensor"]:
        """Cross-entropy of the labels int64 [n], and how many are right."""
        from torch.nn.functional import cross_entropy

        logits = self.logits(tower, head, inputs)
        return cross_entropy(logits, labels), (logits.detach().argmax(dim=1) == labels).sum()

    def features(self, tower: "nn.Module", inputs: "Tensor") -> "Tensor":
        """Image features [n, d], not normalised."""
        features: Tensor = tower(inputs)
        return features

    def tokenize(self, architecture: Mapping[str, Any], texts: Sequence[str]) -> "Tensor":
        """Byte-pair token ids, int64 [n, context length of the architecture]."""
        length = model_config(architecture)["text_cfg"].get("context_length", 77)
        return _tokenizer(length)(list(texts))

    def zero_shot_head(
        self,
        model: Any,
        architecture: Mapping[str, Any],
        classnames: Sequence[str],
        templates: Sequence[str],
    ) -> "Tensor":
        """Per class: encode all templates, normalise, average, normalise; times exp(logit_scale).

        Returns
        -------
        Tensor [classes, d], float32. As in arXiv 2103.00020 and in the code of arXiv 2212.04089.
        """
        import torch
        from torch.nn.functional import normalize

        device = next(model.parameters()).device
        rows = []
        with torch.no_grad():
            for name in classnames:
                texts = [template.replace("{c}", name) for template in templates]
                tokens = self.tokenize(architecture, texts).to(device)
                features = normalize(model.encode_text(tokens).float(), dim=-1)
                rows.append(normalize(features.mean(dim=0), dim=0))
            return (torch.stack(rows) * model.logit_scale.exp().float()).cpu()


def _shape(state: Mapping[str, "Tensor"], key: str) -> Any:
    return tuple(state[key].shape) if key in state else "absent"


def _check_activation(architecture: Mapping[str, Any], tag: str) -> None:
    """Compare with what open_clip knows of the weights; it knows nothing of files."""
    name = architecture["open_clip"]
    plain = name.removesuffix(QUICK)
    known = _open_clip().pretrained.get_pretrained_cfg
    entry = known(name, tag) or known(plain, tag)
    trained = bool(entry.get("quick_gelu", False))
    if entry and trained != bool(model_config(architecture).get("quick_gelu", False)):
        raise MergeloomError(
            f"{name}: the weights {tag!r} were trained {'with' if trained else 'without'} "
            f"QuickGELU. Set architecture.open_clip to {plain + QUICK if trained else plain}: with "
            "another activation they load without an error and lose accuracy."
        )


@cache
def _tokenizer(length: int) -> Any:
    return _open_clip().tokenizer.SimpleTokenizer(context_length=length)


def _open_clip() -> Any:
    from mergeloom.models.torchvision_cure import cure_torchvision

    cure_torchvision()
    import open_clip

    return open_clip


def model_config(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """open_clip's model config: a published one by name, or the one that stands in the preset.

    Raises
    ------
    MergeloomError
        If open_clip has no model of this name, or one that is no plain CLIP.
    """
    if "open_clip" not in architecture:
        return dict(architecture.items())
    config = _open_clip().get_model_config(architecture["open_clip"])
    if config is None:
        raise MergeloomError(
            f"architecture.open_clip: {architecture['open_clip']!r} is no model of open_clip; "
            "`python -c 'import open_clip; print(open_clip.list_models())'` lists them"
        )
    known = ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu")
    other = sorted(set(config) - set(known))
    if other or "hf_model_name" in config["text_cfg"]:
        raise MergeloomError(
            f"architecture.open_clip: {architecture['open_clip']!r} sets "
            f"{', '.join(other) or 'hf_model_name'}; only plain CLIPs with open_clip's own text "
            "tower are known"
        )
    return dict(config)
