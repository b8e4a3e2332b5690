"""Fine-tune a base on one task, under its frozen head."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from mergeloom.evaluation.accuracy import evaluate
from mergeloom.evaluation.examples import open_examples
from mergeloom.io.parquet import write_parquet
from mergeloom.io.tensors import TensorFile, write_tensors
from mergeloom.models.family import Family, get_family
from mergeloom.models.naming import Place, places
from mergeloom.models.weights import read_tower
from mergeloom.training.inputs import training_inputs
from mergeloom.training.loop import fit
from mergeloom.training.recipe import Recipe
from mergeloom.training.sampling import balanced_order

if TYPE_CHECKING:
    from mergeloom.training.candidates import Candidates

Measure = Callable[[nn.Module, Any], Mapping[str, float]]


class Supervised(nn.Module):
    """A tower and a task's frozen head as one module: inputs and labels to what training lowers."""

    def __init__(self, family: Family, tower: nn.Module, head: Any) -> None:
        super().__init__()
        self.family, self.tower, self.head = family, tower, head

    def forward(self, inputs: Any, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and labels int64 [n] to their mean loss [] and how many are right, int64 []."""
        found: tuple[Tensor, Tensor] = self.family.loss(self.tower, self.head, inputs, labels)
        return found


def finetune(
    *,
    encoder: Mapping[str, Any],
    base: Path,
    head: Path,
    train: Path,
    val: Path,
    recipe: Mapping[str, Any],
    seed: int,
    device: str,
    batch_size: int,
    out: Path,
    curve: Path,
    fingerprint: str,
    title: str,
    metadata: Mapping[str, str],
    measure: Measure | None = None,
    candidates: "Candidates | None" = None,
) -> None:
    """Fine-tune and write the tower's weights after the last epoch, and a row per epoch to `curve`.

    With the recipe's `ema` it is the average of the weights that is validated and written.

    Parameters
    ----------
    encoder : preset with `family`, `architecture`, and how its inputs are made (`image`, `text`).
    base, head : safetensors; the head as the family reads it.
    train, val : splits as the encoder reads them (`mergeloom.evaluation.examples`); for a recipe
        with `balancing: undersample`, those of the balanced training set.
    recipe : preset, see `Recipe` and what it names.
    batch_size : of validation.
    out, curve : safetensors and Parquet; both appear whole or not at all, `curve` first.
    measure : (tower in evaluation mode, head) -> further columns of `curve`, after every epoch.
    candidates : keep the weights of other epochs than the last, as their selections want.

    Raises
    ------
    MergeloomError – base and head of another encoder, a loss that is not finite, a batch larger
    than the training set, a class without a training example where classes are to be drawn alike,
    an augmentation of texts, a recipe that is none.
    """
    plan = Recipe.read(recipe)
    family = get_family(encoder["family"])
    with TensorFile(base) as weights, TensorFile(head) as head_file:
        tower = read_tower(family, encoder["architecture"], weights).to(device)
        task_head = family.read_head(head_file, device)
    module = Supervised(family, tower, task_head)
    inputs = training_inputs(train, encoder, plan, seed, device)
    held_out = open_examples(val, encoder, device)
    order_of = None
    if plan.balancing == "sampler":
        order_of = balanced_order(inputs.labels, len(task_head), seed, title)

    def batch_loss(
        model: nn.Module, indices: Tensor, part: slice, step: int
    ) -> tuple[Tensor, Tensor]:
        loss, hits = model(*inputs.take(indices, part, step))
        return loss, hits

    def validate(_: nn.Module) -> dict[str, float]:
        scores = evaluate(family, tower, task_head, held_out, device=device, batch_size=batch_size)
        measured = {"val_loss": scores["loss"], "val_accuracy": scores["accuracy"]}
        return {**measured, **(measure(tower, task_head) if measure else {})}

    def keep(rows: list[dict[str, float]]) -> None:
        assert candidates
        candidates.keep(rows, family.tower_weights(tower))

    state = out.with_name(f".{out.stem}.resume.safetensors")
    if candidates:
        candidates.check(state)
    rows = fit(
        module,
        batch_loss,
        len(inputs.labels),
        plan,
        seed=seed,
        device=device,
        validate=validate,
        state=state,
        fingerprint=fingerprint,
        title=title,
        places=places_of(family, module),
        announce=inputs.announce,
        order_of=order_of,
        keep=keep if candidates else None,
    )
    if rows is None:
        return
    write_parquet(curve, {c: [row[c] for row in rows] for c in rows[0]}, metadata)
    if candidates:
        candidates.finish(rows, metadata)
    write_tensors(
        out, {k: v.detach().cpu() for k, v in family.tower_weights(tower).items()}, metadata
    )
    state.unlink(missing_ok=True)
    if candidates:
        candidates.remove()


def places_of(family: Family, module: Supervised) -> dict[str, Place]:
    """Where the tower's parameters are in the model, by their names in `module`."""
    weights = family.tower_weights(module.tower)
    located = places(family, {key: tuple(value.shape) for key, value in weights.items()})
    # The family says keys of files; that two names are of one parameter says its memory.
    keys = {value.data_ptr(): key for key, value in weights.items()}
    return {name: located[keys[p.data_ptr()]] for name, p in module.named_parameters()}
