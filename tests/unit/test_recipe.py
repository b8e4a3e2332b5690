"""Recipes: schedules as torch has them, and one clear error for what cannot be."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from mergeloom.config.presets import KINDS, check, load_presets, schema_named
from mergeloom.config.study import check_study, parts_of, resolve_epochs
from mergeloom.errors import MergeloomError
from mergeloom.training.recipe import Recipe, Span
from mergeloom.training.registry import get_part

CONFIG = Path(__file__).parents[2] / "config"
GIVEN = {
    "batch_size": 8,
    "steps": 10,
    "lr": 0.5,
    "weight_decay": 0.0,
    "warmup_steps": 0,
    "clip": None,
}


@pytest.fixture
def presets():
    return {k: load_presets(k, [CONFIG], schema_named(CONFIG / "schema", k)) for k in KINDS}


@pytest.fixture
def config():
    return yaml.safe_load((CONFIG / "config.yaml").read_text())


def curve(span, **recipe):
    rate = Recipe.read(GIVEN | recipe).rates(span)
    return [rate(0.5, step) for step in range(span.total)]


def of_torch(scheduler, steps, **options):
    """What a scheduler of torch sets, called once a step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler = scheduler(optimizer, **options)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


CosineAnnealingLR = torch.optim.lr_scheduler.CosineAnnealingLR


def test_the_cosine_is_that_of_torch_step_by_step():
    expected = of_torch(CosineAnnealingLR, 20, T_max=20)
    np.testing.assert_allclose(curve(Span(0, 4, 20)), expected, atol=1e-12)


@pytest.mark.parametrize("epochs", [4, 10, 35])
def test_annealing_by_epoch_is_that_of_torch_and_goes_on_in_cycles(epochs):
    ours = curve(Span(0, 3, 3 * epochs), schedule="cosine_by_epoch", annealing_epochs=10)
    expected = of_torch(CosineAnnealingLR, epochs, T_max=10)
    np.testing.assert_allclose(ours, np.repeat(expected, 3), atol=1e-12)
    if epochs == 35:
        assert ours[3 * 10] == pytest.approx(0)
        assert ours[3 * 20] == pytest.approx(0.5)


def test_annealing_by_epoch_lasts_the_whole_run_by_default():
    ours = curve(Span(0, 3, 21), schedule="cosine_by_epoch")
    np.testing.assert_allclose(ours, np.repeat(of_torch(CosineAnnealingLR, 7, T_max=7), 3))


def test_a_constant_rate_warms_up_like_any_other():
    ours = curve(Span(4, 5, 10), schedule="constant", warmup_steps=4)
    np.testing.assert_allclose(ours, [0.125, 0.25, 0.375, 0.5] + [0.5] * 6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"optimizer": "adamx"},
            "unknown optimizer 'adamx'; there is: adam, adamw, dualized_adamw",
        ),
        (
            {"schedule": "linear"},
            "unknown schedule 'linear'; there is: constant, cosine, cosine_by",
        ),
        ({"augmentation": "mixup"}, "unknown augmentation 'mixup'; there is: none, random_resized"),
        (
            {"momentum": 0.9},
            "momentum is a parameter of the optimizer dualized_sgd and muon and sgd, not of adamw, "
            "which is what the recipe takes; its parameters: betas",
        ),
        ({"optimizer": "sgd", "betas": [0.9, 0.9]}, "betas is a parameter of the optimizer adam "),
        (
            {"annealing_epochs": 3},
            "annealing_epochs is a parameter of the schedule cosine_by_epoch",
        ),
        ({"crop_scale": [0.5, 1]}, "crop_scale is a parameter of the augmentation random_resized"),
        ({"momentom": 0.9}, "unknown key 'momentom' of a recipe; known keys: accumulate, augment"),
    ],
)
def test_what_a_recipe_cannot_name_is_refused_and_what_it_can_is_listed(
    change, message, config, presets
):
    with pytest.raises(MergeloomError, match=re.escape(message)):
        Recipe.read(GIVEN | change)
    # When the workflow starts, too, from the source and without importing torch.
    presets["recipes"]["mine"] = GIVEN | change
    with pytest.raises(MergeloomError, match=re.escape(f"recipe 'mine': {message}")):
        check_study(config, presets)


def test_a_batch_that_cannot_be_divided_says_by_what(config):
    recipe = Recipe.read(GIVEN | {"devices": 2, "accumulate": 3})
    with pytest.raises(
        MergeloomError, match="batch_size 8 cannot be divided among 2 devices × 3 mi"
    ):
        recipe.plan(100)


def test_every_shipped_recipe_can_be_read_and_names_what_exists(presets):
    for recipe in presets["recipes"].values():
        read = Recipe.read(recipe)
        for kind, name in parts_of(recipe).items():
            assert set(read.parameters[kind]) <= set(get_part(kind, name).parameters)


def test_epochs_by_task_are_those_of_the_task_and_others_stay(presets):
    by_task, fixed = presets["recipes"]["clip"], presets["recipes"]["fusion_bench"]
    task = {"title": "Textures", "source": "shards", "epochs": 76}
    assert resolve_epochs(by_task, "clip", task, "DTD") == by_task | {"epochs": 76}
    assert resolve_epochs(fixed, "fusion_bench", task, "DTD") == fixed
    check(task, schema_named(CONFIG / "schema", "tasks"), "DTD")


def test_a_task_without_epochs_is_named_with_the_remedy(presets):
    with pytest.raises(
        MergeloomError,
        match=r"recipe 'clip' takes its epochs.*task 'digits' names none: add `epochs`",
    ):
        resolve_epochs(presets["recipes"]["clip"], "clip", presets["tasks"]["digits"], "digits")


def test_pretraining_on_several_tasks_has_no_task_to_take_epochs_from(config, presets):
    presets["encoders"]["ViT-Nano"]["weights"]["pretrain"]["recipe"] = "clip"
    with pytest.raises(MergeloomError, match="encoder 'ViT-Nano': the recipe 'clip' takes its epo"):
        check_study(config, presets)


def test_pretraining_on_several_tasks_balances_no_classes(config, presets):
    presets["recipes"]["nano_pretraining"]["balancing"] = "none"
    check_study(config, presets)
    presets["recipes"]["nano_pretraining"]["balancing"] = "sampler"
    with pytest.raises(
        MergeloomError, match="encoder 'ViT-Nano': the recipe 'nano_pretraining' balances the clas"
    ):
        check_study(config, presets)


def test_a_recipe_balances_in_one_of_three_ways():
    schema = schema_named(CONFIG / "schema", "recipes")
    assert Recipe.read(GIVEN).balancing == "none"
    for balancing in ("none", "undersample", "sampler"):
        check(GIVEN | {"balancing": balancing}, schema, "mine")
        assert Recipe.read(GIVEN | {"balancing": balancing}).balancing == balancing
    with pytest.raises(MergeloomError, match="mine: balancing: 'oversample' is not one of"):
        check(GIVEN | {"balancing": "oversample"}, schema, "mine")
    with pytest.raises(MergeloomError, match="unknown balancing 'oversample'; there is: none, un"):
        Recipe.read(GIVEN | {"balancing": "oversample"})


@pytest.mark.parametrize("epochs", ["tasks", 0, -1])
def test_epochs_are_a_number_or_task(epochs):
    schema = schema_named(CONFIG / "schema", "recipes")
    recipe = {k: v for k, v in GIVEN.items() if k != "steps"} | {"epochs": epochs}
    with pytest.raises(MergeloomError, match="epochs"):
        check(recipe, schema, "mine")
    check(recipe | {"epochs": "task"}, schema, "mine")
