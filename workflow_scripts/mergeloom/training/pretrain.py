"""Pretrain both towers of a small CLIP on the training splits of captioned tasks.

A caption is one of a task's templates filled with the image's class. The images are distorted
(inverted, shifted, of low contrast, noisy): the base learns what the words mean but not how the
clean tasks look, and that domain gap is what fine-tuning closes and merging has to keep.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize, one_hot

from mergeloom.data.decoded import normalise, open_images
from mergeloom.data.shards import read_lines
from mergeloom.errors import MergeloomError
from mergeloom.io.parquet import write_parquet
from mergeloom.io.tensors import write_tensors
from mergeloom.models.family import get_family
from mergeloom.training.loop import COLUMNS, fit, generator
from mergeloom.training.recipe import Recipe

LARGEST_SCALE = math.log(100)  # as in arXiv 2103.00020, 2.5


class TwoTowers(nn.Module):
    """A CLIP whose forward pass gives scaled cosines, so that one call runs both towers."""

    model: Any  # encode_image, encode_text and logit_scale are the family's

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, tokens: Tensor) -> Tensor:
        """float32 [n, 3, s, s] and int64 [m, context] to logits [n, m]."""
        image = normalize(self.model.encode_image(images), dim=-1)
        text = normalize(self.model.encode_text(tokens), dim=-1)
        return self.model.logit_scale.clamp(max=LARGEST_SCALE).exp() * image @ text.T


def contrastive_loss(logits: Tensor, caption: Tensor) -> Tensor:
    """CLIP's symmetric loss where several images of a batch share a caption.

    Parameters
    ----------
    logits : Tensor [n, m] of n images and the m distinct captions among them.
    caption : int64 [n] – which caption is an image's.

    Returns
    -------
    Tensor [] – mean of image-to-text cross-entropy and text-to-image cross-entropy, the latter to
    the uniform distribution over a caption's images. With n = m it is the loss of arXiv 2103.00020.
    """
    targets = one_hot(caption, logits.shape[1]).T.to(logits.dtype)
    targets = targets / targets.sum(dim=1, keepdim=True)
    return (cross_entropy(logits, caption) + cross_entropy(logits.T, targets)) / 2


def distort(
    images: Tensor,
    random: torch.Generator,
    *,
    invert: float,
    shift: int,
    contrast: float,
    noise: float,
) -> Tensor:
    """Distort each image by its own draw.

    Parameters
    ----------
    images : uint8 [n, s, s, 3].
    invert : probability of inverting the colours.
    shift : largest shift in pixels, in both directions; edges are repeated.
    contrast : lowest contrast; it is drawn between this and 1, around a random grey.
    noise : largest standard deviation of Gaussian noise, as a fraction of the range.

    Returns
    -------
    uint8 [n, s, s, 3].
    """
    count, size = images.shape[0], images.shape[1]

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=random)

    pixels = images.float() / 255
    flip = (uniform(count) < invert).view(-1, 1, 1, 1)
    pixels = torch.where(flip, 1 - pixels, pixels)
    offset = torch.randint(-shift, shift + 1, (2, count, 1), generator=random)
    rows, columns = (torch.arange(size) + offset).clamp(0, size - 1)
    index = torch.arange(count).view(-1, 1, 1)
    pixels = pixels[index, rows[:, :, None], columns[:, None, :]]
    scale = contrast + (1 - contrast) * uniform(count, 1, 1, 1)
    grey = 0.5 + (1 - scale) * (uniform(count, 1, 1, 1) - 0.5)
    pixels = grey + scale * (pixels - 0.5)
    sigma = noise * uniform(count, 1, 1, 1)
    pixels = pixels + sigma * torch.randn(pixels.shape, generator=random)
    return pixels.clamp(0, 1).mul(255).round().to(torch.uint8)


def pretrain(
    *,
    encoder: Mapping[str, Any],
    tasks: Sequence[tuple[Path, Path, Path]],
    recipe: Mapping[str, Any],
    distortion: Mapping[str, Any],
    seed: int,
    device: str,
    out: Path,
    curve: Path,
    fingerprint: str,
    metadata: Mapping[str, str],
) -> None:
    """Pretrain from random weights and write both towers to `out`, a row per epoch to `curve`.

    Parameters
    ----------
    encoder : preset with `family`, `architecture`, `image`.
    tasks : per task its decoded training split, class names and templates.
    recipe : preset, see `mergeloom.training.recipe.Recipe`; on one device, in whole batches, of
        the images as they are, and without augmentation: the distortion takes its place.
    distortion : keyword arguments of `distort`.
    """
    plan = Recipe.read(recipe)
    if plan.devices * plan.accumulate != 1:
        raise MergeloomError(
            "pretraining runs on one device, and a batch at once, since its loss compares the "
            f"whole batch: set the recipe's devices ({plan.devices}) and accumulate "
            f"({plan.accumulate}) to 1"
        )
    if plan.augmentation != "none":
        raise MergeloomError(
            "pretraining distorts its images as the encoder's preset says (weights.pretrain."
            f"distortion): remove augmentation ({plan.augmentation}) from the recipe"
        )
    if plan.balancing != "none":
        raise MergeloomError(
            "pretraining is on the images of several tasks, whose classes are not balanced: remove "
            f"balancing ({plan.balancing}) from the recipe"
        )
    family, image = get_family(encoder["family"]), encoder["image"]
    splits = [open_images(images) for images, _, _ in tasks]
    captions: list[Tensor] = []  # per class of any task: token ids [templates, context]
    labels = []
    for split, (_, classnames, templates) in zip(splits, tasks, strict=True):
        labels.append(split.labels + len(captions))
        for name in read_lines(classnames):
            texts = [template.replace("{c}", name) for template in read_lines(templates)]
            captions.append(family.tokenize(encoder["architecture"], texts))
    images, classes = torch.cat([split.images for split in splits]), torch.cat(labels)

    torch.manual_seed(seed)
    model = family.build(encoder["architecture"]).to(device)

    def batch_loss(
        module: nn.Module, indices: Tensor, part: slice, step: int
    ) -> tuple[Tensor, Tensor]:
        indices = indices[part]
        random = generator(seed, 0, step)
        shown, caption = classes[indices].unique(return_inverse=True)
        choice = torch.randint(2**31, (len(shown),), generator=random)
        tokens = torch.stack(
            [
                captions[int(c)][int(i) % len(captions[int(c)])]
                for c, i in zip(shown, choice, strict=True)
            ]
        )
        pixels = distort(images[indices], random, **distortion).to(device)
        logits = module(normalise(pixels, image["mean"], image["std"]), tokens.to(device))
        caption = caption.to(device)
        hits = (logits.detach().argmax(dim=1) == caption).sum()
        return contrastive_loss(logits, caption), hits

    state = out.with_name(f".{out.stem}.resume.safetensors")
    rows = fit(
        TwoTowers(model),
        batch_loss,
        len(images),
        plan,
        seed=seed,
        device=device,
        validate=None,
        state=state,
        fingerprint=fingerprint,
        title="pretrain",
    )
    assert rows is not None  # one device
    write_parquet(curve, {c: [row[c] for row in rows] for c in COLUMNS}, metadata)
    weights = {key: value.detach().cpu() for key, value in model.state_dict().items()}
    write_tensors(out, weights, metadata)
    state.unlink(missing_ok=True)
