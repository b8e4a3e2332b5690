"""What would run: the plan from nothing, and what is wrong before anything runs."""

import socket

import pytest
import yaml
from sandbox import RESULTS, TINY


def test_one_result_plans_only_what_it_needs(fresh):
    assert fresh.planned(f"{RESULTS}/isotropic.json") == {
        "render_task": 2,
        "decode_training_images": 2,
        "decode_evaluation_images": 2,
        "pretrain_encoder": 1,
        "build_head": 2,
        "finetune_task": 2,
        "extract_task_vector": 2,
        "decompose_sum": 1,
        "merge_models": 1,
        "evaluate_finetuned": 1,
        "evaluate_merged": 1,
    }


def test_only_methods_that_read_singular_vectors_wait_for_them(fresh):
    assert fresh.planned(f"{RESULTS}/tsv.json")["decompose_task_vector"] == 2
    assert "decompose_task_vector" not in fresh.planned(f"{RESULTS}/task_arithmetic.json")


def test_only_methods_that_look_at_images_wait_for_statistics(fresh):
    wanted = {"fisher": "estimate_fisher", "regmean": "collect_grams"}
    for merger, rule in wanted.items():
        planned = fresh.planned(f"{RESULTS}/{merger}.json")
        assert planned[rule] == 2
        assert planned["merge_models"] == 1
        assert not {"estimate_fisher", "collect_grams", "merge_by_stage"} - {rule} & planned.keys()
    planned = fresh.planned(f"{RESULTS}/regmean_plus_plus.json")
    assert planned["merge_by_stage"] == 1
    assert not {"estimate_fisher", "collect_grams", "merge_models"} & planned.keys()


def test_the_default_configuration_plans_the_demo(fresh):
    planned = fresh.planned(configfile="config/config.yaml")
    assert planned["finetune_task"] == planned["extract_task_vector"] == 8
    assert planned["merge_models"] == planned["evaluate_merged"] == 4
    assert planned["tabulate_results"] == planned["plot_results"] == 1


def test_published_encoders_plan_a_download_and_no_pretraining(fresh):
    planned = fresh.planned("results/ViT-B-32/fusion_bench_protocol/demo8/tsv.json")
    assert planned["fetch_encoder"] == 1
    assert "pretrain_encoder" not in planned
    assert planned["decode_training_images"] == planned["decode_evaluation_images"] == 8
    done = fresh.run("models/ViT-B-32/base.safetensors", "-n")
    assert "Fetching the published weights of ViT-B-32: ViT-B-32-quickgelu, openai" in done.stdout


def test_weights_that_should_be_at_hand_are_asked_for(fresh):
    fresh.edit("config/encoders/ViT-B-32.yaml", "published: openai", "published: weights/mine.pt")
    done = fresh.run("models/ViT-B-32/base.safetensors", "-n", check=False)
    assert done.returncode != 0
    assert "weights/mine.pt: no such file. It is weights.published of the encoder" in done.stdout


def test_a_recipe_by_task_asks_a_task_without_epochs_for_them(fresh):
    done = fresh.run("results/ViT-B-32/finetuned/demo8/tsv.json", "-n", check=False)
    assert done.returncode != 0
    assert "the preset of task 'digits' names none: add `epochs` to it" in done.stdout


def test_every_collector_target_is_planned(fresh):
    for target in ("tables", "figures", "results", "checkpoints", "vectors", "diagnoses",
                   "inspections", "robustness"):  # fmt: skip
        assert fresh.planned(target)[target] == 1


def test_a_merge_on_other_tasks_plans_those_and_takes_alpha_from_its_own_result(fresh):
    target = "results/ViT-Tiny/finetuned/demo2/on/tiny/task_arithmetic.json"
    planned = fresh.planned(target)
    assert planned["evaluate_merged"] == planned["evaluate_on_other_tasks"] == 1
    assert planned["evaluate_finetuned"] == 2
    assert planned["extract_task_vector"] == 2, "of the merged tasks; the others need none"


def test_corrupted_images_are_made_from_the_decoded_ones_once(fresh):
    names = ("zeroshot", "task_arithmetic", "emr", "finetuned")
    planned = fresh.planned(*(f"{RESULTS}/corrupted/spatter3/{name}.json" for name in names))
    assert planned["corrupt_images"] == planned["decode_evaluation_images"] == 2
    assert planned["evaluate_on_corrupted"] == 3
    assert planned["evaluate_finetuned_on_corrupted"] == planned["evaluate_finetuned"] == 1
    assert planned["evaluate_merged"] == 2


def test_predictions_are_counted_once_for_both_figures(fresh):
    targets = [f"{RESULTS}/{kind}/zeroshot.png" for kind in ("confusion", "calibration")]
    planned = fresh.planned(*targets)
    assert planned["inspect_model"] == planned["plot_inspection"] == 1
    assert "evaluate_zeroshot" not in planned, "the base has no alpha to wait for"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sede": 3}, "config: unknown key 'sede'; known keys: allow_overlap"),
        ({"mergers": ["tvs"]}, "unknown merger 'tvs'; config has: breadcrumbs"),
        ({"encoders": ["ViT-Nono"]}, "unknown encoder 'ViT-Nono'; config has: T5-Nano"),
        ({"benchmarks": ["tniy"]}, "unknown benchmark 'tniy'; config has: N14, N14-11way"),
        ({"svd": {"fraction": 2}}, "config: svd.fraction: 2 is greater than the maximum of 1"),
        ({"corruptions": ["fog2"]}, "unknown corruption 'fog'; there is: contrast, gaussian_noise"),
        ({"corruptions": ["contrast6"]}, "'contrast6': severity is 6, expected 1 to 5"),
        ({"evaluation": {"precision": "half"}}, "config: evaluation.precision: 'half' is not one"),
        ({"presets": ["config", "nowhere"]}, "nowhere is not a folder"),
    ],
)
def test_a_wrong_configuration_is_one_clear_error(fresh, change, message):
    config = yaml.safe_load(fresh.read(TINY)) | change
    (fresh.folder / "wrong.yaml").write_text(yaml.safe_dump(config))
    done = fresh.run("-n", configfile="wrong.yaml", check=False)
    assert done.returncode != 0
    assert message in done.stdout
    assert "Traceback" not in done.stdout


def test_a_wrong_published_figure_is_one_clear_error(fresh):
    fresh.edit("config/published/tsv_paper.csv", "tsv,ViT-B-32,N8,tall_drive,85.86,92.31",
               "tsv,ViT-B-32,N8,tall_drive,0.8586,92.31")  # fmt: skip
    done = fresh.run("-n", check=False)
    assert done.returncode != 0
    assert "config/published/tsv_paper.csv, line 38: accuracy is '0.8586'" in done.stdout
    assert "Traceback" not in done.stdout


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (f"{RESULTS}/tvs.json", "unknown merger 'tvs'; config has: breadcrumbs"),
        ("results/ViT-Tiny/finetuned/tniy/tsv.json", "unknown benchmark 'tniy'"),
        ("results/ViT-Tiny/fine/tiny/tsv.json", "unknown expert 'fine'; config has: at_hand"),
        ("results/ViT/finetuned/tiny/tsv.json", "unknown encoder 'ViT'"),
        ("results/conditions/ViT-Tiny/tiny/swep/summary.md", "unknown sweep of conditions 'swep'"),
        (f"{RESULTS}/confusion/tvs.json", "unknown merger 'tvs'; config has: breadcrumbs"),
        (f"{RESULTS}/corrupted/fog2/tsv.json", "unknown corruption 'fog'; there is: contrast"),
        (f"{RESULTS}/corrupted/contrast/tsv.json", "severity is missing, expected 1 to 5"),
        ("models/ViT-Tiny/finetuned/exported/tiny/tsv/onnx", "unknown format 'onnx'; models are"),
        (
            "models/ViT-Tiny/finetuned/exported/tiny/finetuned/transformers",
            "merger 'finetuned' gives no single merged model",
        ),
        (f"{RESULTS}/corrupted/contrast0/tsv.json", "severity is 0, expected 1 to 5"),
        (f"{RESULTS}/on/tniy/tsv.json", "unknown benchmark 'tniy'"),
        (f"{RESULTS}/on/demo2/emr.json", "merger 'emr' gives one model per task, and none belongs"),
        (f"{RESULTS}/on/demo2/finetuned.json", "ViT-Tiny/finetuned/demo2/finetuned.json"),
        (
            "models/ViT-Tiny/finetuned/tiny_digit/checkpoint.safetensors",
            "unknown task 'tiny_digit'",
        ),
    ],
)
def test_an_unknown_name_in_a_target_lists_what_exists(fresh, target, message):
    done = fresh.run(target, "-n", check=False)
    assert done.returncode != 0
    assert message in done.stdout


def test_missing_shards_say_where_they_were_expected_and_how_to_point_there(fresh):
    done = fresh.run(
        "results/ViT-Nano-real8/finetuned/real8/tsv.json", "-n", check=False,
        configfile="config/suites/real8.yaml",
    )  # fmt: skip
    assert done.returncode != 0
    assert "nshards.txt: no such file" in done.stdout
    assert "point DATA_PATH or roots.data to them" in done.stdout


def test_roots_move_by_the_environment(fresh, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    text = fresh.run("vectors", "-n", MODELS_PATH=str(elsewhere)).stdout
    assert f"{elsewhere}/ViT-Tiny/base.safetensors" in text


def test_a_dry_run_leaves_the_marks_of_a_dead_run_to_the_next_real_one(fresh):
    mark = fresh.folder / ".snakemake" / "locks" / "0.input.lock"
    mark.parent.mkdir(parents=True)
    mark.write_text(f"{fresh.folder}/data\n")
    (fresh.folder / ".snakemake" / "mergeloom.lock").write_text(f"{socket.gethostname()} local")
    fresh.run("-n")
    assert mark.exists()
    text = fresh.run("data/tiny_digits/train/0.tar").stdout
    assert "The last run in this folder was killed; its lock is cleared." in text
    assert not mark.exists()
