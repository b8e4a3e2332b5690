"""Sweeps of training conditions: what they expand into, and what is wrong with one."""

import copy
from pathlib import Path

import pytest

from mergeloom.config.conditions import (
    Collection,
    changed,
    check_selection,
    collections,
    conditions_of,
    expand,
)
from mergeloom.config.presets import check, load_presets, read_yaml, schema_named
from mergeloom.errors import MergeloomError
from mergeloom.training.selection import selected_epoch

CONFIG = Path(__file__).parents[2] / "config"
RECIPES = schema_named(CONFIG / "schema", "recipes")
RECIPE = {
    "batch_size": 32,
    "epochs": 4,
    "lr": 1e-4,
    "weight_decay": 0.0,
    "warmup_steps": 0,
    "clip": None,
}
SWEEP = {
    "encoder": "tiny",
    "benchmark": "tiny",
    "recipe": "plain",
    "seeds": [0, 3],
    "selections": ["last", "max_fim"],
    "log_trace": {"mode": "fisher", "examples": 10, "sampling": "shuffled"},
    "mergers": ["ties"],
}


def presets(**sweep):
    return {
        "recipes": {"plain": dict(RECIPE)},
        "experts": {"finetuned": {}},
        "conditions": {"study": SWEEP | sweep},
    }


def names(**sweep):
    return list(conditions_of("study", SWEEP | sweep, RECIPE))


def test_one_at_a_time_changes_one_key_and_leaves_the_others():
    found = conditions_of("s", {"vary": {"batch_size": [8, 128], "lr": [5e-5]}}, RECIPE)
    assert found == {
        "base": {},
        "batch_size-8": {"batch_size": 8},
        "batch_size-128": {"batch_size": 128},
        "lr-5e-5": {"lr": 5e-5},
    }


def test_a_full_cross_has_every_combination_once():
    assert names(cross={"batch_size": [8, 32], "lr": [1e-4, 5e-4]}) == [
        "batch_size-8", "batch_size-8.lr-0.0005", "base", "lr-0.0005",
    ]  # fmt: skip


def test_what_is_crossed_is_crossed_with_the_base_and_with_all_that_varies():
    assert names(vary={"batch_size": [8]}, cross={"precision": ["auto", "16-mixed"]}) == [
        "base", "precision-16-mixed", "batch_size-8", "batch_size-8.precision-16-mixed",
    ]  # fmt: skip


def test_a_value_that_is_the_recipes_own_is_no_condition_of_its_own():
    assert names(vary={"batch_size": [32, 8], "accumulate": [1]}) == ["base", "batch_size-8"]


def test_several_keys_change_at_once_under_a_name():
    found = conditions_of("s", {"named": {"gentle": {"batch_size": 8, "lr": 1e-5}}}, RECIPE)
    assert found["gentle"] == {"batch_size": 8, "lr": 1e-5}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (5e-5, "5e-5"),
        (1e-10, "1e-10"),
        (5e-4, "0.0005"),
        (1e7, "1e7"),
        (None, "null"),
        ([0.9, 1], "0.9_1"),
    ],
)
def test_values_stand_in_names_as_people_write_them(value, text):
    assert list(conditions_of("s", {"vary": {"x": [value]}}, RECIPE)) == ["base", f"x-{text}"]


def test_a_budget_in_steps_takes_the_place_of_epochs_and_back():
    assert "epochs" not in changed(RECIPE, {"steps": 100})
    assert "steps" not in changed({**RECIPE, "steps": 5}, {"epochs": 2})


def test_the_number_of_runs_is_recipes_times_seeds_and_selections_add_none():
    expanded = expand(presets(vary={"batch_size": [8, 16]}), RECIPES)
    runs = [name for name, preset in expanded["experts"].items() if "run" not in preset]
    assert len(runs) == 1 + 3 * 2  # `finetuned`, three conditions, two seeds
    assert len(expanded["experts"]) == len(runs) + 6
    assert expanded["recipes"]["study.batch_size-8"] == RECIPE | {"batch_size": 8}


def test_collections_say_of_which_run_condition_selection_and_seed_they_are():
    expanded = expand(presets(), RECIPES)
    assert collections("study", expanded) == [
        Collection("study.base.seed0", "study.base.seed0", "base", "last", 0),
        Collection("study.base.seed3", "study.base.seed3", "base", "last", 3),
        Collection("study.base.seed0.max_fim", "study.base.seed0", "base", "max_fim", 0),
        Collection("study.base.seed3.max_fim", "study.base.seed3", "base", "max_fim", 3),
    ]
    for collection in collections("study", expanded):
        assert expanded["experts"][collection.experts]["seed"] == collection.seed
        assert expanded["experts"][collection.experts]["recipe"] == "study.base"


def test_a_sweep_that_does_not_exist_is_told_which_do():
    with pytest.raises(
        MergeloomError, match="unknown sweep of conditions 'other'; config has: study"
    ):
        collections("other", expand(presets(), RECIPES))


def test_a_selection_whose_metric_is_not_recorded_is_told_so():
    given = presets() | {"experts": {"mine": {"selections": ["max_fim"]}}}
    with pytest.raises(MergeloomError, match=r"experts 'mine': .* max_fim .* add log_trace"):
        expand(given, RECIPES)


def test_a_selection_that_a_run_does_not_keep_is_told_so():
    experts = {"finetuned": {"selections": ["max_val"]}, "finetuned.max_val": {}}
    check_selection("finetuned.max_val", experts)
    check_selection("nonsense", experts)
    with pytest.raises(MergeloomError, match=r"'finetuned' keep no max_fim \(they keep: last, max"):
        check_selection("finetuned.max_fim", experts)
    for elsewhere in ({"import": {"path": "x"}}, {"source": "files"}):
        with pytest.raises(
            MergeloomError, match=r"'theirs' are not trained here, and have no max_v"
        ):
            check_selection("theirs.max_val", {"theirs": elsewhere})


def test_a_condition_named_twice_with_different_values_is_refused():
    with pytest.raises(MergeloomError, match=r"'base' is named twice with different values"):
        conditions_of("study", SWEEP | {"named": {"base": {"lr": 1.0}}}, RECIPE)
    with pytest.raises(MergeloomError, match=r"study.*'lr-0.123457' is named twice"):
        conditions_of("study", SWEEP | {"vary": {"lr": [0.12345678, 0.12345679]}}, RECIPE)


def test_a_name_that_stands_twice_in_a_file_is_refused(tmp_path):
    file = tmp_path / "conditions.yaml"
    file.write_text("study:\n  named:\n    a: {lr: 1}\n    a: {lr: 2}\n")
    with pytest.raises(
        MergeloomError, match=r"(?s)conditions.yaml.*the key 'a' stands twice.*line 4"
    ):
        read_yaml(file)


def test_a_recipe_under_two_names_is_refused_since_it_would_be_trained_twice():
    with pytest.raises(MergeloomError, match=r"'batch_size-8' and 'small' are one recipe"):
        names(vary={"batch_size": [8]}, named={"small": {"batch_size": 8}})
    with pytest.raises(MergeloomError, match=r"'base' and 'same' are one recipe"):
        names(named={"same": {"batch_size": 32}})


def test_what_is_crossed_can_not_be_varied_since_it_is_set_in_every_condition():
    with pytest.raises(MergeloomError, match=r"conditions 'study': lr is crossed, .*leave it out"):
        names(vary={"lr": [5e-5]}, cross={"lr": [1e-4, 5e-4]})
    with pytest.raises(MergeloomError, match=r"conditions 'study': lr is crossed"):
        names(named={"gentle": {"batch_size": 8, "lr": 1e-5}}, cross={"lr": [1e-4, 5e-4]})


def test_keys_of_a_mapping_that_is_merged_in_may_stand_again(tmp_path):
    file = tmp_path / "recipes.yaml"
    file.write_text(
        "of:\n  b: &b {<<: &a {lr: 1, steps: 2}, lr: 2}\nc: {<<: *b, lr: 3}\nd: {<<: *a}\n"
    )
    assert read_yaml(file) == {
        "of": {"b": {"lr": 2, "steps": 2}},
        "c": {"lr": 3, "steps": 2},
        "d": {"lr": 1, "steps": 2},
    }


def test_a_key_that_is_no_text_is_no_yaml_of_ours(tmp_path):
    file = tmp_path / "recipes.yaml"
    file.write_text("? [1, 2]\n: 3\n")
    with pytest.raises(MergeloomError, match=r"(?s)recipes.yaml: not valid YAML.*unhashable key"):
        read_yaml(file)


def test_a_condition_that_makes_no_recipe_is_named():
    with pytest.raises(MergeloomError, match=r"conditions 'study': batch_size-0.* minimum"):
        expand(presets(vary={"batch_size": [0]}), RECIPES)
    with pytest.raises(MergeloomError, match=r"conditions 'study': bs-8: unknown key 'bs'"):
        expand(presets(vary={"bs": [8]}), RECIPES)
    with pytest.raises(MergeloomError, match=r"conditions 'study': unknown recipe 'other'"):
        expand(presets(recipe="other"), RECIPES)


def test_names_that_are_taken_are_named():
    given = copy.deepcopy(presets())
    given["experts"]["study.base.seed0"] = {}
    with pytest.raises(MergeloomError, match=r"makes the experts 'study.base.seed0', which exist"):
        expand(given, RECIPES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": [0, 1, 0]}, "seeds: repeats 0; give each value once"),
        ({"selections": ["best"]}, "selections.0: 'best' is not one of"),
        ({"log_trace": {"mode": "fisher", "examples": 9}}, "'sampling' is a required property"),
        (
            {"log_trace": {"mode": "course", "examples": 9, "sampling": "shuffled"}},
            "unknown key 'sampling'",
        ),
        ({"log_trace": {"mode": "fsher", "examples": 9, "sampling": "shuffled"}}, "'fsher' is not"),
    ],
)
def test_what_is_wrong_with_a_sweep_is_said(change, message):
    with pytest.raises(MergeloomError, match=message):
        check(SWEEP | change, schema_named(CONFIG / "schema", "conditions"), "study")


def test_the_sweep_of_the_published_study_has_its_conditions():
    folders = {k: load_presets(k, [CONFIG], schema_named(CONFIG / "schema", k))
               for k in ("recipes", "experts", "conditions")}  # fmt: skip
    expanded = expand(folders, RECIPES)
    seeds = len(folders["conditions"]["polito"]["seeds"])
    conditions = {c.condition for c in collections("polito", expanded)}
    assert {"base", "batch_size-8", "batch_size-128", "lr-1e-5", "weight_decay-0.1"} < conditions
    runs = {c.run for c in collections("polito", expanded)}
    assert len(runs) == len(conditions) * seeds


# Selections


ROWS = [
    {"epoch": e, "val_accuracy": a, "log_trace": t}
    for e, a, t in [(0, 0.9, 9.0), (1, 0.5, 2.0), (2, 0.7, 3.0), (3, 0.7, 1.0), (4, 0.6, 3.0)]
]


def test_a_selection_is_the_first_of_the_best_epochs_of_training():
    assert selected_epoch(ROWS, "last", "run") == 4
    assert selected_epoch(ROWS, "max_val", "run") == 2
    assert selected_epoch(ROWS, "max_fim", "run") == 2


def test_a_selection_of_what_was_not_recorded_names_the_run_and_the_column():
    rows = [{"epoch": row["epoch"], "val_accuracy": float("nan")} for row in ROWS]
    with pytest.raises(MergeloomError, match=r"^a/run: max_fim .* largest log_trace, .* add log_"):
        selected_epoch(rows, "max_fim", "a/run")
    with pytest.raises(MergeloomError, match=r"^a/run: max_val .* largest val_accuracy"):
        selected_epoch(rows, "max_val", "a/run")
    with pytest.raises(MergeloomError, match=r"unknown selection 'best'; there is: last, max_val"):
        selected_epoch(rows, "best", "a/run")
    with pytest.raises(MergeloomError, match="holds no epoch of training"):
        selected_epoch(rows[:1], "last", "a/run")
