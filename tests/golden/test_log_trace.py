"""The Fisher log-trace: ghost norms against gradients, and both modes against their definitions."""

import logging
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mergeloom.data.decoded import Images, normalise
from mergeloom.errors import MergeloomError
from mergeloom.models.family import get_family
from mergeloom.models.uses import get_uses
from mergeloom.statistics.ghost_norms import GhostNorms
from mergeloom.statistics.log_trace import LogTrace

CLIP = get_family("clip")
IMAGE = {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28]}
TEXT = {"context_length": 4, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1}
PLAIN = {"image_size": 16, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}
ARCHITECTURES = {
    "plain": {"vision_cfg": PLAIN},
    "quickgelu": {"vision_cfg": PLAIN, "quick_gelu": True},
    "many small patches": {"vision_cfg": PLAIN | {"patch_size": 2, "width": 16, "layers": 1}},
    "wide": {"vision_cfg": PLAIN | {"patch_size": 16, "width": 64, "mlp_ratio": 2.0}},
    "averaged": {"vision_cfg": PLAIN | {"pool_type": "avg"}},
    "pooled before the norm": {"vision_cfg": PLAIN | {"final_ln_after_pool": True}},
    "no norm before the blocks": {"vision_cfg": PLAIN | {"no_ln_pre": True}},
}
CLASSES = 5


def make_tower(name: str = "plain", seed: int = 0) -> Any:
    """An image tower with random weights, none of them zero or one."""
    torch.manual_seed(seed)
    architecture = {"embed_dim": 12, "text_cfg": TEXT} | ARCHITECTURES[name]
    tower = CLIP.build(architecture).visual.eval()
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return tower


def make_head(scale: float = 1.5, width: int = 12) -> Tensor:
    return scale * torch.randn(CLASSES, width, generator=torch.Generator().manual_seed(1))


def make_images(count: int, size: int = 16, labels: Any = None) -> Images:
    rng = np.random.default_rng(2)
    pixels = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    labels = rng.integers(0, CLASSES, count) if labels is None else labels
    return Images(torch.from_numpy(pixels), torch.as_tensor(labels))


def pixels_of(images: Images) -> Tensor:
    return normalise(images.images, IMAGE["mean"], IMAGE["std"])


def gradients(
    tower: nn.Module, logits: Callable[[Tensor], Tensor], pixels: Tensor, cotangents: Tensor
) -> Iterator[dict[str, Tensor]]:
    """Of every example by autograd, in float64: name to Tensor [*shape]."""
    names, parameters = zip(*tower.double().named_parameters(), strict=True)
    for image, cotangent in zip(pixels.double(), cotangents.double(), strict=True):
        value = logits(image.unsqueeze(0))[0] @ cotangent
        yield dict(zip(names, torch.autograd.grad(value, parameters), strict=True))
    tower.float()


def square(model: dict[str, Tensor]) -> float:
    return sum(float(gradient.square().sum()) for gradient in model.values())


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("count", [1, 7])
def test_ghost_norms_are_those_of_single_gradients(name: str, count: int) -> None:
    tower, head = make_tower(name), make_head()
    pixels, cotangents = pixels_of(make_images(count)), torch.randn(count, CLASSES)
    with GhostNorms(tower, get_uses(CLIP)) as norms:
        squares = norms.pull_back(CLIP.logits(tower, head, pixels), cotangents)
    logits = partial(CLIP.logits, tower, head.double())
    expected = [square(model) for model in gradients(tower, logits, pixels, cotangents)]
    assert squares.dtype == torch.float64
    np.testing.assert_allclose(squares, expected, rtol=1e-5)


def test_every_parameter_counts_for_more_than_the_tolerance() -> None:
    """A use that is missed would be noticed by the test above."""
    for name in ARCHITECTURES:
        tower, head = make_tower(name), make_head().double()
        pixels, cotangents = pixels_of(make_images(2)), torch.randn(2, CLASSES)
        model = next(gradients(tower, partial(CLIP.logits, tower, head), pixels, cotangents))
        least = min(float(gradient.square().sum()) for gradient in model.values())
        assert least > 1e-4 * square(model), name


class Mixed(nn.Module):
    """Convolutions whose gradients are cheaper than Gram matrices, and an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.second = nn.Conv2d(4, 3, 2, dilation=2, bias=False)
        self.embedding = nn.Embedding(6, 12)
        self.out = nn.Linear(12, CLASSES)

    def forward(self, pixels: Tensor) -> Tensor:
        where = torch.arange(4) % 3 + (pixels[:, :1, 0, 0] > 0).long()
        rows = self.second(self.wide(pixels).relu()).flatten(2).mean(1, keepdim=True)
        return self.out(torch.cat([rows[..., :12], self.embedding(where)], 1).sin()).sum(1)


def test_convolutions_and_embeddings_are_known_of_other_models() -> None:
    torch.manual_seed(3)
    model = Mixed()
    pixels, cotangents = pixels_of(make_images(6)), torch.randn(6, CLASSES)
    with GhostNorms(model, lambda tower, told: ()) as norms:
        squares = norms.pull_back(model(pixels), cotangents)
    expected = [square(found) for found in gradients(model, model, pixels, cotangents)]
    np.testing.assert_allclose(squares, expected, rtol=1e-5)


class Linear:
    """A family of one linear map of the pixels, whose outputs are the logits."""

    def logits(self, tower: nn.Module, head: Tensor, images: Tensor) -> Tensor:
        return tower(images.flatten(1)) @ head.T


class Root(Linear):
    """Logits that are finite at zero, where their gradients are not."""

    def logits(self, tower: nn.Module, head: Tensor, images: Tensor) -> Tensor:
        return super().logits(tower, head, images).sqrt()


def linear_model(size: int) -> tuple[nn.Linear, Tensor]:
    torch.manual_seed(4)
    tower = nn.Linear(3 * size * size, CLASSES, bias=False)
    return tower, torch.eye(CLASSES)


def estimate(images: Images, family: Any = CLIP, **given: Any) -> LogTrace:
    options: dict[str, Any] = {
        "preprocessing": IMAGE,
        "device": "cpu",
        "batch_size": 16,
        "settings": {"mode": "fisher", "examples": len(images)},
        "seed": 0,
        "first_batch": 8,
    }
    return LogTrace(family, images, **(options | given))


def test_a_linear_softmax_model_has_the_trace_of_its_closed_form() -> None:
    """tr F = E_x[‖x‖² (1 − Σ_c p_c²)]; few images are there many times each, with other labels."""
    few, copies = 8, 500
    once = make_images(few, size=2)
    images = Images(once.images.repeat(copies, 1, 1, 1), once.labels.repeat(copies))
    tower, head = linear_model(size=2)
    found = estimate(images, Linear(), batch_size=500)(tower, head)
    x = pixels_of(once).flatten(1).double().numpy()
    z = x @ tower.weight.detach().double().numpy().T
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    closed = math.log(np.mean((x**2).sum(1) * (1 - (p**2).sum(1))))
    assert found.examples == few * copies
    assert found.standard_error < 0.02
    assert abs(found.value - closed) < 3 * found.standard_error
    # The gradient of a logit is x, whatever the label: not the same trace.
    settings = {"mode": "course", "examples": 100}
    course = estimate(once, Linear(), settings=settings, first_batch=few)(tower, head)
    used = (x**2).sum(1)[np.arange(100) % few]
    assert course.value == pytest.approx(math.log(used.mean()), rel=1e-6)
    assert abs(course.value - closed) > 0.1


def probabilities(tower: nn.Module, head: Tensor, pixels: Tensor) -> np.ndarray:
    logits = CLIP.logits(tower.double(), head.double(), pixels.double()).detach().numpy()
    tower.float()
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)


def labels_at(p: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """The least label up to which probabilities sum to more than the number."""
    return (p.cumsum(1) > uniforms[:, None]).argmax(1)


def log_mean(squares: list[float]) -> tuple[float, float]:
    """The log of a mean, and its standard error."""
    mean, deviation = np.mean(squares), np.std(squares, ddof=1)
    return math.log(mean), deviation / (math.sqrt(len(squares)) * mean)


def test_fisher_is_the_mean_over_shuffled_images_and_labels_of_the_model() -> None:
    images, tower, head = make_images(30), make_tower(), make_head()
    settings = {"mode": "fisher", "examples": 20}
    found = estimate(images, settings=settings, seed=5)(tower, head)
    generator = torch.Generator().manual_seed(5)
    rows = torch.randperm(30, generator=generator)[:20].sort().values
    uniforms = torch.rand(20, generator=generator, dtype=torch.float64).numpy()
    pixels = pixels_of(images)[rows]
    p = probabilities(tower, head, pixels)
    labels = labels_at(p, uniforms)
    assert len(set(labels)) > 2, "a sample of one label would show little"
    cotangents = torch.from_numpy(np.eye(CLASSES)[labels] - p)
    logits = partial(CLIP.logits, tower, head.double())
    expected = log_mean([square(g) for g in gradients(tower, logits, pixels, cotangents)])
    assert found.examples == 20
    assert found[:2] == pytest.approx(expected, rel=1e-5)


def test_course_is_what_the_public_procedure_gives() -> None:
    """Passes over the first batch, in each a new label of every image, until there are enough."""
    images, tower, head = make_images(30), make_tower(), make_head()
    batch, draws = 8, 50
    settings = {"mode": "course", "examples": draws}
    found = estimate(images, settings=settings, seed=6, first_batch=batch)(tower, head)
    generator = torch.Generator().manual_seed(6)
    uniforms = iter(torch.rand(draws, generator=generator, dtype=torch.float64).numpy())
    squares: list[float] = []
    tower.double()
    while len(squares) < draws:
        pixels = pixels_of(images)[:batch].double()
        logits = CLIP.logits(tower, head.double(), pixels)
        p = logits.detach().softmax(1).numpy()
        for row in range(batch):
            if len(squares) == draws:
                break
            label = labels_at(p[row : row + 1], np.array([next(uniforms)]))[0]
            gradient = torch.autograd.grad(
                logits[row, label], list(tower.parameters()), retain_graph=True
            )
            squares.append(sum(float(part.square().sum()) for part in gradient))
    tower.float()
    assert len(set(squares)) > batch, "some image had two labels"
    assert found.examples == draws
    assert found[:2] == pytest.approx(log_mean(squares), rel=1e-5)


def test_course_sees_the_first_batch_alone() -> None:
    images, tower, head = make_images(30), make_tower(), make_head()
    settings = {"mode": "course", "examples": 40}
    whole = estimate(images, settings=settings)(tower, head)
    first = Images(images.images[:8], images.labels[:8])
    assert estimate(first, settings=settings)(tower, head) == whole
    assert estimate(first, settings=settings, first_batch=100)(tower, head) == whole
    assert estimate(images, settings=settings, first_batch=9)(tower, head) != whole


def rows_of(trace: LogTrace) -> Tensor:
    return trace._rows


def test_a_stratified_sample_has_as_many_of_each_class_as_there_are() -> None:
    labels = np.repeat(np.arange(CLASSES), [50, 3, 20, 20, 7])
    images = make_images(100, size=2, labels=labels)

    def counts(examples: int, sampling: str, seed: int = 0) -> list[int]:
        settings = {"mode": "fisher", "examples": examples, "sampling": sampling}
        rows = rows_of(estimate(images, Linear(), settings=settings, seed=seed))
        assert len(rows.unique()) == len(rows) == min(examples, 100)
        return torch.bincount(images.labels[rows], minlength=CLASSES).tolist()

    assert counts(15, "stratified") == [3, 3, 3, 3, 3]
    assert counts(40, "stratified") == [10, 3, 10, 10, 7]
    assert sorted(counts(17, "stratified")) == [3, 3, 3, 4, 4]
    assert counts(200, "stratified") == [50, 3, 20, 20, 7]
    assert counts(40, "shuffled") != counts(40, "stratified")
    drawn = {tuple(counts(17, "stratified", seed)) for seed in range(9)}
    assert len(drawn) > 1, "which classes have one more is drawn"
    assert {share[1] for share in drawn} == {3}


def test_shuffled_is_the_default_and_each_seed_draws_others() -> None:
    images = make_images(60, size=2)

    def rows(seed: int = 0, **sampling: str) -> Tensor:
        settings = {"mode": "fisher", "examples": 20} | sampling
        return rows_of(estimate(images, Linear(), settings=settings, seed=seed))

    assert rows().equal(rows(sampling="shuffled"))
    assert not rows().equal(rows(sampling="stratified"))
    assert not rows().equal(rows(seed=1))


def test_more_examples_than_images_are_all_images(caplog: pytest.LogCaptureFixture) -> None:
    images, tower, head = make_images(12), make_tower(), make_head()
    with caplog.at_level(logging.INFO):
        all_of_them = estimate(images, settings={"mode": "fisher", "examples": 50})
    assert "all 12 training images, fewer than the 50 asked for" in caplog.text
    assert all_of_them(tower, head) == estimate(images)(tower, head)
    assert all_of_them(tower, head).examples == 12


@pytest.mark.parametrize("mode", ["fisher", "course"])
def test_the_size_of_batches_does_not_matter(mode: str) -> None:
    images, tower, head = make_images(40), make_tower(), make_head()
    settings = {"mode": mode, "examples": 40}
    traces = [estimate(images, settings=settings, batch_size=size) for size in (1, 3, 64)]
    values = [trace(tower, head) for trace in traces]
    assert values[0] == traces[0](tower, head)
    for value in values[1:]:
        assert value == pytest.approx(values[0], rel=1e-6)


def test_the_tower_is_left_as_it_was() -> None:
    tower, head = make_tower(), make_head()
    tower.proj.requires_grad_(False)
    before = {key: value.clone() for key, value in tower.state_dict().items()}
    pixels = pixels_of(make_images(2))
    expected = tower(pixels)
    estimate(make_images(4))(tower, head)
    with torch.inference_mode():
        estimate(make_images(4))(tower, head)
    assert all(value.equal(before[key]) for key, value in tower.state_dict().items())
    assert {n for n, p in tower.named_parameters() if not p.requires_grad} == {"proj"}
    assert all(parameter.grad is None for parameter in tower.parameters())
    assert not any("forward" in vars(module) for module in tower.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in tower.modules())
    assert tower(pixels).equal(expected)


def test_a_parameter_whose_use_is_not_known_is_named() -> None:
    tower, head = make_tower(), make_head()
    tower.register_parameter("extra", nn.Parameter(torch.ones(3)))
    with pytest.raises(MergeloomError, match="how the model uses extra is not known"):
        estimate(make_images(4))(tower, head)
    assert not any("forward" in vars(module) for module in tower.modules())
    torch.manual_seed(0)
    scaled = {"embed_dim": 12, "text_cfg": TEXT, "vision_cfg": PLAIN | {"ls_init_value": 0.5}}
    with pytest.raises(MergeloomError, match=r"resblocks\.0\.ls_1\.gamma"):
        estimate(make_images(4))(CLIP.build(scaled).visual.eval(), head)


class Twice(nn.Module):
    """Uses a module twice, or changes in place what another was fed."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, 12), nn.Linear(12, CLASSES)
        self.in_place = in_place

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(inputs) + 1
        if self.in_place:
            outputs: Tensor = self.second(hidden)
            hidden.mul_(2)
            return outputs
        outputs = self.second(self.first(hidden))
        return outputs


@pytest.mark.parametrize(
    ("in_place", "message"),
    [(False, r"first\.weight: is used twice"), (True, r"second\.weight: .* changed in place")],
)
def test_what_ghost_norms_cannot_know_is_refused(in_place: bool, message: str) -> None:
    tower, head = Twice(in_place), torch.eye(CLASSES)
    with pytest.raises(MergeloomError, match=message):
        estimate(make_images(4, size=2), Linear())(tower, head)


def test_a_model_that_diverged_is_refused_with_the_image() -> None:
    images, tower, head = make_images(4), make_tower(), make_head()
    with torch.no_grad():
        tower.proj.fill_(math.nan)
    with pytest.raises(MergeloomError, match=r"logits of training image 0 .* not finite"):
        estimate(images)(tower, head)
    linear, eye = linear_model(size=2)
    with torch.no_grad():
        linear.weight.zero_()
    with pytest.raises(MergeloomError, match=r"gradient of training image 0 .* not finite"):
        estimate(make_images(4, size=2), Root())(linear, eye)


def test_a_model_that_is_certain_of_every_label_has_no_log_trace() -> None:
    linear, eye = linear_model(size=2)
    with torch.no_grad():
        linear.weight.zero_()
        linear.weight[0] = 1e4
    dark = {"mean": [-1.0] * 3, "std": [1.0] * 3}
    with pytest.raises(MergeloomError, match="of all 4 examples are zero"):
        estimate(make_images(4, size=2), Linear(), preprocessing=dark)(linear, eye)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "logit", "examples": 9}, "log_trace.mode is 'logit', expected one of fisher, co"),
        ({"mode": "fisher", "examples": 9, "sampling": "first"}, "shuffled, stratified"),
        ({"mode": "fisher", "examples": 1}, "a standard error needs two examples"),
    ],
)
def test_settings_that_are_wrong_are_explained(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(MergeloomError, match=message):
        estimate(make_images(4), settings=settings)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("mode", ["fisher", "course"])
def test_a_gpu_gives_what_the_processor_gives(mode: str) -> None:
    images, tower, head = make_images(40), make_tower(), make_head()
    settings = {"mode": mode, "examples": 40}
    expected = estimate(images, settings=settings)(tower, head)
    found = estimate(images, settings=settings, device="cuda")(tower.cuda(), head.cuda())
    assert found == pytest.approx(expected, rel=1e-5)
