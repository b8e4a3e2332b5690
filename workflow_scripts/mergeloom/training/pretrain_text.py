"""Pretrain a small model of text on the answers of one or several tasks, from random weights."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mergeloom.errors import MergeloomError
from mergeloom.evaluation.examples import TextExamples
from mergeloom.io.parquet import write_parquet
from mergeloom.io.tensors import TensorFile, write_tensors
from mergeloom.models.answers import Answers
from mergeloom.models.family import get_family
from mergeloom.models.tokens import stacked, trimmed
from mergeloom.training.finetune import Supervised
from mergeloom.training.loop import COLUMNS, fit
from mergeloom.training.recipe import Recipe


def pretrain_text(
    *,
    encoder: Mapping[str, Any],
    tasks: Sequence[tuple[Path, Path]],
    recipe: Mapping[str, Any],
    seed: int,
    device: str,
    out: Path,
    curve: Path,
    fingerprint: str,
    metadata: Mapping[str, str],
) -> None:
    """Pretrain and write the whole model to `out`, a row per epoch to `curve`.

    Parameters
    ----------
    encoder : preset with `family`, `architecture`.
    tasks : per task its tokenised training split and its head, the answers.
    recipe : preset, see `mergeloom.training.recipe.Recipe`; without augmentation or balancing.

    Raises
    ------
    MergeloomError – a recipe with augmentation or balancing, a loss that is not finite, a batch
    larger than all tasks together.
    """
    plan = Recipe.read(recipe)
    for key, value in (("augmentation", plan.augmentation), ("balancing", plan.balancing)):
        if value != "none":
            raise MergeloomError(
                f"pretraining is on the texts of several tasks as they are: remove {key} ({value}) "
                "from the recipe"
            )
    family = get_family(encoder["family"])
    tokens, labels, answers = _together(tasks, family)

    torch.manual_seed(seed)
    model = family.build(encoder["architecture"]).to(device)
    module = Supervised(family, model, Answers(answers.to(device)))

    def batch_loss(
        module: nn.Module, indices: Tensor, part: slice, step: int
    ) -> tuple[Tensor, Tensor]:
        chosen = indices[part]
        inputs = trimmed(tokens[chosen]).to(device, torch.int64)
        loss, hits = module(inputs, labels[chosen].to(device))
        return loss, hits

    state = out.with_name(f".{out.stem}.resume.safetensors")
    rows = fit(
        module,
        batch_loss,
        len(tokens),
        plan,
        seed=seed,
        device=device,
        validate=None,
        state=state,
        fingerprint=fingerprint,
        title="pretrain",
    )
    if rows is None:
        return
    write_parquet(curve, {c: [row[c] for row in rows] for c in COLUMNS}, metadata)
    weights = {key: value.detach().cpu() for key, value in family.tower_weights(model).items()}
    write_tensors(out, weights, metadata)
    state.unlink(missing_ok=True)


def _together(tasks: Sequence[tuple[Path, Path]], family: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens int32 [n, length], labels int64 [n] and answers int64 [classes, length] of all."""
    tokens: list[Tensor] = []
    labels: list[Tensor] = []
    answers: list[Tensor] = []
    for train, head in tasks:
        examples = TextExamples(train, "cpu")
        with TensorFile(head) as file:
            found = family.read_head(file, "cpu").tokens
        tokens.append(examples.tokens)
        labels.append(examples.labels + sum(len(some) for some in answers))
        answers.append(found)
    return stacked(tokens), torch.cat(labels), stacked(answers)
