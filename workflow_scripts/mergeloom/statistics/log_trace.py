"""The logarithm of the trace of the Fisher information of a model on a training split."""

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mergeloom.data.decoded import Images, normalise
from mergeloom.errors import MergeloomError
from mergeloom.models.family import Family
from mergeloom.models.uses import get_uses
from mergeloom.statistics.examples import DRAWS
from mergeloom.statistics.ghost_norms import GhostNorms

MODES = ("fisher", "course")
# Most at a time: more examples leave a processor's caches, and these bytes are about what is held.
_EXAMPLES, _BYTES = 128, 2**31

log = logging.getLogger(__name__)


class Estimate(NamedTuple):
    """A log-trace.

    value : natural logarithm of the mean of the squared norms of gradients.
    standard_error : of the value.
    examples : how many squared norms the mean is of.
    """

    value: float
    standard_error: float
    examples: int


class LogTrace:
    """Estimates the log-trace of a tower under a frozen head; θ are all parameters of the tower.

    Two modes, each over n draws of an image x_i and of a label ŷ_i ~ p(·|x_i) of the model's own:

    fisher : log((1/n) Σ_i ‖∂ log p(ŷ_i|x_i) / ∂θ‖²), the trace of the Fisher information. Images
        are each drawn once, `shuffled` (the first n of a permutation) or `stratified` (as many of
        each class as of any other, as far as there are as many; the mean is then that over
        classes). Where there are fewer than n, all are taken.
    course : log((1/n) Σ_i ‖∂ z_ŷᵢ(x_i) / ∂θ‖²), of the raw logit z, and of the images of the first
        batch in the order of the file alone, over and over again until there are n draws. This is
        what public course code for the study computes, whose docstring has the formula above. It
        is no Fisher information, and depends on the batch size and on the order of the images (the
        file's here; there that of `random_split`, but for EuroSAT, whose first batch is of one
        class). There, a backward pass through the graph of the whole batch is done for each draw.
        Here, each pair of an image and a label is computed once and counted as often as it is
        drawn.

    The standard error is that of the mean, divided by the mean (delta method): s / (√n · mean),
    with s² the variance over draws, n − 1 in its denominator. It takes draws as independent: of a
    stratified sample it is an upper bound; in mode `course` it knows of the labels' randomness
    alone, not of what other images would give.

    What is drawn depends on the seed and the labels of the split. Labels are read off the model's
    cumulative probabilities (float64) at uniform numbers that are the same in every call, so that
    epochs and models are compared on the same draws.

    Parameters
    ----------
    family : of the tower.
    images : decoded training split, not augmented.
    preprocessing : the encoder preset's `image`.
    device : where the tower is.
    batch_size : most examples on the device at a time; more than fit are not taken.
    settings : `mode`, `examples` (n, at least 2), and `sampling` (in mode `fisher`; `shuffled` when
        not given).
    seed : of all draws.
    first_batch : images of the first batch, in mode `course`.

    Raises
    ------
    MergeloomError
        An unknown mode or sampling, or fewer than two draws.
    """

    def __init__(
        self,
        family: Family,
        images: Images,
        preprocessing: Mapping[str, Any],
        device: str,
        batch_size: int,
        settings: Mapping[str, Any],
        seed: int,
        first_batch: int,
    ) -> None:
        self._family, self._images, self._preprocessing = family, images, preprocessing
        self._device, self._batch_size = device, batch_size
        self._mode, count = _one_of(MODES, "mode", settings["mode"]), settings["examples"]
        generator = torch.Generator().manual_seed(seed)
        if self._mode == "fisher":
            sampling = _one_of(DRAWS, "sampling", settings.get("sampling", "shuffled"))
            if len(images) < count:
                log.info(
                    "log-trace: all %d training images, fewer than the %d asked for",
                    len(images), count,
                )  # fmt: skip
            self._rows = DRAWS[sampling](images.labels, count, generator)
        else:
            self._rows = torch.arange(count) % min(first_batch, len(images))
        if len(self._rows) < 2:
            raise MergeloomError(
                f"log_trace.examples: {count} of {len(images)} training images; a standard error "
                "needs two examples"
            )
        self._uniforms = torch.rand(len(self._rows), generator=generator, dtype=torch.float64)

    def __call__(self, tower: nn.Module, head: Tensor) -> Estimate:
        """Estimate the log-trace of a tower, which is left as it was.

        Parameters
        ----------
        tower : on the device, in evaluation mode; computed in float32.
        head : Tensor [classes, d], float32, on the device.

        Raises
        ------
        MergeloomError
            When logits or gradients of an image are not finite (names it), or all gradients are
            zero; when not all is known of how the tower uses its parameters (names those).
        """
        with torch.inference_mode(False), torch.enable_grad():
            squares = (self._fisher if self._mode == "fisher" else self._course)(tower, head)
        mean, count = float(squares.mean()), len(squares)
        if mean == 0:
            raise MergeloomError(
                f"log-trace: the gradients of all {count} examples are zero; a model that is "
                "certain of every label has no log-trace"
            )
        return Estimate(math.log(mean), float(squares.std()) / (math.sqrt(count) * mean), count)

    def _fisher(self, tower: nn.Module, head: Tensor) -> Tensor:
        """‖∂ log p(ŷ_i|x_i) / ∂θ‖², float64 [n], on the CPU."""

        def residuals(logits: Tensor, part: slice) -> Tensor:
            """∂ log p(ŷ) / ∂z, which is one at the label, minus p."""
            p = logits.softmax(dim=1)
            labels = _draw_labels(p, self._uniforms[part]).unsqueeze(1)
            # 1 − p(ŷ) is the sum of the others, without the cancellation where p(ŷ) is close to 1.
            others = p.scatter(1, labels, 0.0)
            return (-others).scatter(1, labels, others.sum(dim=1, keepdim=True))

        return self._squares(tower, head, self._rows, residuals)

    def _course(self, tower: nn.Module, head: Tensor) -> Tensor:
        """‖∂ z_ŷᵢ(x_i) / ∂θ‖², float64 [n], on the CPU."""
        batch = torch.arange(int(self._rows.max()) + 1)
        with torch.no_grad():
            logits = [self._logits(tower, head, part)[1] for part in batch.split(self._batch_size)]
        p = torch.cat(logits).softmax(dim=1)
        drawn = torch.stack([self._rows, _draw_labels(p[self._rows], self._uniforms)])
        (rows, labels), which = drawn.unique(dim=1, return_inverse=True)

        def chosen(logits: Tensor, part: slice) -> Tensor:
            return torch.zeros_like(logits).scatter(1, labels[part].unsqueeze(1), 1.0)

        return self._squares(tower, head, rows, chosen)[which]

    def _squares(
        self,
        tower: nn.Module,
        head: Tensor,
        rows: Tensor,
        cotangents: Callable[[Tensor, slice], Tensor],
    ) -> Tensor:
        """‖∂⟨v_i, z(x_i)⟩ / ∂θ‖² of r images, float64 [r], on the CPU.

        Parameters
        ----------
        cotangents : of logits z [b, classes], float64 on the CPU, and their place among the rows,
            the v_i, likewise.
        """
        squares = torch.empty(len(rows), dtype=torch.float64)
        start, size = 0, 1  # the first image shows how much memory one takes
        with GhostNorms(tower, get_uses(self._family)) as norms:
            while start < len(rows):
                part = slice(start, min(start + size, len(rows)))
                outputs, logits = self._logits(tower, head, rows[part])
                vectors = cotangents(logits, part).to(outputs)
                squares[part] = norms.pull_back(outputs, vectors).cpu()
                self._check(squares[part], rows[part], "gradient")
                room = _BYTES // norms.bytes_per_example
                size = max(1, min(self._batch_size, _EXAMPLES, room))
                start = part.stop
        return squares

    def _logits(self, tower: nn.Module, head: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [b, classes] with their graph on the device, and without it, float64 on the CPU.

        There, sums over labels are the same on every run.
        """
        pixels = self._images.images[rows].to(self._device)
        mean, std = self._preprocessing["mean"], self._preprocessing["std"]
        outputs: Tensor = self._family.logits(tower, head, normalise(pixels, mean, std))
        logits = outputs.detach().double().cpu()
        self._check(logits.sum(dim=1), rows, "logits")
        return outputs, logits

    def _check(self, values: Tensor, rows: Tensor, what: str) -> None:
        """Refuse values [b] of images that are not finite."""
        if len(bad := rows[~values.isfinite()]):
            raise MergeloomError(
                f"log-trace: the {what} of training image {int(bad[0])} (counted from 0) is not "
                "finite; the model has diverged: lower the recipe's lr, or look at its weights"
            )


def _draw_labels(p: Tensor, uniforms: Tensor) -> Tensor:
    """Labels int64 [n] of probabilities [n, classes] at uniform numbers [n] in [0, 1), float64."""
    cumulative = p.cumsum(dim=1)
    # Divided by their last, which then is 1, and greater than any of the numbers.
    cumulative = cumulative / cumulative[:, -1:]
    return torch.searchsorted(cumulative, uniforms.unsqueeze(1), right=True).squeeze(1)


def _one_of(known: Any, key: str, value: Any) -> str:
    if value not in known:
        raise MergeloomError(f"log_trace.{key} is {value!r}, expected one of {', '.join(known)}")
    return str(value)
