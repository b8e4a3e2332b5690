"""The configuration and its presets: what is wrong is said once, with what exists."""

import copy
from pathlib import Path

import pytest
import yaml
from snakemake.utils import update_config

from mergeloom.config.extractors import choose_extractor
from mergeloom.config.presets import KINDS, check, choose, load_presets, schema_named
from mergeloom.config.study import check_study, resolve_alpha
from mergeloom.errors import MergeloomError
from mergeloom.io.roots import logical, physical, resolve_roots

REPOSITORY = Path(__file__).parents[2]
CONFIG = REPOSITORY / "config"


@pytest.fixture(scope="module")
def presets():
    return {k: load_presets(k, [CONFIG], schema_named(CONFIG / "schema", k)) for k in KINDS}


@pytest.fixture
def config():
    return yaml.safe_load((CONFIG / "config.yaml").read_text())


@pytest.fixture
def changed(presets):
    return copy.deepcopy(presets)


def test_the_shipped_configuration_and_presets_are_valid(config, presets):
    check(config, schema_named(CONFIG / "schema", "config"), "config")
    check_study(config, presets)


@pytest.mark.parametrize("suite", sorted(p.name for p in (CONFIG / "suites").glob("*.yaml")))
def test_every_suite_is_valid_on_top_of_the_default(suite, config, presets):
    # As snakemake lays it over: mappings are merged, lists replaced.
    update_config(config, yaml.safe_load((CONFIG / "suites" / suite).read_text()))
    check(config, schema_named(CONFIG / "schema", "config"), suite)
    check_study(config, presets)


def test_an_unknown_key_names_itself_and_the_known_ones(config):
    config["svd"]["rnak"] = 3
    with pytest.raises(
        MergeloomError, match=r"config: svd: unknown key 'rnak'; known keys: fraction"
    ):
        check(config, schema_named(CONFIG / "schema", "config"), "config")


@pytest.mark.parametrize("kind", ["encoders", "experts", "benchmarks", "mergers"])
def test_an_unknown_name_in_the_configuration_lists_what_exists(kind, config, presets):
    config[kind] = ["nonsense"]
    known = sorted(presets[kind])[0]
    with pytest.raises(MergeloomError, match=rf"unknown {kind[:-1]}.* 'nonsense'; .*{known}"):
        check_study(config, presets)


def test_an_unknown_task_that_may_overlap_is_named(config, presets):
    config["allow_overlap"] = ["nonsense"]
    with pytest.raises(MergeloomError, match="unknown task 'nonsense'; config has: CIFAR10"):
        check_study(config, presets)


def test_the_base_is_no_merger_of_a_sweep_that_it_stands_beside(config, changed):
    changed["conditions"]["polito"]["mergers"] = ["task_addition", "zeroshot"]
    with pytest.raises(
        MergeloomError, match="conditions 'polito': 'zeroshot' is the same under al"
    ):
        check_study(config, changed)


def test_a_benchmark_with_an_unknown_task_is_named(config, changed):
    changed["benchmarks"]["demo8"].append("mnits")
    with pytest.raises(MergeloomError, match=r"benchmark 'demo8': unknown task 'mnits'; .*mnist"):
        check_study(config, changed)


def test_a_merger_with_an_unknown_method_lists_the_methods(config, changed):
    changed["mergers"]["tsv"]["method"] = "tvs"
    with pytest.raises(MergeloomError, match=r"merger 'tsv': unknown merger 'tvs'; .*isotropic"):
        check_study(config, changed)


def test_a_merger_with_an_unknown_parameter_lists_the_parameters(config, changed):
    changed["mergers"]["tsv"]["parameters"] = {"rnak": 2}
    with pytest.raises(MergeloomError, match=r"merger 'tsv': .*tsv has no parameter rnak"):
        check_study(config, changed)


def test_an_unknown_family_renderer_and_recipe_are_named(config, changed):
    for place, value, message in (
        (changed["encoders"]["ViT-Nano"], {"family": "cilp"}, "unknown family 'cilp'.*clip"),
        (changed["tasks"]["digits"]["source"], {"rendered": "x"}, "unknown renderer 'x'.*shapes"),
        (changed["encoders"]["ViT-Nano"], {"recipe": "nao"}, "unknown recipe 'nao'.*nano"),
    ):
        before = dict(place)
        place.update(value)
        with pytest.raises(MergeloomError, match=message):
            check_study(config, changed)
        place.update(before)


@pytest.mark.parametrize(
    ("name", "family", "message"),
    [
        ("ViT-Nano", "t5", "is of text: give the encoder `text` instead of `image`"),
        ("T5-Nano", "clip", "is of images: give the encoder `image` instead of `text`"),
    ],
)
def test_a_family_of_another_modality_than_the_encoders_is_refused(
    name, family, message, config, changed
):
    changed["encoders"][name]["family"] = family
    with pytest.raises(MergeloomError, match=f"'{name}': the family '{family}' {message}"):
        check_study(config, changed)


def test_an_extractor_of_an_unknown_encoder_is_named(config, changed):
    changed["extractors"]["nano"]["encoder"] = "ViT-Nono"
    with pytest.raises(MergeloomError, match="extractor 'nano': unknown encoder 'ViT-Nono'"):
        check_study(config, changed)


def test_an_encoder_takes_no_unknown_extractor_and_none_of_another_modality(config, changed):
    changed["encoders"]["ViT-Nano"]["extractor"] = "resnet81"
    with pytest.raises(MergeloomError, match=r"encoder 'ViT-Nano': unknown extractor 'resnet81'"):
        check_study(config, changed)
    changed["encoders"]["ViT-Nano"]["extractor"] = "minilm_offline"
    with pytest.raises(MergeloomError, match=r"reads text, but the encoder 'ViT-Nano' reads imag"
                       r".*extractors of images: nano, .*resnet50$"):  # fmt: skip
        check_study(config, changed)


def test_an_adapter_takes_its_own_extractor_or_its_encoders(presets):
    assert choose_extractor({}, "ViT-Nano", presets) == "nano"
    assert choose_extractor({"extractor": "resnet18"}, "ViT-Nano", presets) == "resnet18"
    with pytest.raises(MergeloomError, match="'msmarco_minilm_l12' reads text"):
        choose_extractor({"extractor": "msmarco_minilm_l12"}, "ViT-Nano", presets)
    without = {**presets, "encoders": {"ViT-Own": {**presets["encoders"]["ViT-Nano"]}}}
    del without["encoders"]["ViT-Own"]["extractor"]
    with pytest.raises(MergeloomError, match=r"'ViT-Own' names no extractor.*there is: minilm_off"):
        choose_extractor({}, "ViT-Own", without)


@pytest.mark.parametrize(
    ("preset", "message"),
    [
        ({"transformers": "microsoft/resnet-18"}, "'image' is a required property"),
        ({"package": "minilm", "image": {}}, "unknown key 'image'; known keys: package"),
        ({"torchvision": "resnet18"}, "expected exactly one of: keys encoder; keys timm, image"),
    ],
)
def test_an_extractor_of_no_known_kind_is_told_the_kinds(preset, message):
    with pytest.raises(MergeloomError, match=message):
        check(preset, schema_named(CONFIG / "schema", "extractors"), "mine")


TEXT = {"title": "Mine", "source": "tables", "prompt": "{a}", "answers": ["no", "yes"]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": "Is it {a b}?"}, r"task 'mine': prompt .* 'a b' is no name of a column"),
        ({"answers": {"number": "{:.0f}", "start": 0, "stop": 1, "step": 0.1}}, "writes 0 for two"),
        ({"metric": "spearman"}, "task 'mine': metric 'spearman' is of numbers, but `answers` are"),
        ({"source": {"rendered": "shapes"}}, "unknown text_renderer 'shapes'; .*grammar"),
        (
            {"source": {"rendered": "grammar"}},
            "task 'mine': the prompt names 'a', but the renderer 'grammar' writes: sentence",
        ),
        (
            {"source": {"rendered": "sentiment"}, "prompt": "{review}"},
            "task 'mine': `answers` lack 'negative', 'positive', which the renderer 'sentiment'",
        ),
    ],
)
def test_a_task_of_texts_that_contradicts_itself_is_named(change, message, config, changed):
    changed["tasks"]["mine"] = TEXT | change
    with pytest.raises(MergeloomError, match=message):
        check_study(config, changed)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (
            ["digits", "grammar"],
            r"benchmark 'mixed': mixes tasks of images \(digits\) and of texts \(grammar\)",
        ),
        (["grammar", "primer"], "benchmark 'mixed': the task 'primer' has `answers: any`"),
    ],
)
def test_a_benchmark_that_no_encoder_reads_is_refused(tasks, message, config, changed):
    changed["benchmarks"]["mixed"] = tasks
    with pytest.raises(MergeloomError, match=message):
        check_study(config, changed)


def test_an_encoder_and_what_it_cannot_read_are_named(config, changed):
    config["benchmarks"] = ["text4"]
    with pytest.raises(
        MergeloomError, match=r"'ViT-Nano' reads images, but 'grammar', .* are tasks of texts: take"
    ):
        check_study(config, changed)
    config["benchmarks"] = ["demo8"]
    changed["encoders"]["T5-Nano"]["weights"]["pretrain"]["tasks"] = ["primer", "digits"]
    with pytest.raises(
        MergeloomError, match="encoder 'T5-Nano' reads texts, but 'digits' is a task of images"
    ):
        check_study(config, changed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classnames": ["a", "b"]}, "birds: unknown key 'classnames'; known keys: allow_empty"),
        ({"prompt": None}, "birds: prompt: None is not of type 'string'"),
        ({"metric": "f1"}, "birds: metric: 'f1' is not one of"),
        ({"source": {"files": {"train": ["a.csv"]}}}, "birds: source.files: 'test' is a required"),
        (
            {"source": "shards"},
            "birds: source: is 'shards', expected exactly one of: 'tables'; key",
        ),
    ],
)
def test_a_task_of_texts_is_told_what_is_wrong_in_it(change, message):
    with pytest.raises(MergeloomError, match=message):
        check(TEXT | change, schema_named(CONFIG / "schema", "tasks"), "birds")
    lacking = {k: v for k, v in TEXT.items() if k != "prompt"}
    with pytest.raises(MergeloomError, match="birds: 'prompt' is a required property"):
        check(lacking, schema_named(CONFIG / "schema", "tasks"), "birds")


def test_a_preset_defined_twice_names_both_places(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "benchmarks.yaml").write_text("mine: [digits]\n")
    with pytest.raises(MergeloomError, match=r"'mine' is defined in .*a.* and in .*b"):
        load_presets(
            "benchmarks",
            [tmp_path / "a", tmp_path / "b"],
            schema_named(CONFIG / "schema", "benchmarks"),
        )


def test_a_preset_with_a_wrong_value_names_file_and_place(tmp_path):
    (tmp_path / "recipes.yaml").write_text("mine: {batch_size: 0, lr: 1, weight_decay: 0, "
                                           "warmup_steps: 0, clip: 1, steps: 3}\n")  # fmt: skip
    with pytest.raises(MergeloomError, match=r"recipes.yaml: mine: batch_size: 0 is less than"):
        load_presets("recipes", [tmp_path], schema_named(CONFIG / "schema", "recipes"))


def test_yaml_that_does_not_parse_names_file_and_line(tmp_path):
    (tmp_path / "mergers.yaml").write_text("a: [1,\nb: 2\n")
    with pytest.raises(MergeloomError, match=r"mergers.yaml: not valid YAML(.|\n)*line"):
        load_presets("mergers", [tmp_path], schema_named(CONFIG / "schema", "mergers"))


def test_choose_says_what_exists():
    with pytest.raises(MergeloomError, match="unknown task 'c'; config has: a, b"):
        choose("tasks", {"b": 1, "a": 2}, "c")


def test_of_the_many_names_of_a_sweep_those_most_like_the_wanted_are_said():
    names = {f"study.lr-{lr}.seed{n}": {} for lr in ("1e-4", "1e-5") for n in range(4)}
    with pytest.raises(MergeloomError) as error:
        choose("experts", {"finetuned": {}, **names}, "study.lr-1e-5.seed7")
    listed = str(error.value).removeprefix("unknown expert 'study.lr-1e-5.seed7'; config has: ")
    assert listed.startswith("finetuned, study.… (8, such as study.lr-1e-5.seed")
    assert listed.count("study.lr-1e-5.seed") == 3
    with pytest.raises(MergeloomError, match=r"config has: finetuned, study\.… \(8\)$"):
        choose("experts", {"finetuned": {}, **names}, "fine")


@pytest.mark.parametrize("text", ["1e-4", "5.0e4", "-2e+3"])
def test_a_number_that_yaml_takes_for_text_is_told_how_to_be_written(text, tmp_path):
    (tmp_path / "recipes.yaml").write_text(f"slow: {{lr: {text}}}")
    with pytest.raises(MergeloomError, match=r"slow: lr: .* is text in YAML.* 1\.0e-4$"):
        load_presets("recipes", [tmp_path], {"properties": {"lr": {"type": "number"}}})


def test_alpha_is_fixed_searched_or_from_a_table():
    where = {"encoder": "E", "benchmark": "B"}
    assert resolve_alpha({"method": "tsv", "alpha": 0.5}, **where) == {"how": "fixed", "value": 0.5}
    grid = {"search": {"start": 0.1, "stop": 0.5, "step": 0.1}}
    assert resolve_alpha({"method": "tsv", "alpha": grid}, **where) == {
        "how": "search",
        "grid": [0.1, 0.2, 0.3, 0.4, 0.5],
        "patience": None,
    }
    table = {"table": {"E": {"B": 1.3}}, "source": "a paper"}
    assert resolve_alpha({"method": "tsv", "alpha": table}, **where) == {
        "how": "table",
        "value": 1.3,
        "source": "a paper",
    }


def test_alpha_that_is_not_given_is_the_methods_own():
    chosen = resolve_alpha({"method": "task_arithmetic"}, encoder="E", benchmark="B")
    assert chosen == {"how": "fixed", "value": 0.3}


def test_a_table_without_the_combination_lists_what_it_has():
    merger = {"method": "tsv", "alpha": {"table": {"E": {"N8": 1.0}}, "source": "a paper"}}
    with pytest.raises(MergeloomError, match="no value for E N14; it has: E N8"):
        resolve_alpha(merger, encoder="E", benchmark="N14")


def test_an_empty_grid_is_an_error():
    merger = {"method": "tsv", "alpha": {"search": {"start": 1, "stop": 0, "step": 0.1}}}
    with pytest.raises(MergeloomError, match="no value between 1 and 0"):
        resolve_alpha(merger, encoder="E", benchmark="B")


def test_roots_come_from_the_environment_then_env_file_then_config(tmp_path, monkeypatch):
    for name in ("MODELS_PATH", "DATA_PATH", "RESULTS_PATH", "CACHE_PATH"):
        monkeypatch.delenv(name, raising=False)
    configured = {"models": "m", "data": "d", "results": "r"}
    (tmp_path / ".env").write_text("MODELS_PATH=/from/file\nDATA_PATH=/from/file\n")
    monkeypatch.setenv("DATA_PATH", "/from/environment")
    assert resolve_roots(configured, tmp_path) == {
        "data": "/from/environment",
        "models": "/from/file",
        "results": "r",
        "cache": "cache",
    }


def test_a_logical_name_does_not_depend_on_where_the_root_lies(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for root in ("models", str(tmp_path / "elsewhere")):
        roots = {"models": root, "data": "data"}
        name = logical(f"{root}/ViT/base.safetensors", roots)
        assert name == "models/ViT/base.safetensors"
        assert physical(name, roots) == Path(root, "ViT/base.safetensors")


def test_a_root_within_another_root_is_the_files_own(tmp_path):
    roots = {"data": str(tmp_path), "models": str(tmp_path / "models")}
    assert logical(tmp_path / "models" / "V" / "base.safetensors", roots) == (
        "models/V/base.safetensors"
    )
    assert logical(tmp_path / "task" / "0.tar", roots) == "data/task/0.tar"


@pytest.mark.parametrize("name", ["a/b", "a b", ".hidden", ""])
def test_a_preset_whose_name_cannot_stand_in_a_path_is_refused(name, config, changed):
    changed["benchmarks"][name] = ["digits"]
    with pytest.raises(MergeloomError, match="cannot stand in a path"):
        check_study(config, changed)


def test_a_merger_cannot_take_the_name_of_the_fine_tuned_result(config, changed):
    changed["mergers"]["finetuned"] = {"method": "tsv"}
    with pytest.raises(MergeloomError, match="'finetuned' is the name of"):
        check_study(config, changed)


@pytest.mark.parametrize(
    ("kind", "preset", "message"),
    [
        ("experts", {"import": {"hub": "a/b", "file": "c.pt"}}, "import: 'revision' is a required"),
        ("tasks", {"source": {"hub": "a/b", "revision": "main"}}, "source: 'files' is a required"),
        (
            "tasks",
            {"source": {"folder": "/birds", "split": "train"}},
            "source: unknown key 'split'; known keys: folder",
        ),
        (
            "tasks",
            {"source": {"rendered": "shapes", "train": 1, "val": 0, "test": "all"}},
            "source.test: 'all' is not of type 'integer'",
        ),
    ],
)
def test_a_preset_of_one_of_several_kinds_is_told_what_its_kind_lacks(kind, preset, message):
    words = {"title": "Birds", "classnames": ["a", "b"], "templates": ["{c}"]}
    content = preset | (words if kind == "tasks" else {})
    with pytest.raises(MergeloomError, match=message):
        check(content, schema_named(CONFIG / "schema", kind), "birds")


def test_a_preset_that_could_be_of_two_kinds_is_told_so():
    content = {"title": "Birds", "source": {}, "classnames": ["a", "b"], "templates": ["{c}"]}
    kinds = "'shards'; keys rendered, train, val, test; keys hub, revision, files; keys folder"
    with pytest.raises(
        MergeloomError, match=rf"birds: source: is {{}}, expected exactly one of: {kinds}"
    ):
        check(content, schema_named(CONFIG / "schema", "tasks"), "birds")


@pytest.mark.parametrize("alpha", ["high", [1.0]])
def test_a_value_of_no_kind_is_told_all_kinds(alpha):
    with pytest.raises(MergeloomError, match=r"alpha: is .*, expected exactly one of: number; "):
        check({"method": "tsv", "alpha": alpha}, schema_named(CONFIG / "schema", "mergers"), "m")


def test_keys_that_exclude_each_other_are_named_with_what_there_may_be():
    recipe = {"batch_size": 1, "lr": 1, "weight_decay": 0, "warmup_steps": 0, "clip": 1}
    for more in ({}, {"steps": 3, "epochs": 2}):
        with pytest.raises(
            MergeloomError, match="expected exactly one of: keys steps; keys epochs"
        ):
            check(recipe | more, schema_named(CONFIG / "schema", "recipes"), "mine")
    both = {"import": {"hub": "a/b", "file": "c", "revision": "main", "path": "d"}}
    with pytest.raises(MergeloomError, match="one of: keys hub, file, revision; keys path"):
        check(both, schema_named(CONFIG / "schema", "experts"), "mine")
