"""Tokenizers in the format of the `tokenizers` library; texts as tokens."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergeloom.errors import MergeloomError

if TYPE_CHECKING:
    from torch import Tensor

# Tokens 0, 1 and 2 of every T5 (arXiv 1910.10683); models count on the first two.
PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
AT_ONCE = 4096  # texts that are held as the library's encodings


def read_tokenizer(path: Path) -> Any:
    """A `tokenizers.Tokenizer` from its file, which neither pads nor cuts.

    A text that spells a special token, such as `<pad>`, is a text and not that token.

    Raises
    ------
    MergeloomError – the file is missing, is no tokenizer, or has other tokens to pad and to end
    with than a T5.
    """
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(path.read_text())
    except FileNotFoundError:
        raise MergeloomError(f"{path}: no such file") from None
    except Exception as error:  # the library raises nothing more special
        raise MergeloomError(
            f"{path}: is no tokenizer of the `tokenizers` library ({error}); expected the "
            "tokenizer.json of a model"
        ) from None
    for place, token in enumerate((PAD, END)):
        if tokenizer.token_to_id(token) != place:
            raise MergeloomError(
                f"{path}: token {place} is {tokenizer.id_to_token(place)!r}, but that of a T5 is "
                f"{token!r}; expected the tokenizer of a T5"
            )
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = True
    return tokenizer


def check_size(tokenizer: Any, size: int, path: Path) -> None:
    """Raise MergeloomError if a tokenizer has more tokens than a model of `size` tokens knows."""
    tokens = tokenizer.get_vocab_size()
    if tokens > size:
        raise MergeloomError(
            f"{path}: has {tokens} tokens, but the encoder's vocab_size is {size}: it is the "
            "tokenizer of another model, or the encoder's architecture is not that of its weights"
        )


def encode(tokenizer: Any, texts: Sequence[str], length: int) -> "tuple[Tensor, int]":
    """Token ids of texts, each with </s> at its end, padded to the longest.

    Parameters
    ----------
    length : tokens at most; a longer text loses its end, but not </s>.

    Returns
    -------
    Tensor [n, longest], int32; and how many texts are longer than `length`.
    """
    import numpy as np
    import torch

    end, pad = tokenizer.token_to_id(END), tokenizer.token_to_id(PAD)
    rows, cut = [], 0
    for start in range(0, len(texts), AT_ONCE):
        for encoding in tokenizer.encode_batch(list(texts[start : start + AT_ONCE])):
            ids = encoding.ids
            # A tokenizer that ends texts itself has done so; one that does not is helped.
            ids = ids[:-1] if ids[-1:] == [end] else ids
            cut += len(ids) >= length
            rows.append(np.array([*ids[: length - 1], end], np.int32))
    tokens = np.full((len(rows), max(map(len, rows), default=0)), pad, np.int32)
    for row, found in zip(tokens, rows, strict=True):
        row[: len(found)] = found
    return torch.from_numpy(tokens), cut
