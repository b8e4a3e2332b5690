"""Presets of adapters: what says nothing, or cannot be, is refused before anything runs."""

import pytest

from mergeloom.config.adapters import check_adapter, check_serves, functions_of
from mergeloom.errors import MergeloomError

PRESETS = {"extractors": {"resnet": {}}, "mergers": {}}
TRAINED = {"adaptation": {"split": "test", "steps": 10}, "evaluation": {"granularity": "sample"}}
LOW_RANK = {"granularity": "sample", "rank": 4}


def check(method, **given):
    check_adapter("mine", {**TRAINED, "method": method, **given}, PRESETS)


@pytest.mark.parametrize("method", ["gate", "adamerging", "wemoe"])
def test_what_combines_whole_task_vectors_has_a_low_rank_form(method):
    check(method, evaluation=LOW_RANK)


@pytest.mark.parametrize(
    "method", ["e_wemoe", "concrete_task_arithmetic", "concrete_adamerging", "smile"]
)
def test_no_other_has_a_low_rank_form(method):
    given = {"adaptation": {}} if method == "smile" else {}
    if method == "concrete_adamerging":
        given = {"parameters": {"mask_steps": 1}}
    check(method, **given)
    with pytest.raises(MergeloomError, match=f"'mine': {method} has no low-rank form: leave eval"):
        check(method, evaluation=LOW_RANK, **given)


@pytest.mark.parametrize(
    ("method", "given", "message"),
    [
        (
            "concrete_adamerging", {"parameters": {"mask_steps": 10}},
            "adaptation.steps is 10, and the first 10 train the mask",
        ),
        ("concrete_adamerging", {}, "the first 1000 train the mask"),
        ("adamerging", {"extractor": "resnet"}, "adamerging reads no features: leave out the extr"),
        ("gate", {"adaptation": {"split": "test"}}, "gate is trained: say `adaptation:"),
        ("smile", {}, "smile is not trained, and makes no use of adaptation.split, "
                      "adaptation.steps: leave that out"),
        (
            "task_classifier", {"adaptation": {"split": "test", "lr": 0.1}},
            "task_classifier is not trained, and makes no use of adaptation.lr",
        ),
        ("task_classifier", {"adaptation": {}}, "is fitted to features: say"),
    ],
)  # fmt: skip
def test_what_a_method_makes_no_use_of_is_refused(method, given, message):
    with pytest.raises(MergeloomError, match=message):
        check(method, **given)


def test_what_it_uses_is_left_alone():
    check("concrete_adamerging", parameters={"mask_steps": 9})
    check("gate", extractor="resnet")
    check("smile", adaptation={})
    check("task_classifier", adaptation={"split": "val"})


@pytest.mark.parametrize("method", ["wemoe", "e_wemoe"])
def test_routers_of_tokens_serve_no_texts(method):
    check_serves("mine", {"method": method}, {"image": {}})
    with pytest.raises(MergeloomError, match=f"'mine': {method} serves encoders of images"):
        check_serves("mine", {"method": method}, {"text": {}})
    check_serves("mine", {"method": "smile"}, {"text": {}})


def test_a_preset_without_optimizer_and_schedule_has_adam_at_a_constant_rate():
    assert functions_of({"method": "gate"}) == {
        "adapter": "gate", "optimizer": "adam", "schedule": "constant"
    }  # fmt: skip
