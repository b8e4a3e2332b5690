"""What transformers' T5 needs to be supplied with parameters as it runs."""

from typing import Any

import torch
from torch import Tensor, nn

from mergeloom.models.module_supply import replace_forward
from mergeloom.models.supply import Keys, Supplier, supplied


@supplied("t5")
class T5Supply:
    """Its own norm, the table of relative positions; the perceptrons of the blocks."""

    def supply(self, tower: Any, keys: Keys, supplier: Supplier) -> set[str]:
        """The norm scales without centring. The table of relative positions is looked up once for
        all rows and broadcast over them, so each row's own is put there.
        """
        # Here, because most that import this module have no T5.
        from transformers.models.t5.modeling_t5 import T5LayerNorm

        asked = set()
        for module in tower.modules():
            if isinstance(module, T5LayerNorm):
                asked.add(key := keys[module.weight.data_ptr()])
                _supply_norm(module, key, supplier)
        for stack in (tower.encoder, tower.decoder):
            attention = stack.block[0].layer[0].SelfAttention
            asked.add(key := keys[attention.relative_attention_bias.weight.data_ptr()])
            _supply_positions(stack, attention, key, supplier)
        return asked

    def perceptrons(self, tower: Any) -> list[nn.Module]:
        """The feed-forward layer of every block, the encoder's first."""
        return [
            block.layer[-1].DenseReluDense
            for stack in (tower.encoder, tower.decoder)
            for block in stack.block
        ]


def _supply_norm(module: Any, key: str, supplier: Supplier) -> None:
    def forward(inputs: Tensor) -> Tensor:
        variance = inputs.float().square().mean(-1, keepdim=True)
        outputs = inputs * torch.rsqrt(variance + module.variance_epsilon)
        return outputs * supplier.entries(key, outputs)

    replace_forward(module, forward)


def _supply_positions(stack: Any, module: Any, key: str, supplier: Supplier) -> None:
    """`compute_bias` finds the distances, looks them up, and permutes what it gets. It is given the
    first row's, and what it makes of that gives way to the same of all rows. How many there are is
    seen where a stack begins: at the tokens that it looks up."""
    rows = [1]
    table, shared_bias = module.relative_attention_bias, module.compute_bias

    def note_rows(_: object, arguments: tuple[Tensor]) -> None:
        rows[0] = len(arguments[0])

    def look_up(buckets: Tensor) -> Tensor:
        tables = supplier.entries(key, table.weight.expand(rows[0], -1, -1))
        found: Tensor = tables[:, buckets]  # [n, queries, keys, heads]
        of_rows.append(found)
        return found[0]

    of_rows: list[Tensor] = []

    def compute_bias(*arguments: Any, **named: Any) -> Tensor:
        shared_bias(*arguments, **named)
        return of_rows.pop().permute(0, 3, 1, 2)

    stack.embed_tokens.register_forward_pre_hook(note_rows)
    replace_forward(table, look_up)
    module.compute_bias = compute_bias
