"""Studies of adapters: what is wrong with one is said before anything runs."""

import copy
import re
from pathlib import Path

import pytest
import yaml

from mergeloom.config.adaptive import check_adaptive, entry_of
from mergeloom.config.presets import KINDS, check, load_presets, schema_named
from mergeloom.config.study import check_target
from mergeloom.errors import MergeloomError

CONFIG = Path(__file__).parents[2] / "config"
SCHEMA = schema_named(CONFIG / "schema", "adaptive")
ENTRY = {
    "encoder": "small",
    "experts": "finetuned",
    "benchmark": "both",
    "mergers": ["zeroshot", "ties"],
    "adapters": ["gate", "smile"],
    "corruptions": {"names": ["motion_blur2"], "adapters": ["gate"], "mergers": ["ties"]},
    "transfers": {"from": "large", "adapters": ["gate"]},
}
ADAPTERS = {
    "gate": {"method": "gate"},
    "own": {"method": "gate", "extractor": "clip"},
    "by_layer": {"method": "gate", "parameters": {"per": "layer"}},
    "by_depth": {"method": "gate", "parameters": {"per": "layer", "transfer": "by_relative_depth"}},
    "adamerging": {"method": "adamerging"},
    "smile": {"method": "smile"},
    "wemoe": {"method": "wemoe"},
}


def presets(*entries, study="study"):
    return {
        "encoders": {
            "small": {"image": {}, "extractor": "clip"},
            "large": {"image": {}, "extractor": "clip"},
            "plain": {"image": {}, "extractor": "resnet"},
            "text": {"text": {}},
        },
        "extractors": {"clip": {"encoder": "small"}, "resnet": {"encoder": "large"}},
        "experts": {"finetuned": {}},
        "benchmarks": {"both": ["a", "b"], "texts": ["t"]},
        "tasks": {"a": {}, "b": {}, "t": {"prompt": "{x}"}},
        "mergers": {"zeroshot": {}, "ties": {}},
        "adapters": ADAPTERS,
        "adaptive": {
            study: {
                "studies": [
                    {k: v for k, v in copy.deepcopy(ENTRY | entry).items() if v is not None}
                    for entry in entries
                ]
            }
        },
    }


def without(*keys):
    return {key: value for key, value in ENTRY.items() if key not in keys}


def test_a_study_that_can_be_made_is_left_alone():
    check_adaptive(
        presets(
            {},
            {"encoder": "large", "transfers": {"from": "small", "adapters": ["gate", "by_depth"]}},
        )
    )
    check_adaptive(presets({"transfers": {"from": "plain", "adapters": ["own"]}}))
    text = {"encoder": "text", "benchmark": "texts", "corruptions": None, "transfers": None}
    check_adaptive(presets(text))
    check({"studies": [ENTRY]}, SCHEMA, "study")
    check({"studies": [without("corruptions", "transfers")]}, SCHEMA, "study")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder": "tiny"}, "unknown encoder 'tiny'; config has: large, plain, small, text"),
        ({"experts": "tuned"}, "unknown expert 'tuned'"),
        ({"benchmark": "all"}, "unknown benchmark 'all'"),
        ({"mergers": ["tie"]}, "unknown merger 'tie'"),
        ({"adapters": ["gates"]}, "unknown adapter 'gates'; config has: adamerging, by_depth"),
        ({"transfers": {"from": "big", "adapters": ["gate"]}}, "unknown encoder 'big'"),
        ({"transfers": {"from": "large", "adapters": ["dawe"]}}, "unknown adapter 'dawe'"),
        ({"transfers": {"from": "small", "adapters": ["gate"]}}, "from small itself"),
        (
            {"transfers": {"from": "text", "adapters": ["gate"]}},
            "transfers.from: the encoder 'text' reads texts, but 'a', 'b' are tasks of images",
        ),
        (
            {"transfers": {"from": "plain", "adapters": ["gate"]}},
            "transfers.adapters has gate, which reads features of resnet on plain and of clip on "
            "small: give the adapter an `extractor` of its own",
        ),
        (
            {"transfers": {"from": "large", "adapters": ["wemoe"]}},
            "transfers.adapters has wemoe, but the state of wemoe belongs to the layers of large: "
            "leave it out",
        ),
        (
            {"transfers": {"from": "large", "adapters": ["smile"]}},
            "but the state of smile belongs to the layers",
        ),
        (
            {"transfers": {"from": "large", "adapters": ["by_layer"]}},
            "by_layer, which has coefficients of each layer of large: take one with the parameter "
            "`transfer: by_relative_depth`",
        ),
        (
            {"transfers": {"from": "large", "adapters": ["adamerging"]}},
            "adamerging, which has coefficients of each layer",
        ),
        (
            {"encoder": "text", "benchmark": "texts", "adapters": ["wemoe"]},
            "adapter 'wemoe': wemoe serves encoders of images, and this one reads text",
        ),
        ({"corruptions": ENTRY["corruptions"] | {"names": ["fog2"]}}, "unknown corruption 'fog'"),
        ({"corruptions": ENTRY["corruptions"] | {"names": ["spatter"]}}, "severity is missing"),
        (
            {"adapters": ["smile"]},
            "corruptions.adapters has gate, which `adapters` lacks",
        ),
        ({"mergers": []}, "corruptions.mergers has ties, which `mergers` lacks"),
        (
            {"encoder": "text", "benchmark": "texts"},
            "`corruptions` are of images, and text reads text",
        ),
        ({"encoder": "text"}, "the encoder 'text' reads texts, but 'a', 'b' are tasks of images"),
    ],
)
def test_what_is_wrong_with_a_study_is_said_with_its_entry(change, message):
    with pytest.raises(MergeloomError, match=message) as error:
        check_adaptive(presets(change))
    assert str(error.value).startswith("adaptive 'study': ")
    place = ENTRY | change
    assert f"{place['encoder']}/{place['experts']}/{place['benchmark']}" in str(error.value)


def test_two_entries_of_one_place_would_write_the_same_files():
    with pytest.raises(MergeloomError, match=r"small/finetuned/both stands twice"):
        check_adaptive(presets({}, {"adapters": ["gate"]}))


@pytest.mark.parametrize("name", ["corrupted", "from", "on"])
def test_a_study_is_not_called_after_a_folder_beside_it(name):
    with pytest.raises(MergeloomError, match="rename the study"):
        check_adaptive(presets({}, study=name))


def test_a_name_that_makes_something_else_is_no_target():
    check_target("adaptive", "study", ["all", "tables"])
    for kind in ("adaptive", "conditions"):
        with pytest.raises(MergeloomError, match=rf"{kind} 'tables': `snakemake tables` makes so"):
            check_target(kind, "tables", ["all", "tables"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"adapters": []}, r"studies\.0\.adapters: .* should be non-empty"),
        ({"adapters": ["gate", "gate"]}, "adapters: repeats gate"),
        ({"corruption": []}, "unknown key 'corruption'"),
        ({"transfers": {"adapters": ["gate"]}}, "'from' is a required property"),
    ],
)
def test_what_a_schema_refuses_is_said(change, message):
    with pytest.raises(MergeloomError, match=message):
        check({"studies": [ENTRY | change]}, SCHEMA, "study")


def test_the_entry_of_a_place_is_found_and_others_are_listed():
    given = presets({}, {"encoder": "large"})
    assert entry_of("study", given, "large", "finetuned", "both")["encoder"] == "large"
    with pytest.raises(
        MergeloomError,
        match=r"no entry text/finetuned/both; it has: small/finetuned/both, large/finetuned/both",
    ):
        entry_of("study", given, "text", "finetuned", "both")
    with pytest.raises(MergeloomError, match="unknown study of adapters 'other'"):
        entry_of("other", given, "small", "finetuned", "both")


def test_the_study_that_is_explained_can_be_made():
    """Its transfer, too: a gate reads the features of one extractor on both encoders."""
    blocks = re.findall(r"```yaml\n(.*?)```", (CONFIG / "README.md").read_text(), re.DOTALL)
    (given,) = [yaml.safe_load(block) for block in blocks if block.startswith("my_study:")]
    check(given["my_study"], SCHEMA, "README.md")
    known = {k: load_presets(k, [CONFIG], schema_named(CONFIG / "schema", k)) for k in KINDS}
    check_adaptive(known | {"adaptive": given})
    encoders = known["encoders"]
    for entry in given["my_study"]["studies"]:
        for name in entry.get("transfers", {"adapters": []})["adapters"]:
            assert "extractor" not in known["adapters"][name]
            source = encoders[entry["transfers"]["from"]]
            assert encoders[entry["encoder"]]["extractor"] == source["extractor"]
