"""Steps of the optimisers against their formulas in float64 numpy, by SVD where there is one."""

import math

import numpy as np
import pytest
import torch
from spectra import polar

from mergeloom.errors import MergeloomError
from mergeloom.models.family import get_family
from mergeloom.models.naming import places
from mergeloom.training.loop import make_optimizer
from mergeloom.training.recipe import Recipe

WIDTH = 16
BLOCK = "visual.transformer.resblocks.0."
SHAPES = {
    "visual.conv1.weight": (WIDTH, 3, 2, 2),
    "visual.class_embedding": (WIDTH,),
    "visual.positional_embedding": (5, WIDTH),
    BLOCK + "attn.in_proj_weight": (3 * WIDTH, WIDTH),
    BLOCK + "attn.out_proj.weight": (WIDTH, WIDTH),
    BLOCK + "mlp.c_fc.weight": (4 * WIDTH, WIDTH),
    BLOCK + "mlp.c_proj.weight": (WIDTH, 4 * WIDTH),
    BLOCK + "mlp.c_proj.bias": (WIDTH,),
    "visual.proj": (WIDTH, 8),
}
# The linear maps in the order in which the input passes through them.
MAPS = [key for key in SHAPES if "class" not in key and "bias" not in key]
HIDDEN = [key for key in MAPS if "conv1" not in key and "embedding" not in key]
Model = dict[str, np.ndarray]


def normal(seed: int) -> Model:
    rng = np.random.default_rng(seed)
    return {key: rng.standard_normal(shape).astype(np.float32) for key, shape in SHAPES.items()}


def steps(gradients: list[Model], **recipe: object) -> list[Model]:
    """The weights before the first step and after each, in float64."""
    parameters = {key: torch.nn.Parameter(torch.tensor(v)) for key, v in normal(0).items()}
    common = {"batch_size": 1, "steps": 1, "warmup_steps": 0, "clip": None}
    optimizer = make_optimizer(
        Recipe.read({**common, **recipe}),
        parameters,
        places(get_family("clip"), SHAPES),
        fused=True,
    )
    seen = [normal(0)]
    for gradient in gradients:
        for key, parameter in parameters.items():
            parameter.grad = torch.tensor(gradient[key])
        optimizer.step()
        seen.append({key: p.detach().numpy().copy() for key, p in parameters.items()})
    return [{key: value.astype(np.float64) for key, value in model.items()} for model in seen]


def double(model: Model) -> Model:
    return {key: value.astype(np.float64) for key, value in model.items()}


def dual(gradient: Model, masses: list[float]) -> Model:
    """c √(dout/din) U Vᵀ of every map; 1/k² for every pixel of the convolution."""
    result = dict(gradient)
    for key, mass in zip(MAPS, masses, strict=True):
        shape = SHAPES[key]
        scale = mass / sum(masses) * math.sqrt(shape[0] / shape[1]) / math.prod(shape[2:])
        pixels = gradient[key].reshape(*shape[:2], -1)
        factors = [scale * polar(pixels[:, :, i]) for i in range(pixels.shape[2])]
        result[key] = np.stack(factors, axis=-1).reshape(shape)
    return result


UNIFORM = [0.5] * len(MAPS)
# 0.01 + 0.49 l / N; the last map's number is N itself.
LINEAR = [0.01 + 0.49 * n / len(MAPS) for n in (*range(len(MAPS) - 1), len(MAPS))]


def test_adamw_decays_weights_apart_from_the_gradient_and_adam_with_it():
    gradient = normal(1)
    for name in ("adamw", "adam"):
        before, after = steps([gradient], optimizer=name, lr=0.01, weight_decay=0.3)
        for key, g in double(gradient).items():
            weights = before[key]
            if name == "adam":
                g, decayed = g + 0.3 * weights, weights
            else:
                decayed = weights * (1 - 0.01 * 0.3)
            # Of the first step, both moments are unbiased to g and g².
            expected = decayed - 0.01 * g / (np.abs(g) + 1e-8)
            np.testing.assert_allclose(after[key], expected, rtol=1e-5, atol=1e-6)


def test_the_second_step_of_adam_has_the_moments_of_both_gradients():
    g, h = double(normal(1)), double(normal(2))
    seen = steps(
        [normal(1), normal(2)], optimizer="adam", lr=0.01, weight_decay=0, betas=[0.8, 0.9]
    )
    for key in SHAPES:
        first = (0.8 * 0.2 * g[key] + 0.2 * h[key]) / (1 - 0.8**2)
        second = (0.9 * 0.1 * g[key] ** 2 + 0.1 * h[key] ** 2) / (1 - 0.9**2)
        expected = seen[1][key] - 0.01 * first / (np.sqrt(second) + 1e-8)
        np.testing.assert_allclose(seen[2][key], expected, rtol=1e-5, atol=1e-6)


def test_sgd_steps_along_the_sum_of_decayed_gradients():
    g, h = double(normal(1)), double(normal(2))
    seen = steps(
        [normal(1), normal(2)], optimizer="sgd", lr=0.1, weight_decay=0.05, momentum=0.7
    )  # fmt: skip
    for key in SHAPES:
        velocity = g[key] + 0.05 * seen[0][key]
        np.testing.assert_allclose(
            seen[1][key], seen[0][key] - 0.1 * velocity, rtol=1e-5, atol=1e-6
        )
        velocity = 0.7 * velocity + h[key] + 0.05 * seen[1][key]
        np.testing.assert_allclose(
            seen[2][key], seen[1][key] - 0.1 * velocity, rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize(("masses", "mass"), [("uniform", UNIFORM), ("linear", LINEAR)])
def test_a_dualized_step_goes_along_the_polar_factor_of_every_map(masses, mass):
    before, after = steps(
        [normal(1)], optimizer="dualized_sgd", lr=1.0, weight_decay=0.0, masses=masses
    )
    for key, direction in dual(double(normal(1)), mass).items():
        np.testing.assert_allclose(after[key], before[key] - direction, atol=1e-6)


def test_dualized_adamw_is_adamw_on_dualised_gradients():
    gradients = [normal(1), normal(2)]
    dualized = [
        {key: value.astype(np.float32) for key, value in dual(double(g), UNIFORM).items()}
        for g in gradients
    ]
    ours = steps(gradients, optimizer="dualized_adamw", lr=0.01, weight_decay=0.1)[-1]
    expected = steps(dualized, optimizer="adamw", lr=0.01, weight_decay=0.1)[-1]
    for key in SHAPES:
        np.testing.assert_allclose(ours[key], expected[key], atol=1e-5)


def quintic(values: np.ndarray) -> np.ndarray:
    """Five steps of Muon's Newton-Schulz iteration, which act on singular values alone."""
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return values


def test_muon_brings_the_singular_values_of_matrices_to_about_one():
    before, after = steps([normal(1)], optimizer="muon", lr=0.1, weight_decay=0.2, momentum=0.9)
    for key in HIDDEN:
        gradient = normal(1)[key].astype(np.float64)
        rows, columns = gradient.shape
        # Nesterov's momentum of one gradient is a multiple of it, which the first norm undoes.
        left, values, right = np.linalg.svd(gradient, full_matrices=False)
        flat = quintic(values / np.linalg.norm(values))
        step = math.sqrt(max(1, rows / columns)) * (left * flat) @ right
        ours = (before[key] * (1 - 0.1 * 0.2) - after[key]) / 0.1
        # The iteration is in bfloat16.
        assert np.linalg.norm(ours - step) < 0.03 * np.linalg.norm(step)
        assert np.abs(flat - 1).max() < 0.4


def test_muon_leaves_what_is_no_matrix_of_a_block_or_behind_to_adamw():
    before, after = steps([normal(1)], optimizer="muon", lr=0.1, weight_decay=0.2, rest_lr=0.003)
    rest = set(SHAPES) - set(HIDDEN)
    assert rest == {
        "visual.conv1.weight", "visual.class_embedding", "visual.positional_embedding",
        BLOCK + "mlp.c_proj.bias",
    }  # fmt: skip
    for key in rest:
        g = normal(1)[key].astype(np.float64)
        expected = before[key] * (1 - 0.003 * 0.2) - 0.003 * g / (np.abs(g) + 1e-8)
        np.testing.assert_allclose(after[key], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["muon", "dualized_adamw", "dualized_sgd"])
def test_where_no_matrix_is_known_the_error_names_other_optimisers(name):
    recipe = Recipe.read(
        {"batch_size": 1, "steps": 1, "warmup_steps": 0, "clip": None, "lr": 1.0, "weight_decay": 0}
        | {"optimizer": name}
    )
    parameters = {"weight": torch.nn.Parameter(torch.ones(2, 2))}
    with pytest.raises(MergeloomError, match=f"'{name}' is for models whose matrices.*take adamw"):
        make_optimizer(recipe, parameters, {}, fused=True)
