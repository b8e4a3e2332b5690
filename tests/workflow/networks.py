"""Tiny published networks, in the files that their libraries write."""

import json

import torch
from safetensors.torch import save_file

from mergeloom.models.torchvision_cure import cure_torchvision

cure_torchvision()
import transformers  # noqa: E402

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

IMAGE = {"size": 16, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "cat", "sat", "on", "the", "mat", "and", "ran"]


def write_resnet(folder):
    """A ResNet with a classifier of three classes, as transformers saves it; gives the model."""
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=3
    )
    model = transformers.ResNetForImageClassification(config).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # statistics as if it had been trained
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 1.5)
    model.save_pretrained(folder)
    return model


def write_sentence_encoder(folder, modules=("Transformer", "Pooling", "Normalize"), **pooling):
    """A BERT of two layers, as sentence-transformers saves it, at most 8 tokens; gives the BERT."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=16,
    )  # fmt: skip
    model = transformers.BertModel(config).eval()
    model.save_pretrained(folder)
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, "[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    # Published files say such things, for another program.
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=4)
    tokenizer.save(str(folder / "tokenizer.json"))
    paths = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    parts = [
        {"idx": i, "name": str(i), "path": paths.get(name, str(i)),
         "type": f"sentence_transformers.models.{name}"}
        for i, name in enumerate(modules)
    ]  # fmt: skip
    (folder / "modules.json").write_text(json.dumps(parts))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 8}')
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text(
        json.dumps({"pooling_mode_mean_tokens": True} | pooling)
    )
    return model


def drop(path, key):
    """Take a tensor out of a safetensors file."""
    from safetensors.torch import load_file

    tensors = load_file(path)
    del tensors[key]
    save_file(tensors, path, {"format": "pt"})
