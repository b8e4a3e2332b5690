"""Training of a tokenizer, for encoders that are pretrained here."""

from collections.abc import Iterable
from pathlib import Path

from mergeloom.data.tokenizer import END, PAD, UNKNOWN
from mergeloom.errors import MergeloomError
from mergeloom.io.atomic import atomic_path

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
