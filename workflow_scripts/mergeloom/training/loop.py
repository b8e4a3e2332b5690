"""The training loop that pretraining and fine-tuning share: on Lightning Fabric, resumable per
epoch.

Everything random is drawn from the seed and the number of the epoch or step, never from the state
of a generator, so that a run that goes on from its last whole epoch ends in the same bytes as one
that was never interrupted. What is needed to go on lies in one safetensors file beside the output
until the training is done.
"""

import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from mergeloom.errors import MergeloomError
from mergeloom.io.tensors import TensorFile, write_tensors

log = logging.getLogger(__name__)

COLUMNS = (
    "epoch", "step", "lr", "train_loss", "train_accuracy", "val_loss", "val_accuracy",
)  # fmt: skip
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


@dataclass(frozen=True)
class Recipe:
    """How to train. Steps or epochs bound the run; an epoch is one pass over the training images.

    lr : peak learning rate, reached after `warmup_steps` linearly, then a cosine to zero.
    clip : largest norm of the gradient.
    betas : AdamW's decay rates of the moments.
    precision : `auto` (bfloat16 where the GPU has it, else float16 on a GPU, float32 on a CPU), or
        any precision of Lightning Fabric.
    devices, strategy : Lightning Fabric's; the batch is divided among the devices.
    """

    batch_size: int
    lr: float
    weight_decay: float
    warmup_steps: int
    clip: float
    steps: int | None = None
    epochs: float | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    precision: str = "auto"
    devices: int = 1
    strategy: str = "auto"

    def plan(self, examples: int) -> tuple[int, int]:
        """(steps per epoch, steps in all) for a training set of this size."""
        if examples < self.batch_size:
            raise MergeloomError(
                f"{examples} training images are fewer than one batch of {self.batch_size}: "
                "set the recipe's batch_size to at most their number"
            )
        if self.batch_size % self.devices:
            raise MergeloomError(
                f"batch_size {self.batch_size} cannot be divided among {self.devices} devices"
            )
        per_epoch = examples // self.batch_size
        total = self.steps if self.steps is not None else round((self.epochs or 0) * per_epoch)
        return per_epoch, total

    def lr_at(self, step: int, total: int) -> float:
        """Learning rate of a step (counted from 0)."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, total - self.warmup_steps)
        return self.lr * 0.5 * (1 + math.cos(math.pi * progress))


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
    batch_loss: Callable[[nn.Module, Tensor, int], tuple[Tensor, Tensor]],
    examples: int,
    recipe: Recipe,
    *,
    seed: int,
    device: str,
    validate: Callable[[nn.Module], tuple[float, float]] | None,
    state: Path,
    fingerprint: str,
    title: str,
) -> list[dict[str, float]] | None:
    """Train `module` in place.

    Parameters
    ----------
    module : the parameters with `requires_grad` are trained; its forward pass is what Fabric wraps.
    batch_loss : (module, indices int64 [b], step) -> (loss [], number of correct answers []).
    examples : size of the training set.
    validate : module -> (loss, accuracy) on the validation split, called after every epoch.
    state : where the resume state lives while training runs.
    fingerprint : of everything that the run depends on; a state of another run is not resumed.

    Returns
    -------
    list of rows, one per epoch, with the keys `COLUMNS`; epoch 0 is the state before training.
    None in a process that is not the first of several devices': it has nothing to write.

    Raises
    ------
    MergeloomError – when the loss is not finite (the resume state of the last whole epoch is kept).
    """
    per_epoch, total = recipe.plan(examples)
    parameters = [p for p in module.parameters() if p.requires_grad]
    names = [n for n, p in module.named_parameters() if p.requires_grad]
    precision = resolve_precision(recipe.precision, device)
    # A fused step unscales float16 gradients itself, too late for clipping them.
    optimizer = torch.optim.AdamW(
        parameters,
        lr=recipe.lr,
        betas=recipe.betas,
        weight_decay=recipe.weight_decay,
        fused=precision != "16-mixed",
    )
    fabric = Fabric(
        accelerator="cuda" if device.startswith("cuda") else "cpu",
        devices=recipe.devices,
        strategy=recipe.strategy,
        precision=precision,
    )
    history: list[dict[str, float]] = []

    def row(epoch: int, step: int, loss: float, accuracy: float) -> dict[str, float]:
        module.eval()
        val_loss, val_accuracy = validate(module) if validate else (math.nan, math.nan)
        module.train()
        lr = recipe.lr_at(step - 1, total) if step else 0.0
        return dict(
            zip(COLUMNS, (epoch, step, lr, loss, accuracy, val_loss, val_accuracy), strict=True)
        )

    def run(_: Fabric) -> None:
        wrapped, wrapped_optimizer = fabric.setup(module, optimizer)
        scaler = getattr(fabric.strategy.precision, "scaler", None)
        share = slice(fabric.global_rank, None, fabric.world_size)
        history.extend(_resume(state, fingerprint, names, parameters, optimizer, scaler))
        if not history:
            history.append(row(0, 0, math.nan, math.nan))
        step, first, started = int(history[-1]["step"]), int(history[-1]["step"]), time.monotonic()
        while step < total:
            epoch = step // per_epoch + 1
            order = torch.randperm(examples, generator=generator(seed, epoch))
            losses, correct, seen = 0.0, 0.0, 0
            while step < total and step < epoch * per_epoch:
                start = (step - (epoch - 1) * per_epoch) * recipe.batch_size
                indices = order[start : start + recipe.batch_size]
                for group in optimizer.param_groups:
                    group["lr"] = recipe.lr_at(step, total)
                loss, hits = batch_loss(wrapped, indices[share], step)
                if not torch.isfinite(loss):
                    raise MergeloomError(
                        f"{title}: the loss is {loss.item()} at step {step} (epoch {epoch}); "
                        f"lower the recipe's lr ({recipe.lr:g}) or clip ({recipe.clip:g})"
                    )
                fabric.backward(loss)
                norm = fabric.clip_gradients(
                    wrapped, wrapped_optimizer, max_norm=recipe.clip, error_if_nonfinite=False
                )
                # With float16, overflows are expected: the scaler skips the step and scales less.
                if scaler is None and norm is not None and not torch.isfinite(norm):
                    raise MergeloomError(
                        f"{title}: the gradient is not finite at step {step} (epoch {epoch}); "
                        f"lower the recipe's lr ({recipe.lr:g})"
                    )
                wrapped_optimizer.step()
                wrapped_optimizer.zero_grad()
                sums = torch.stack([loss.detach() * len(indices), hits.float() * fabric.world_size])
                mean_loss, mean_hits = fabric.all_reduce(sums, reduce_op="mean")
                losses, correct = losses + float(mean_loss), correct + float(mean_hits)
                seen += len(indices)
                step += 1
            history.append(row(epoch, step, losses / seen, correct / seen))
            if fabric.is_global_zero:
                spent = time.monotonic() - started
                _say(title, history[-1], total, per_epoch, spent / (step - first))
                if step < total:
                    _save(state, fingerprint, history, names, parameters, optimizer, scaler)

    fabric.launch(run)
    return history if fabric.is_global_zero else None


def _say(title: str, row: Mapping[str, float], total: int, per_epoch: int, seconds: float) -> None:
    val = "" if math.isnan(row["val_accuracy"]) else f", val {row['val_accuracy']:.3f}"
    log.info(
        "%s: epoch %d/%d, step %d/%d, loss %.3f, train %.3f%s, %.2f s a step, %.0f s left",
        title, row["epoch"], math.ceil(total / per_epoch), row["step"], total, row["train_loss"],
        row["train_accuracy"], val, seconds, seconds * (total - row["step"]),
    )  # fmt: skip


def _save(
    path: Path,
    fingerprint: str,
    history: list[dict[str, float]],
    names: list[str],
    parameters: list[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    scaler: Any,
) -> None:
    tensors: dict[str, Tensor] = {}
    for name, parameter in zip(names, parameters, strict=True):
        tensors[f"parameter.{name}"] = parameter.detach()
        for moment in MOMENTS:
            tensors[f"{moment}.{name}"] = optimizer.state[parameter][moment]
    metadata = {"fingerprint": fingerprint, "history": json.dumps(history)}
    if scaler is not None:
        metadata["scaler"] = json.dumps(scaler.state_dict())
    write_tensors(path, tensors, metadata)


def _resume(
    path: Path,
    fingerprint: str,
    names: list[str],
    parameters: list[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    scaler: Any,
) -> list[dict[str, float]]:
    """Load the state of an interrupted run of the same kind; the rows it had, or none."""
    if not path.exists():
        return []
    with TensorFile(path) as file:
        if file.metadata.get("fingerprint") != fingerprint:
            log.info("%s: is of a run with other inputs or parameters; starting anew", path)
            return []
        for name, parameter in zip(names, parameters, strict=True):
            with torch.no_grad():
                parameter.copy_(file[f"parameter.{name}"])
            optimizer.state[parameter] = {
                moment: file[f"{moment}.{name}"].to(parameter.device, copy=True)
                for moment in MOMENTS
            }
        if scaler is not None:
            scaler.load_state_dict(json.loads(file.metadata["scaler"]))
        history: list[dict[str, float]] = json.loads(file.metadata["history"])
    log.info("resuming after epoch %d", history[-1]["epoch"])
    return history
