"""The family `t5`: T5 and Flan-T5 as transformers builds them, which answer a text with a text.

Files hold transformers' own names, and a tied table once: `shared.weight` stands for the tables of
encoder and decoder, too. Nothing is frozen: a checkpoint, a task vector and a merged model hold the
whole model. Dropout is off in training, too, so that all that a run draws comes from its seed.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mergeloom.errors import MergeloomError
from mergeloom.io.tensors import TensorFile
from mergeloom.models.answers import Answers
from mergeloom.models.family import family
from mergeloom.models.naming import T5 as Names
from mergeloom.models.t5_sizes import sizes
from mergeloom.models.tokens import END, PAD
from mergeloom.models.torchvision_cure import cure_torchvision

FURTHER = 4  # tokens by which what is generated may be longer than the longest answer
AT_ONCE = 2**26  # logits over the vocabulary that are held at once


@family("t5", modality="text")
class T5(Names):
    """T5 (arXiv 1910.10683) and Flan-T5 (arXiv 2210.11416).

    Inputs are token ids int64 [n, length], padded at the end.
    """

    def build(self, architecture: Mapping[str, Any]) -> nn.Module:
        """The whole model, initialised at random from torch's global generator."""
        config = model_config(architecture)
        model = _transformers().T5ForConditionalGeneration(config)
        if not config.scale_decoder_outputs:  # transformers ties, whatever the config says
            own = torch.randn(config.vocab_size, config.d_model) * config.d_model**-0.5
            model.lm_head.weight = nn.Parameter(own)
        return model

    def pretrained(self, architecture: Mapping[str, Any], weights: str) -> tuple[nn.Module, Path]:
        """The model with published weights: a revision of the architecture's repository, or a file
        or folder at hand.

        Beside it, the file that they were read from: of a revision, where the download lies.

        Raises
        ------
        MergeloomError
            If the weights cannot be had, are no T5's, or those of another architecture.
        """
        from mergeloom.models.formats.t5_checkpoint import download_base, read_weights

        if Path(weights).exists():
            path = Path(weights)
        elif "transformers" in architecture:
            path = download_base(architecture["transformers"], weights)
        else:
            raise MergeloomError(
                f"{weights}: no such file or folder; an architecture that is given by its sizes "
                "belongs to no repository of which it could be a revision"
            )
        path, found = read_weights(path, architecture)
        try:
            return self.build_tower(architecture, found), path
        except MergeloomError as error:
            raise MergeloomError(f"{path}: {error}") from None

    def build_tower(
        self, architecture: Mapping[str, Any], weights: Mapping[str, Tensor]
    ) -> nn.Module:
        """The model with these weights; keys that do not fit are an error that names them."""
        with torch.device("meta"):
            model = self.build(architecture)
        empty = self.tower_weights(model)
        wrong = [
            f"{key}: {_shape(weights, key)} here, {_shape(empty, key)} in the architecture"
            for key in sorted(empty.keys() | weights.keys())
            if _shape(empty, key) != _shape(weights, key)
        ]
        if wrong:
            raise MergeloomError(
                "the weights are of another encoder:\n  "
                + "\n  ".join(wrong[:5])
                + (f"\n  and {len(wrong) - 5} more" if len(wrong) > 5 else "")
            )
        filled = {id(empty[key]): nn.Parameter(weights[key]) for key in empty}
        for module in model.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                setattr(module, name, filled[id(parameter)])
        return model

    def tower_weights(self, tower: nn.Module) -> dict[str, Tensor]:
        """The model's tensors, not copies, a tied one once, by the first of its names."""
        return dict(tower.named_parameters())

    def read_head(self, file: TensorFile, device: str) -> Answers:
        """The answers of a task: `answers` int32 [classes, length] and, of numbers, `values`
        float64 [classes]; `tokenizer` uint8, a tokenizer.json; the header may name a `metric`.
        """
        return Answers(
            tokens=file.read("answers").to(device, torch.int64),
            values=file.read("values") if "values" in file else None,
            metric=file.metadata.get("metric", "accuracy"),
            tokenizer=file.read("tokenizer").numpy().tobytes() if "tokenizer" in file else b"",
        )

    def logits(self, tower: Any, head: Answers, inputs: Tensor) -> Tensor:
        """Log-likelihoods of a task's answers, with their end token: [n, classes]."""
        return self.likelihoods(tower, head, self.encode(tower, inputs), inputs)

    def entropy_logits(self, tower: Any, head: Answers, inputs: Tensor) -> Tensor:
        """Those of an answer's first token, over the vocabulary: [n, vocabulary]."""
        start = inputs.new_full((len(inputs), 1), PAD)
        return _decode(tower, start, self.encode(tower, inputs), inputs)[0][:, 0]

    def loss(
        self, tower: Any, head: Answers, inputs: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Cross-entropy of the right answers' tokens, each given those before it.

        Parameters
        ----------
        labels : int64 [n].

        Returns
        -------
        The mean over examples of the mean over an answer's tokens, []; and the number of examples
        all tokens of whose answer are the likeliest ones, int64 [].
        """
        right = head.tokens[labels]
        before = torch.cat([right.new_full((len(right), 1), PAD), right[:, :-1]], dim=1)
        logits, _ = _decode(tower, before, self.encode(tower, inputs), inputs)
        real = right != PAD
        each = cross_entropy(logits.flatten(0, 1), right.flatten(), reduction="none")
        mean = (each.view_as(right) * real).sum(dim=1) / real.sum(dim=1)
        likeliest = logits.detach().argmax(dim=-1) == right
        return mean.mean(), (likeliest | ~real).all(dim=1).sum()

    def answer(self, tower: Any, head: Answers, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Log-likelihoods of a task's answers, [n, classes], and what is generated, int64
        [n, length]: see `logits` and `generate`.
        """
        states = self.encode(tower, inputs)
        return self.likelihoods(tower, head, states, inputs), self.generate(
            tower, head, states, inputs
        )

    def features(self, tower: Any, inputs: Tensor) -> Tensor:
        """Mean of the encoder's last states over real tokens: [n, d]."""
        real = (inputs != PAD)[..., None]
        return (self.encode(tower, inputs) * real).sum(dim=1) / real.sum(dim=1)

    def encode(self, tower: Any, inputs: Tensor) -> Tensor:
        """The encoder's last states, [n, length, d]."""
        states: Tensor = tower.encoder(input_ids=inputs, attention_mask=inputs != PAD)[0]
        return states

    def likelihoods(self, tower: Any, head: Answers, states: Tensor, inputs: Tensor) -> Tensor:
        """`logits`, given the encoder's last states.

        The decoder reads all prefixes of all answers in one pass, side by side in one row for each
        example; a prefix sees those that it begins with, and its position is its length.
        """
        tree = head.tree
        hidden = tower.decoder.embed_tokens(tree.inputs.expand(len(inputs), -1))
        lowest = torch.finfo(hidden.dtype).min
        unseen = torch.zeros_like(tree.above, dtype=hidden.dtype).masked_fill(~tree.above, lowest)
        padding = torch.zeros_like(inputs, dtype=hidden.dtype).masked_fill(inputs == PAD, lowest)
        # The first attention has the table of what all add for relative positions.
        first, steps = tower.decoder.block[0].layer[0].SelfAttention, int(tree.depth.max()) + 1
        bias = first.compute_bias(steps, steps, device=hidden.device)
        bias = bias[..., tree.depth, :][..., tree.depth]
        across = None
        for block in tower.decoder.block:
            hidden, bias, across = block(
                hidden,
                attention_mask=unseen[None, None],
                position_bias=bias,
                encoder_hidden_states=states,
                encoder_attention_mask=padding[:, None, None],
                encoder_decoder_position_bias=across,
            )
        hidden = tower.decoder.final_layer_norm(hidden)
        run = max(AT_ONCE // (len(inputs) * tower.config.vocab_size), 1)
        log_p = []
        for part in hidden.split(run, dim=1):
            logits = _vocabulary(tower, part)
            log_p.append(logits[..., tree.tokens] - logits.logsumexp(dim=-1, keepdim=True))
        return tree.likelihoods(torch.cat(log_p, dim=1))

    def generate(self, tower: Any, head: Answers, states: Tensor, inputs: Tensor) -> Tensor:
        """The likeliest token at every step, until all answers have ended: int64 [n, length].

        Tokens behind the end of an answer are padding. None is longer than the longest of the
        task's answers and four tokens.
        """
        token = inputs.new_full((len(inputs), 1), PAD)
        ended = torch.zeros_like(token, dtype=torch.bool)
        tokens, cache = [], None
        for _ in range(head.tokens.shape[1] + FURTHER):
            logits, cache = _decode(
                tower, token, states, inputs, past_key_values=cache, use_cache=True
            )
            token = logits.argmax(dim=-1).masked_fill(ended, PAD)
            tokens.append(token)
            ended |= token == END
            if ended.all():
                break
        return torch.cat(tokens, dim=1)


def _decode(
    tower: Any, before: Tensor, states: Tensor, inputs: Tensor, **options: Any
) -> tuple[Tensor, Any]:
    """Logits [n, steps, vocabulary] for decoder inputs int64 [n, steps], given the encoder's last
    states; and transformers' cache, if `use_cache` is among the options."""
    output = tower.decoder(
        input_ids=before,
        encoder_hidden_states=states,
        encoder_attention_mask=inputs != PAD,
        **{"use_cache": False, **options},
    )
    return _vocabulary(tower, output[0]), output.past_key_values


def _vocabulary(tower: Any, hidden: Tensor) -> Tensor:
    """Logits over the vocabulary of the decoder's last states [*, d]: [*, vocabulary].

    In float32 at least, under autocast, too: bfloat16 tells likely tokens apart by no more than 8
    bits.
    """
    hidden = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
    if tower.config.scale_decoder_outputs:
        hidden = hidden * tower.config.d_model**-0.5
    with torch.autocast(hidden.device.type, enabled=False):
        logits: Tensor = tower.lm_head(hidden)
    return logits


def _shape(tensors: Mapping[str, Tensor], key: str) -> Any:
    return tuple(tensors[key].shape) if key in tensors else "absent"


def model_config(architecture: Mapping[str, Any]) -> Any:
    """transformers' T5Config, without dropout."""
    return _transformers().T5Config(
        **sizes(architecture),
        dropout_rate=0.0,
        pad_token_id=PAD,
        eos_token_id=END,
        decoder_start_token_id=PAD,
    )


def _transformers() -> Any:
    cure_torchvision()
    import transformers

    return transformers
