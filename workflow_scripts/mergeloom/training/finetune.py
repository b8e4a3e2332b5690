"""Fine-tune the image tower of a base on one task, under a frozen zero-shot head."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mergeloom.data.decoded import normalise, open_images
from mergeloom.evaluation.accuracy import evaluate
from mergeloom.evaluation.examples import open_examples
from mergeloom.io.parquet import write_parquet
from mergeloom.io.tensors import TensorFile, write_tensors
from mergeloom.models.family import Family, get_family
from mergeloom.models.naming import Place, places
from mergeloom.models.weights import read_tower
from mergeloom.training.loop import fit, generator
from mergeloom.training.reading import ReadAhead
from mergeloom.training.recipe import Recipe
from mergeloom.training.registry import get_part
from mergeloom.training.sampling import balanced_order

if TYPE_CHECKING:
    from mergeloom.training.candidates import Candidates

Measure = Callable[[nn.Module, Tensor], Mapping[str, float]]


class Classifier(nn.Module):
    """A tower and its frozen head as one module: normalised images to logits."""

    head: Tensor

    def __init__(self, family: Family, tower: nn.Module, head: Tensor) -> None:
        super().__init__()
        self.family, self.tower = family, tower
        self.register_buffer("head", head)

    def forward(self, images: Tensor) -> Tensor:
        """float32 [n, 3, s, s] to logits [n, classes]."""
        logits: Tensor = self.family.logits(self.tower, self.head, images)
        return logits


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
    encoder : preset with `family`, `architecture`, `image` (size, mean, std).
    base, head : safetensors; the head holds `weight` float32 [classes, d].
    train, val : decoded splits (`mergeloom.data.decoded`); for a recipe with `balancing:
        undersample`, those of the balanced training set.
    recipe : preset, see `Recipe` and what it names.
    batch_size : of validation.
    out, curve : safetensors and Parquet; both appear whole or not at all, `curve` first.
    measure : (tower in evaluation mode, head) -> further columns of `curve`, after every epoch.
    candidates : keep the weights of other epochs than the last, as their selections want.

    Raises
    ------
    MergeloomError – base and head of another encoder, a loss that is not finite, a batch larger
    than the training set, a class without a training image where classes are to be drawn alike, a
    recipe that is none.
    """
    plan = Recipe.read(recipe)
    family = get_family(encoder["family"])
    image = encoder["image"]
    with TensorFile(base) as weights, TensorFile(head) as head_file:
        tower = read_tower(family, encoder["architecture"], weights)
        head_weight = head_file["weight"].clone()
    module = Classifier(family, tower, head_weight).to(device)
    images, held_out = open_images(train), open_examples(val, encoder, device)

    reader = ReadAhead(images, device)
    order_of = None
    if plan.balancing == "sampler":
        order_of = balanced_order(images.labels, len(head_weight), seed, title)
    augmentation = get_part("augmentation", plan.augmentation)
    options = plan.parameters["augmentation"]

    def batch_loss(
        model: nn.Module, indices: Tensor, part: slice, step: int
    ) -> tuple[Tensor, Tensor]:
        draws = torch.rand(
            len(indices), augmentation.draws, generator=generator(seed, 0, step), dtype=torch.double
        )
        pixels, labels = reader.take(indices, part)
        pixels = augmentation.function(pixels, draws[part], **options)
        logits = model(normalise(pixels, image["mean"], image["std"]))
        return cross_entropy(logits, labels), (logits.detach().argmax(dim=1) == labels).sum()

    def validate(_: nn.Module) -> dict[str, float]:
        scores = evaluate(
            family, tower, module.head, held_out, device=device, batch_size=batch_size
        )
        measured = {"val_loss": scores["loss"], "val_accuracy": scores["accuracy"]}
        return {**measured, **(measure(tower, module.head) if measure else {})}

    def keep(rows: list[dict[str, float]]) -> None:
        assert candidates
        candidates.keep(rows, family.tower_weights(tower))

    state = out.with_name(f".{out.stem}.resume.safetensors")
    if candidates:
        candidates.check(state)
    rows = fit(
        module,
        batch_loss,
        len(images),
        plan,
        seed=seed,
        device=device,
        validate=validate,
        state=state,
        fingerprint=fingerprint,
        title=title,
        places=places_of(family, module),
        announce=reader.announce,
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


def places_of(family: Family, module: Classifier) -> dict[str, Place]:
    """Where the tower's parameters are in the model, by their names in `module`."""
    weights = family.tower_weights(module.tower)
    located = places(family, {key: tuple(value.shape) for key, value in weights.items()})
    # The family says keys of files; that two names are of one parameter says its memory.
    keys = {value.data_ptr(): key for key, value in weights.items()}
    return {name: located[keys[p.data_ptr()]] for name, p in module.named_parameters()}
