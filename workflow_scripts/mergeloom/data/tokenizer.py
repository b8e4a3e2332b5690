"""Tokenizers in the format of the `tokenizers` library, trained here or read; texts as tokens."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergeloom.errors import MergeloomError
from mergeloom.io.atomic import atomic_path

if TYPE_CHECKING:
    from torch import Tensor

# Tokens 0, 1 and 2 of every T5 (arXiv 1910.10683); models count on the first two.
PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
BYTES = 256


def train_tokenizer(texts: Iterable[str], size: int, out: Path, title: str) -> None:
    """Train a byte-level BPE tokenizer, which no text has an unknown token in.

    Digits are tokens of their own, so that 3.8 is spelled even if no text has it. A text begins as
    if a space stood before it: a word is the same token wherever it stands. Every text ends with
    </s>. Equal texts in any order end in equal bytes.

    Parameters
    ----------
    size : tokens at most.
    title : whose tokenizer it is, for messages.

    Raises
    ------
    MergeloomError – `size` leaves no room for the bytes and the three special tokens.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from tokenizers.trainers import BpeTrainer

    special = [PAD, END, UNKNOWN]
    if size < BYTES + len(special):
        raise MergeloomError(
            f"{title}: a vocabulary of {size} tokens has no room for {BYTES} bytes and "
            f"{len(special)} special tokens; set architecture.vocab_size to more, such as 1024"
        )
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Prepend(" ")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, special.index(END))]
    )
    trainer = BpeTrainer(
        vocab_size=size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=2,
        show_progress=False,
    )
    tokenizer.train_from_iterator(sorted(texts), trainer)
    with atomic_path(out) as temporary:
        temporary.write_text(tokenizer.to_str(pretty=True) + "\n")


def read_tokenizer(path: Path) -> Any:
    """A `tokenizers.Tokenizer` from its file, which neither pads nor cuts.

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
    return tokenizer


def encode(tokenizer: Any, texts: Sequence[str], length: int) -> "Tensor":
    """Token ids of texts, each with </s> at its end, padded to the longest.

    Parameters
    ----------
    length : tokens at most; a longer text loses its end, but not </s>.

    Returns
    -------
    Tensor [n, longest], int32.
    """
    import numpy as np
    import torch

    end, pad = tokenizer.token_to_id(END), tokenizer.token_to_id(PAD)
    rows = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
    # A tokenizer that ends texts itself has done so; one that does not is helped.
    rows = [ids[:-1] if ids[-1:] == [end] else ids for ids in rows]
    rows = [[*ids[: length - 1], end] for ids in rows]
    tokens = np.full((len(rows), max(map(len, rows), default=0)), pad, np.int32)
    for row, ids in zip(tokens, rows, strict=True):
        row[: len(ids)] = ids
    return torch.from_numpy(tokens)
