"""The training loop that pretraining and fine-tuning share: on Lightning Fabric, resumable per
epoch.

Everything random is drawn from the seed and the number of the epoch or step, never from the state
of a generator, so that a run that goes on from its last whole epoch ends in the same bytes as one
that was never interrupted. What is needed to go on lies in one safetensors file beside the output
until the training is done.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from mergeloom.errors import MergeloomError
from mergeloom.models.naming import Place
from mergeloom.training.average import MovingAverage
from mergeloom.training.recipe import Recipe
from mergeloom.training.registry import Trained, get_part
from mergeloom.training.resume import State

log = logging.getLogger(__name__)

COLUMNS = (
    "epoch", "step", "lr", "train_loss", "train_accuracy", "val_loss", "val_accuracy",
)  # fmt: skip
# (module, indices int64 [batch_size], part of them, step) -> (mean loss [], correct answers [])
BatchLoss = Callable[[nn.Module, Tensor, slice, int], tuple[Tensor, Tensor]]


def generator(seed: int, *counters: int) -> torch.Generator:
    """A CPU generator that depends on the seed and the counters alone."""
    mixed = seed
    for counter in counters:
        mixed = (mixed * 6364136223846793005 + counter + 1442695040888963407) % 2**63
    return torch.Generator().manual_seed(mixed)


def resolve_precision(precision: str, device: str) -> Any:
    """`auto` to what the device has: mixed bfloat16, mixed float16, or float32."""
    if precision != "auto":
        return precision
    if device == "cpu":
        return "32-true"
    return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"


def fit(
    module: nn.Module,
    batch_loss: BatchLoss,
    examples: int,
    recipe: Recipe,
    *,
    seed: int,
    device: str,
    validate: Callable[[nn.Module], Mapping[str, float]] | None,
    state: Path,
    fingerprint: str,
    title: str,
    places: Mapping[str, Place] | None = None,
    announce: Callable[[Tensor, slice], None] | None = None,
    keep: Callable[[list[dict[str, float]]], None] | None = None,
) -> list[dict[str, float]] | None:
    """Train `module` in place.

    Parameters
    ----------
    module : the parameters with `requires_grad` are trained; its forward pass is what Fabric wraps.
        With an average of weights it ends as that.
    batch_loss : (module, indices int64 [b], part, step) -> (loss [], number of correct answers [])
        of the images `indices[part]`; what is random is drawn for the whole batch, so that it does
        not depend on how the batch is divided.
    examples : size of the training set.
    validate : module -> what is measured after every epoch, `val_loss` and `val_accuracy` first;
        more columns than these stand behind them.
    state : where the resume state lives while training runs.
    fingerprint : of everything that the run depends on; a state of another run is not resumed.
    places : where parameters are in the model, by their names in `module`, for optimisers that
        treat matrices apart.
    announce : told the indices of the next batch, and this device's share of them, while one is
        computed; `batch_loss` then gets the same tensor.
    keep : called with all rows after every epoch of training, while the module has the weights that
        the last row was measured of, before the state to resume from is written.

    Returns
    -------
    list of rows, one per epoch, with the keys `COLUMNS` and those that `validate` adds; epoch 0 is
    the state before training.
    None in a process that is not the first of several devices': it has nothing to write.

    Raises
    ------
    MergeloomError – when the loss is not finite (the resume state of the last whole epoch is kept).
    """
    span = recipe.plan(examples)
    per_epoch, total = span.per_epoch, span.total
    rate = recipe.rates(span)
    parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
    precision = resolve_precision(recipe.precision, device)
    optimizer = make_optimizer(recipe, parameters, places or {}, fused=precision != "16-mixed")
    fabric = Fabric(
        accelerator="cuda" if device.startswith("cuda") else "cpu",
        devices=recipe.devices,
        strategy=recipe.strategy,
        precision=precision,
    )
    clip = "set clip" if recipe.clip is None else f"clip ({recipe.clip:g})"
    history: list[dict[str, float]] = []

    def measure(
        epoch: int, step: int, loss: float, accuracy: float, average: MovingAverage | None
    ) -> None:
        """Add the row of an epoch."""
        lr = rate(recipe.lr, step - 1) if step else 0.0
        trained = (epoch, step, lr, loss, accuracy, math.nan, math.nan)
        module.eval()
        with average.installed() if average else nullcontext():
            measured = validate(module) if validate else {}
            history.append({**dict(zip(COLUMNS, trained, strict=True)), **measured})
            if keep and step and fabric.is_global_zero:
                keep(history)
        module.train()

    def run(_: Fabric) -> None:
        wrapped, wrapped_optimizer = fabric.setup(module, optimizer)
        scaler = getattr(fabric.strategy.precision, "scaler", None)
        average = MovingAverage(parameters, recipe.ema) if recipe.ema else None
        resumable = State(parameters, optimizer, average, scaler)
        history.extend(resumable.load(state, fingerprint))
        if not history:
            measure(0, 0, math.nan, math.nan, average)
        # Every device takes every n-th image of a batch, and divides them likewise.
        stride = fabric.world_size * recipe.accumulate
        starts = range(fabric.global_rank, stride, fabric.world_size)

        def backward(indices: Tensor, step: int) -> Tensor:
            """Add up the gradient of a batch; this device's part of loss and correct answers."""
            sums = []
            for start in starts:
                with fabric.no_backward_sync(wrapped, enabled=start != starts[-1]):
                    loss, hits = batch_loss(wrapped, indices, slice(start, None, stride), step)
                    mean = loss / recipe.accumulate
                    fabric.backward(mean)
                sums.append(
                    torch.stack([mean.detach() * len(indices), hits.float() * fabric.world_size])
                )
            return torch.stack(sums).sum(dim=0)

        step, first, started = int(history[-1]["step"]), int(history[-1]["step"]), time.monotonic()
        while step < total:
            epoch = step // per_epoch + 1
            order = torch.randperm(examples, generator=generator(seed, epoch))
            batches = iter(order[: per_epoch * recipe.batch_size].split(recipe.batch_size))
            following = next(batches)
            losses, correct, seen = 0.0, 0.0, 0
            while step < total and step < epoch * per_epoch:
                indices, following = following, next(batches, following)
                if announce and following is not indices:
                    announce(following, slice(fabric.global_rank, None, fabric.world_size))
                for group in optimizer.param_groups:
                    group["lr"] = rate(group["initial_lr"], step)
                # On several devices all see that one of them fails, and none waits for it.
                mean_loss, mean_hits = fabric.all_reduce(backward(indices, step), reduce_op="mean")
                if not torch.isfinite(mean_loss):
                    raise MergeloomError(
                        f"{title}: the loss is {float(mean_loss) / len(indices)} at step {step} "
                        f"(epoch {epoch}); lower the recipe's lr ({recipe.lr:g}) or {clip}"
                    )
                norm = fabric.clip_gradients(
                    wrapped,
                    wrapped_optimizer,
                    max_norm=math.inf if recipe.clip is None else recipe.clip,
                    error_if_nonfinite=False,
                )
                # With float16, overflows are expected: the scaler skips the step and scales less.
                if scaler is None and norm is not None and not torch.isfinite(norm):
                    raise MergeloomError(
                        f"{title}: the gradient is not finite at step {step} (epoch {epoch}); "
                        f"lower the recipe's lr ({recipe.lr:g})"
                    )
                wrapped_optimizer.step()
                wrapped_optimizer.zero_grad()
                if average:
                    average.update()
                losses, correct = losses + float(mean_loss), correct + float(mean_hits)
                seen += len(indices)
                step += 1
            measure(epoch, step, losses / seen, correct / seen, average)
            if fabric.is_global_zero:
                spent = time.monotonic() - started
                _say(title, history[-1], total, per_epoch, spent / (step - first))
                if step < total:
                    resumable.save(state, fingerprint, history)
        if average:
            average.install()

    fabric.launch(run)
    return history if fabric.is_global_zero else None


def make_optimizer(
    recipe: Recipe,
    parameters: Mapping[str, nn.Parameter],
    places: Mapping[str, Place],
    *,
    fused: bool,
) -> torch.optim.Optimizer:
    """The recipe's optimiser; every group of its parameters knows its peak as `initial_lr`.

    fused : a fused step unscales float16 gradients itself, too late for clipping them.
    """
    make = get_part("optimizer", recipe.optimizer).function
    trained = Trained(parameters, places, fused)
    options = recipe.parameters.get("optimizer", {})
    optimizer: torch.optim.Optimizer = make(trained, recipe.lr, recipe.weight_decay, **options)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def _say(title: str, row: Mapping[str, float], total: int, per_epoch: int, seconds: float) -> None:
    val = "" if math.isnan(row["val_accuracy"]) else f", val {row['val_accuracy']:.3f}"
    log.info(
        "%s: epoch %d/%d, step %d/%d, loss %.3f, train %.3f%s, %.2f s a step, %.0f s left",
        title, row["epoch"], math.ceil(total / per_epoch), row["step"], total, row["train_loss"],
        row["train_accuracy"], val, seconds, seconds * (total - row["step"]),
    )  # fmt: skip
