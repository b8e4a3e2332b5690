"""The DAG built from nothing: results, provenance, what re-runs after a change, damage, kills."""

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import time

import pytest
from jsonschema import Draft202012Validator
from PIL import Image
from sandbox import RESULTS, TINY, copy_workflow

MERGERS = ("zeroshot", "weight_average", "task_arithmetic", "tsv", "isotropic")
FIGURES = ("radar", "averages", "alpha_curves", "task_vector_cosine", "singular_values",
           "learning_curves")  # fmt: skip
MODELS = "models/ViT-Tiny"


@pytest.mark.parametrize("merger", [*MERGERS, "finetuned"])
def test_every_result_fits_the_schema_and_names_itself(built_once, merger):
    schema = json.loads(built_once.read("config/schema/result.schema.json"))
    result = json.loads(built_once.read(f"{RESULTS}/{merger}.json"))
    Draft202012Validator(schema).validate(result)
    assert result["merger"]["name"] == merger
    assert set(result["tasks"]) == {"tiny_digits", "tiny_shapes"}
    assert all(task["n"] == 40 for task in result["tasks"].values())


def test_the_table_holds_the_numbers_of_the_results(built_once):
    rows = list(csv.DictReader(built_once.read(f"{RESULTS}/summary.csv").splitlines()))
    assert [row["merger"] for row in rows] == [*MERGERS, "finetuned"]
    for row in rows:
        result = json.loads(built_once.read(f"{RESULTS}/{row['merger']}.json"))
        assert float(row["accuracy"]) == pytest.approx(result["average"]["accuracy"], abs=1e-6)
        assert float(row["tiny_shapes"]) == pytest.approx(
            result["tasks"]["tiny_shapes"]["accuracy"], abs=1e-6
        )


@pytest.mark.parametrize("figure", FIGURES)
def test_every_figure_is_a_picture_in_two_formats(built_once, figure):
    with Image.open(built_once.folder / RESULTS / f"{figure}.png") as image:
        assert min(image.size) > 400
        assert len(set(image.convert("L").resize((64, 64)).getdata())) > 8, "it is blank"
    assert "<svg" in built_once.read(f"{RESULTS}/{figure}.svg")


def test_a_second_call_does_nothing(built_once):
    assert built_once.planned() == {}


def test_every_artifact_traces_down_to_data_and_base(built_once):
    command = [shutil.which("mergeloom", path=os.path.dirname(built_once.command()[0])), "trace"]
    for name in ("tsv.json", "summary.csv", "radar.png", "radar.svg", "learning_curves.png"):
        done = subprocess.run(
            [*command, f"{RESULTS}/{name}"], cwd=built_once.folder, env=built_once.environment,
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        for part in ("models/ViT-Tiny/base.safetensors", "by pretrain_encoder",
                     "data/tiny_digits/train/0.tar", "by render_task"):  # fmt: skip
            assert part in done.stdout, f"{name}: no {part} in\n{done.stdout}"
        assert "changed" not in done.stdout
        assert "gone" not in done.stdout


def test_mergers_of_every_kind_run_by_their_paths(built):
    """One model per task, random numbers, modifiers, layers together, duality; and diagnoses."""
    names = ("emr", "dare_ta", "task_arithmetic_lines", "tensor_decomp_energy", "dual", "iso_cts")
    targets = [f"{RESULTS}/{name}.json" for name in names]
    targets += [f"{RESULTS}/diagnosis/{name}.png" for name in ("emr", "tsv")]
    built.run(*targets, "--cores", "2")
    for name in names:
        content = json.loads(built.read(f"{RESULTS}/{name}.json"))
        Draft202012Validator(json.loads(built.read("config/schema/result.schema.json"))).validate(
            content
        )
        assert content["merger"]["per_task"] == (name == "emr")
        assert bool(content["merger"]["modifiers"]) == (name == "task_arithmetic_lines")
    diagnosis = json.loads(built.read(f"{RESULTS}/diagnosis/tsv.json"))
    schema = json.loads(built.read("config/schema/diagnosis.schema.json"))
    Draft202012Validator(schema).validate(diagnosis)
    assert built.planned(*targets) == {}
    # Another modifier or seed is another merge; nothing else is.
    built.edit(
        "config/mergers.yaml", "[{lines: {first: 0.0, last: 1.0}}]", "[{lines: {last: 0.5}}]"
    )
    built.edit(
        "config/mergers.yaml", "dare_ta: {method: dare_ta,", "dare_ta: {method: dare_ta, seed: 9,"
    )
    assert built.planned(*targets) == {"merge_models": 2, "evaluate_merged": 2}


def test_a_merge_is_evaluated_on_corrupted_images_on_other_tasks_and_inspected(built):
    presets = built.folder / "tests/workflow/presets"
    (presets / "benchmarks.yaml").write_text(
        built.read("tests/workflow/presets/benchmarks.yaml") + "one: [tiny_digits]\n"
    )
    (built.folder / TINY).write_text(
        built.read(TINY) + "mergers: [task_arithmetic]\ncorruptions: [contrast2]\n"
    )
    elsewhere = "results/ViT-Tiny/finetuned/one/on/tiny/task_arithmetic.json"
    confusions = [f"{RESULTS}/confusion/{name}" for name in ("task_arithmetic", "finetuned")]
    targets = ["robustness", elsewhere, *(f"{path}.png" for path in confusions)]
    built.run(*targets, "--cores", "2")
    assert built.planned(*targets[1:], f"{RESULTS}/corrupted/summary.csv") == {}

    schema = Draft202012Validator(json.loads(built.read("config/schema/result.schema.json")))
    corrupted = json.loads(built.read(f"{RESULTS}/corrupted/contrast2/task_arithmetic.json"))
    clean = json.loads(built.read(f"{RESULTS}/task_arithmetic.json"))
    other = json.loads(built.read(elsewhere))
    of_other = json.loads(built.read("results/ViT-Tiny/finetuned/one/task_arithmetic.json"))
    for content, chosen in ((corrupted, clean), (other, of_other)):
        schema.validate(content)
        assert content["alpha"]["value"] == chosen["alpha"]["value"]
    assert corrupted["evaluated_on"] == {"corruption": "contrast", "severity": 2}
    assert corrupted["tasks"] != clean["tasks"]
    assert other["evaluated_on"] == {"benchmark": "tiny", "unseen": ["tiny_shapes"]}
    assert other["alpha"]["source"] == "results/ViT-Tiny/finetuned/one/task_arithmetic.json"
    # The same model on the task that was merged: its own result.
    assert other["tasks"]["tiny_digits"] == of_other["tasks"]["tiny_digits"]

    rows = list(csv.DictReader(built.read(f"{RESULTS}/corrupted/summary.csv").splitlines()))
    names = ["zeroshot", "task_arithmetic", "finetuned"]
    assert [(r["images"], r["merger"]) for r in rows] == [
        (images, name) for images in ("clean", "contrast2") for name in names
    ]
    assert float(rows[4]["accuracy"]) == pytest.approx(corrupted["average"]["accuracy"], abs=1e-6)

    schema = Draft202012Validator(json.loads(built.read("config/schema/inspection.schema.json")))
    for path, result in zip(confusions, ("task_arithmetic", "finetuned"), strict=True):
        content, result = (
            json.loads(built.read(f)) for f in (f"{path}.json", f"{RESULTS}/{result}.json")
        )
        schema.validate(content)
        for task, counted in content["tasks"].items():
            right = sum(row[i] for i, row in enumerate(counted["confusion"]))
            assert right / 40 == counted["accuracy"] == result["tasks"][task]["accuracy"]
        for kind in ("confusion", "calibration"):
            with Image.open(built.folder / f"{path}.png".replace("confusion", kind)) as image:
                assert len(set(image.convert("L").resize((64, 64)).getdata())) > 8, "it is blank"


def test_mergers_that_look_at_images_run_by_their_paths(built):
    """Fisher information and Gram matrices as files, and a merge that images pass by stages."""
    from mergeloom.io.headers import read_header

    names = ("fisher", "regmean", "regmean_plus_plus")
    targets = [f"{RESULTS}/{name}.json" for name in names]
    built.run(*targets, "--cores", "2")
    accuracies = {}
    for name in names:
        content = json.loads(built.read(f"{RESULTS}/{name}.json"))
        Draft202012Validator(json.loads(built.read("config/schema/result.schema.json"))).validate(
            content
        )
        assert content["alpha"] == {"how": "fixed", "value": 1.0}
        accuracies[name] = content["tasks"]
    assert len({json.dumps(tasks) for tasks in accuracies.values()}) > 1
    for name in ("fisher", "gram"):
        file = built.folder / MODELS / f"finetuned/tiny_digits/{name}.safetensors"
        record = json.loads(read_header(file).metadata["mergeloom"])
        assert record["params"]["examples"] == 256
        assert "cache/tiny_digits/train_32px.safetensors" in record["inputs"]
        assert not [path for path in record["inputs"] if "val_" in path or "test_" in path]
    assert built.planned(*targets) == {}
    (built.folder / TINY).write_text(built.read(TINY) + "statistics: {examples: 20}\n")
    assert built.planned(*targets) == {
        "estimate_fisher": 2,
        "collect_grams": 2,
        "merge_by_stage": 1,
        "merge_models": 2,
        "evaluate_merged": 3,
    }
    built.run(f"{RESULTS}/regmean.json")
    # A statistic of what was there before is not merged with what is there now.
    expert = f"{MODELS}/finetuned/tiny_digits/task_vector.safetensors"
    shutil.copy(built.folder / MODELS / "finetuned/tiny_shapes/task_vector.safetensors",
                built.folder / expert)  # fmt: skip
    merged = f"{MODELS}/finetuned/merged/tiny/regmean.safetensors"
    (built.folder / merged).unlink()
    done = built.run(merged, "--allowed-rules", "merge_models", check=False)
    assert done.returncode != 0
    assert "tiny_digits/gram.safetensors: was not computed from what" in done.stdout
    assert not (built.folder / merged).exists()


def test_the_report_holds_table_and_figures(built_once):
    built_once.run("--report", "report.html")
    text = built_once.read("report.html")
    for label in ("accuracy table", "radar chart", "accuracy over alpha", "singular values"):
        assert label in text


def test_no_result_holds_a_path_of_this_machine(built_once):
    for path in (built_once.folder / "results").rglob("*.json"):
        assert str(built_once.folder) not in path.read_text()


REPORT = {"tabulate_results", "plot_results"}


def rules_of(planned):
    return {rule: n for rule, n in planned.items() if rule not in ("all", "tables", "figures")}


def test_a_comment_in_the_library_re_runs_nothing(built):
    engine = built.folder / "workflow_scripts/mergeloom/merging/engine.py"
    engine.write_text(engine.read_text() + "\n# a comment\n")
    assert built.planned() == {}


def test_a_published_figure_stands_beside_ours_and_editing_it_makes_the_tables_again(built):
    rows = list(csv.DictReader(built.read(f"{RESULTS}/summary.csv").splitlines()))
    assert {
        row["merger"]: row["published_accuracy"] for row in rows if row["published_source"]
    } == {"tsv": "0.812500"}
    file = "tests/workflow/presets/published/tiny.csv"
    built.edit(file, "finetuned,81.25", "finetuned,82.25")
    assert rules_of(built.planned()) == {"tabulate_results": 1, "plot_results": 1}
    built.edit(file, "finetuned,82.25", "finetuned,81.25")
    built.edit(file, "other_family,44.5", "other_family,45.5")
    assert built.planned() == {}


def test_touching_a_script_re_runs_nothing(built):
    for script in (built.folder / "workflow_scripts").glob("*.py"):
        script.touch()
    assert built.planned() == {}


def test_editing_a_method_re_runs_that_merger_alone(built):
    built.edit(
        "workflow_scripts/mergeloom/merging/methods/averaging.py",
        "return total\n",
        "return total * 2\n",
    )
    assert rules_of(built.planned()) == {
        "merge_models": 1,
        "evaluate_merged": 1,
        "tabulate_results": 1,
        "plot_results": 1,
    }
    text = built.run("-n").stdout
    assert "Merging tiny on ViT-Tiny with task_arithmetic" in text
    assert "Merging tiny on ViT-Tiny with tsv" not in text


def test_editing_the_accuracy_re_runs_evaluations_and_no_training(built):
    built.edit(
        "workflow_scripts/mergeloom/evaluation/results.py",
        'SCHEMA = "mergeloom/result/1"',
        'SCHEMA = "mergeloom/result/" + "1"',
    )
    assert set(rules_of(built.planned())) == {
        "evaluate_finetuned",
        "evaluate_zeroshot",
        "evaluate_merged",
        *REPORT,
    }


def test_editing_the_training_loop_re_runs_from_pretraining_and_no_rendering(built):
    built.edit(
        "workflow_scripts/mergeloom/training/loop.py", "losses / seen,", "losses * 1 / seen,"
    )
    planned = built.planned()
    assert planned["pretrain_encoder"] == 1
    assert planned["finetune_task"] == 2
    assert "render_task" not in planned
    assert "decode_training_images" not in planned


def test_changing_an_alpha_grid_re_runs_one_evaluation_and_no_merge(built):
    built.edit("config/mergers.yaml", "stop: 0.8, step: 0.05", "stop: 0.7, step: 0.05")
    planned = rules_of(built.planned())
    assert planned == {"evaluate_merged": 1, "tabulate_results": 1, "plot_results": 1}


def test_asking_for_metrics_re_runs_evaluations_and_nothing_else(built):
    (built.folder / TINY).write_text(built.read(TINY) + "evaluation: {metrics: [ece]}\n")
    assert set(rules_of(built.planned())) == {
        "evaluate_finetuned",
        "evaluate_zeroshot",
        "evaluate_merged",
        *REPORT,
    }


def test_changing_the_kept_fraction_re_runs_what_reads_singular_vectors(built):
    built.edit(TINY, "fraction: 0.5", "fraction: 0.75")
    planned = rules_of(built.planned())
    assert planned["decompose_task_vector"] == 2
    assert planned["merge_models"] == planned["evaluate_merged"] == 1
    assert "finetune_task" not in planned


def test_the_seed_of_training_leaves_the_images_alone(built):
    (built.folder / TINY).write_text(built.read(TINY) + "seed: 1\n")
    planned = built.planned()
    assert planned["finetune_task"] == 2
    assert "render_task" not in planned


def test_adding_a_merger_is_adding_a_preset(built):
    presets = built.folder / "tests/workflow/presets"
    (presets / "mergers.yaml").write_text("tenth: {method: task_arithmetic, alpha: 0.1}\n")
    assert rules_of(built.planned(f"{RESULTS}/tenth.json")) == {
        "merge_models": 1,
        "evaluate_merged": 1,
    }
    built.run(f"{RESULTS}/tenth.json")
    tenth = json.loads(built.read(f"{RESULTS}/tenth.json"))
    curve = json.loads(built.read(f"{RESULTS}/task_arithmetic.json"))["alpha"]["curve"]
    at_tenth = next(point for point in curve if point["alpha"] == 0.1)
    assert tenth["validation"]["average"]["accuracy"] == pytest.approx(at_tenth["accuracy"])
    assert tenth["alpha"] == {"how": "fixed", "value": 0.1}


def test_given_checkpoints_are_merged_and_never_trained_over(built):
    given = built.folder / MODELS / "ours"
    shutil.copytree(built.folder / MODELS / "finetuned", given)
    for made in (
        *given.glob("*/task_vector.*"),
        *given.glob("*/svd.*"),
        *given.glob("*/*.parquet"),
    ):
        made.unlink()
    checkpoints = {path: path.stat().st_mtime for path in given.glob("*/checkpoint.safetensors")}
    for path in (built.folder / "cache").rglob("*.safetensors"):
        path.touch()  # newer than the checkpoints
    presets = built.folder / "tests/workflow/presets"
    (presets / "experts.yaml").write_text("ours: {source: files}\n")
    built.run("results/ViT-Tiny/ours/tiny/tsv.json")
    assert {path: path.stat().st_mtime for path in checkpoints} == checkpoints
    ours, finetuned = (
        json.loads(built.read(f"results/ViT-Tiny/{experts}/tiny/tsv.json"))
        for experts in ("ours", "finetuned")
    )
    assert ours["tasks"] == finetuned["tasks"]
    assert ours["experts"] == "ours"


def test_published_weights_come_from_open_clip_into_safetensors(built):
    """A weights file stands in for the hub: open_clip reads it by the same call."""
    import torch
    from safetensors.torch import load_file, save_file

    from mergeloom.io.headers import read_header
    from mergeloom.models.family import get_family

    torch.manual_seed(0)
    architecture = {"open_clip": "ViT-S-32-alt"}
    state = get_family("clip").build(architecture).state_dict()
    save_file({k: v.contiguous() for k, v in state.items()}, built.folder / "weights.safetensors")
    (built.folder / "tests/workflow/presets/encoders/ViT-S.yaml").write_text(
        "family: clip\narchitecture: {open_clip: ViT-S-32-alt}\nrecipe: tiny\n"
        "image: {size: 224, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}\n"
        f"weights: {{published: {built.folder}/weights.safetensors}}\n"
    )
    head = "models/ViT-S/heads/tiny_shapes.safetensors"
    built.run(head)
    base = load_file(built.folder / "models/ViT-S/base.safetensors")
    assert base.keys() == state.keys()
    assert all(torch.equal(base[key], state[key]) for key in state)
    assert read_header(built.folder / head).tensors == {"weight": ("F32", (4, 256))}


@pytest.mark.parametrize(
    ("path", "damage", "target", "message"),
    [
        ("data/tiny_digits/train/0.tar", "cut", "cache/tiny_digits/train_32px.safetensors",
         "data/tiny_digits/train/0.tar: is cut short"),
        (f"{MODELS}/finetuned/tiny_digits/checkpoint.safetensors", "pickle",
         f"{MODELS}/finetuned/tiny_digits/task_vector.safetensors",
         f"{MODELS}/finetuned/tiny_digits/checkpoint.safetensors: is a pickle"),
        (f"{MODELS}/finetuned/tiny_digits/checkpoint.safetensors", "nan",
         f"{MODELS}/finetuned/tiny_digits/task_vector.safetensors",
         "tensor visual.proj has 512 values that are NaN"),
        (f"{MODELS}/finetuned/tiny_digits/checkpoint.safetensors", "shape",
         f"{MODELS}/finetuned/tiny_digits/task_vector.safetensors",
         "visual.proj has shape [3, 3], but [32, 16] in"),
    ],
)  # fmt: skip
def test_damaged_input_is_named_and_leaves_no_output(built, path, damage, target, message):
    import torch
    from safetensors.torch import load_file, save_file

    file = built.folder / path
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:20000])
    elif damage == "pickle":
        torch.save({"visual.proj": torch.ones(2)}, file)
    else:
        tensors = load_file(file)
        proj = tensors["visual.proj"]
        tensors["visual.proj"] = proj * float("nan") if damage == "nan" else torch.ones(3, 3)
        save_file(tensors, file)
    done = built.run(target, check=False)
    assert done.returncode != 0
    assert message in done.stdout
    assert not (built.folder / target).exists()
    assert [p for p in (built.folder / target).parent.iterdir() if p.name.startswith(".")] == []


def test_the_tree_is_a_function_of_config_and_seed_and_survives_kills(built_once, tmp_path):
    """A second tree, its run killed with -9 (the whole process group) at seeded random moments,
    ends in the same bytes as the undisturbed one; every artifact is compared."""
    again = copy_workflow(tmp_path)
    rng = random.Random(0)
    kills = 0
    for _ in range(4):
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen(
                again.command(), cwd=tmp_path, env=again.environment, start_new_session=True,
                stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
            try:
                process.wait(timeout=rng.uniform(8, 22))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                kills += 1
                time.sleep(0.5)
    assert kills >= 2
    again.run()
    assert again.planned() == {}
    visible = {k: v for k, v in again.digests().items() if not k.split("/")[-1].startswith(".")}
    expected = {
        k: v for k, v in built_once.digests().items() if not k.split("/")[-1].startswith(".")
    }
    assert visible.keys() == expected.keys()
    assert {k for k in expected if visible[k] != expected[k]} == set()


def test_one_core_ends_in_the_same_bytes(built_once, tmp_path):
    again = copy_workflow(tmp_path)
    again.run(f"{RESULTS}/isotropic.json", "--cores", "1")
    built, single = built_once.digests(), again.digests()
    assert f"{RESULTS}/isotropic.json" in single
    assert {k for k in single if single[k] != built[k]} == set()


def test_wandb_logs_offline(built):
    pytest.importorskip("wandb")
    (built.folder / TINY).write_text(built.read(TINY) + "wandb: {mode: offline, project: test}\n")
    built.run(f"{RESULTS}/wandb.txt")
    assert list((built.folder / "wandb").glob("offline-run-*/*.wandb"))
