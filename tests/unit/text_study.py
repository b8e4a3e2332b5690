"""A T5 of a few thousand weights, with a tokenizer of words, and tasks that it answers."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from mergeloom.data.tokenizer import encode
from mergeloom.io.tensors import write_tensors
from mergeloom.models.family import get_family

WORDS = "<pad> </s> <unk> good bad fine , film is the was 0.0 1.0 2.0 -1.0 nothing 2.5 nan . yes no"
ARCHITECTURE = {
    "vocab_size": 25, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 1, "num_heads": 2,
    "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
}  # fmt: skip
ENCODER = {"family": "t5", "architecture": ARCHITECTURE, "text": {"length": 16}}


def tokenizer():
    """A tokenizer whose tokens are whole words."""
    found = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(WORDS.split())}, unk_token="<unk>")
    )
    found.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    found.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    found.add_special_tokens(["<pad>", "</s>", "<unk>"])
    return found


def write_head(path, answers, values=None, metric="accuracy"):
    """The answers of a task, as a rule writes them."""
    content = bytearray(tokenizer().to_str().encode())
    tensors = {
        "answers": encode(tokenizer(), answers, 8)[0],
        "tokenizer": torch.frombuffer(content, dtype=torch.uint8),
    }
    if values is not None:
        tensors["values"] = torch.tensor(values, dtype=torch.double)
    write_tensors(path, tensors, {"metric": metric})
    return path


def write_split(path, texts, labels):
    """A tokenised split."""
    tensors = {"tokens": encode(tokenizer(), texts, 16)[0], "labels": torch.tensor(labels)}
    write_tensors(path, tensors, {})
    return path


def write_sentiment(folder, n=64, seed=0):
    """A task that says of films whether they are good: head, train and val."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (n,), generator=random).tolist()
    fillers = torch.randint(2, (n,), generator=random).tolist()
    texts = [
        f"{('the film', 'film')[f]} {('is', 'was')[f]} {('bad', 'good')[label]}"
        for label, f in zip(labels, fillers, strict=True)
    ]
    head = write_head(folder / "sentiment_head.safetensors", ["no", "yes"])
    split = write_split(folder / "sentiment.safetensors", texts, labels)
    return head, split


def random_weights(seed=0, architecture=ARCHITECTURE):
    """Weights of a T5 that prefers some tokens."""
    family = get_family("t5")
    torch.manual_seed(seed)
    built = family.tower_weights(family.build(architecture))
    return {key: torch.randn_like(value) * 0.3 for key, value in built.items()}
