"""Sentence encoders of sentence-transformers (arXiv 1908.10084), run by transformers alone.

Such a model is a transformer whose last states are averaged over the tokens of a text, and perhaps
brought to length one. That is little enough to be computed here, without the library.
"""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mergeloom.errors import MergeloomError
from mergeloom.features.automodel import CONFIG, WEIGHTS, build_model, pretrained_weights
from mergeloom.features.model_files import ModelFiles
from mergeloom.features.source import Published, extractor, fetcher
from mergeloom.io.tensors import TensorFile

if TYPE_CHECKING:
    from torch import Tensor, nn

MODULES, SETTINGS, TOKENIZER = "modules.json", "sentence_bert_config.json", "tokenizer.json"
# What a model may be made of, in this order; the last may be missing.
PARTS = ("Transformer", "Pooling", "Normalize")


@extractor("sentence_transformers", modality="text")
class SentenceTransformers:
    """A sentence encoder of the hub, or in a folder."""

    def build(self, extractor: Mapping[str, Any], file: TensorFile) -> "nn.Module":
        """The encoder with the file's weights: texts in, features out."""
        return build_sentence_encoder(file)

    def preprocessing(self, extractor: Mapping[str, Any], file: TensorFile) -> dict[str, Any]:
        """Tokens that a text is cut to, its case, and whether its features have length one."""
        settings: dict[str, Any] = json.loads(file.metadata["sentence"])
        return settings


@extractor("package", modality="text")
class Package(SentenceTransformers):
    """A sentence encoder within an installed package, whose own code is not run."""


@fetcher("sentence_transformers")
def fetch_sentence_transformers(extractor: Mapping[str, Any]) -> Published:
    """Fetch configuration, tokenizer and weights; safetensors only.

    Raises
    ------
    MergeloomError
        If the model is made of other parts than a transformer, a mean and a norm; as
        `ModelFiles` does.
    """
    name = extractor["sentence_transformers"]
    return read_sentence_encoder(ModelFiles(name, extractor.get("revision")))


@fetcher("package")
def fetch_package(extractor: Mapping[str, Any]) -> Published:
    """Read the files of the package; raises as `ModelFiles.of_package` does."""
    return read_sentence_encoder(ModelFiles.of_package(extractor["package"]))


def read_sentence_encoder(files: ModelFiles) -> Published:
    """A sentence encoder from its files, as sentence-transformers stores them."""
    modules = json.loads(files.path(MODULES).read_text())
    parts = [module["type"].rpartition(".")[2] for module in modules]
    if parts not in (list(PARTS[:2]), list(PARTS)) or modules[0]["path"]:
        raise MergeloomError(
            f"{files.model}: is made of {', '.join(parts)}; known are sentence encoders of "
            f"{', '.join(PARTS)}"
        )
    pooling = json.loads(files.path(f"{modules[1]['path']}/{CONFIG}").read_text())
    modes = [key for key, on in pooling.items() if key.startswith("pooling_mode") and on]
    if modes not in (["pooling_mode_mean_tokens"], ["pooling_mode"]) or (
        pooling.get("pooling_mode", "mean") != "mean"
    ):
        raise MergeloomError(
            f"{files.model}: pools by {', '.join(modes)}; known is the mean over tokens"
        )
    settings = json.loads(files.path(SETTINGS).read_text())
    config, weights = files.path(CONFIG), files.path(WEIGHTS)
    tokenizer = files.path(TOKENIZER)
    described = {
        "length": settings["max_seq_length"],
        "lower_case": bool(settings.get("do_lower_case", False)),
        "normalised": parts == list(PARTS),
        "padding": json.loads(config.read_text()).get("pad_token_id", 0),
    }
    return Published(
        pretrained_weights(files.model, config, weights),
        files.record,
        {
            "config": config.read_text(),
            "tokenizer": tokenizer.read_text(),
            "sentence": json.dumps(described),
        },
    )


def build_sentence_encoder(file: TensorFile) -> "nn.Module":
    """Mean of the last states over a text's tokens, up to the model's largest number of them."""
    from tokenizers import Tokenizer
    from torch import nn

    settings = json.loads(file.metadata["sentence"])
    tokenizer = Tokenizer.from_str(file.metadata["tokenizer"])
    # What the tokenizer's own file says of both is of another program.
    tokenizer.enable_truncation(settings["length"])
    tokenizer.enable_padding(pad_id=settings["padding"])

    class SentenceEncoder(nn.Module):
        def __init__(self, transformer: nn.Module) -> None:
            super().__init__()
            self.transformer = transformer

        def forward(self, texts: Sequence[str]) -> "Tensor":
            """Texts [b] to float32 [b, d]."""
            import torch
            from torch.nn.functional import normalize

            device = next(self.transformer.parameters()).device
            if settings["lower_case"]:
                texts = [text.lower() for text in texts]
            encoded = tokenizer.encode_batch(list(texts))
            tokens = torch.tensor([entry.ids for entry in encoded], device=device)
            mask = torch.tensor([entry.attention_mask for entry in encoded], device=device)
            states = self.transformer(input_ids=tokens, attention_mask=mask).last_hidden_state
            weights = mask[:, :, None].to(states.dtype)
            features: Tensor = (states * weights).sum(dim=1) / weights.sum(dim=1)
            return normalize(features, dim=-1) if settings["normalised"] else features

    return SentenceEncoder(build_model(file))
