"""Balanced collections of experts: what they are trained on, and what they may not read."""

import json
import re

import numpy as np
import yaml
from pictures import encoded, shard
from safetensors.numpy import load_file

from mergeloom.io.headers import read_header

TRAIN = "cache/uneven/undersample/train_32px.safetensors"
VAL = "cache/uneven/undersample/val_32px.safetensors"
TEST = "cache/uneven/test_32px.safetensors"


def add_uneven(workflow, counts):
    """A benchmark of one task of given shards, without validation, with so many images a class."""
    data = workflow.folder / "data" / "uneven"
    rng = np.random.default_rng(0)
    for split, some in (("train", counts), ("test", [4, 4, 4])):
        labels = rng.permutation(np.repeat(np.arange(3), some)).tolist()
        images = [encoded(rng.integers(0, 256, (32, 32, 3), np.uint8)) for _ in labels]
        (data / split).mkdir(parents=True)
        (data / split / "0.tar").write_bytes(shard(images, labels, "png"))
        (data / split / "nshards.txt").write_text("1\n")
    (data / "classnames.txt").write_text("red\ngreen\nblue\n")
    (data / "zeroshot_classification_templates.txt").write_text("a {c} page.\n")
    presets = workflow.folder / "tests/workflow/presets"
    (presets / "tasks/uneven.yaml").write_text("title: Uneven\nsource: shards\n")
    with (presets / "benchmarks.yaml").open("a") as file:
        file.write("uneven: [uneven]\n")


def images_read(folder):
    """Which decoded images every artifact below a folder was made from, by its record."""
    read = {}
    for path in folder.rglob("*"):
        if path.suffix == ".safetensors":
            record = json.loads(read_header(path).metadata["mergeloom"])
        elif path.suffix == ".json":
            record = json.loads(path.read_text())["provenance"]
        else:
            continue
        inputs = {i for i in record["inputs"] if i.startswith("cache/")}
        read[str(path.relative_to(folder))] = inputs
    return read


def test_a_balanced_collection_reads_balanced_images_from_training_to_results(built):
    add_uneven(built, [60, 50, 40])
    target = "results/ViT-Tiny/undersampled/uneven/task_arithmetic.json"
    built.run(target, "--cores", "2")
    assert built.planned(target) == {}

    cache = built.folder / "cache/uneven"
    assert not (cache / "train_32px.safetensors").exists()
    train, val, test = (load_file(built.folder / path) for path in (TRAIN, VAL, TEST))
    assert (np.bincount(train["labels"]) + np.bincount(val["labels"], minlength=3) == 40).all()
    assert len(val["labels"]) == 12
    contents = [{i.tobytes() for i in part["images"]} for part in (train, val, test)]
    assert len(set.union(*contents)) == sum(map(len, contents)) == 120 + 12
    assert images_read(built.folder / "models/ViT-Tiny/undersampled") == {
        "uneven/checkpoint.safetensors": {TRAIN, VAL},
        "uneven/task_vector.safetensors": set(),
        "merged/uneven/task_arithmetic.safetensors": set(),
    }
    assert images_read(built.folder / "results/ViT-Tiny/undersampled") == {
        "uneven/finetuned.json": {VAL, TEST},
        "uneven/task_arithmetic.json": {VAL, TEST},
    }

    # Drawn by the seed of data and nothing else.
    record = json.loads((cache / "undersample.json").read_text())
    assert record["counts"] == {"before": [60, 50, 40], "after": [40, 40, 40]}
    (built.folder / "seeded.yaml").write_text(
        built.read("tests/workflow/tiny.yaml") + "data_seed: 3\n"
    )
    built.run("cache/uneven/undersample.json", configfile="seeded.yaml")
    assert json.loads((cache / "undersample.json").read_text())["training"] != record["training"]


def test_nothing_of_a_balanced_collection_is_to_read_images_that_it_was_not_balanced_with(fresh):
    """Whatever can be asked of it: statistics, every kind of merge, robustness, figures."""
    add_uneven(fresh, [60, 50, 40])
    results = "results/ViT-Tiny/undersampled/uneven"
    mergers = ("zeroshot", "tsv", "fisher", "regmean", "regmean_plus_plus")
    targets = [f"{results}/{name}.json" for name in mergers]
    targets += [f"{results}/{name}/tsv.png" for name in ("confusion", "diagnosis")]
    targets += [f"{results}/corrupted/contrast2/tsv.json", f"{results}/on/uneven/tsv.json"]
    plan = fresh.run(*targets, "-n").stdout
    read = {}
    reason = "Reason: Missing output files: (.*); Input files updated by another job: (.*)"
    for made, inputs in re.findall(reason, plan):
        if "/undersampled/" in made:
            name = made.split(", ")[0].split("/undersampled/")[1]
            read[name] = {file for file in inputs.split(", ") if file.startswith("cache/")}
    assert read["uneven/checkpoint.safetensors"] == {TRAIN, VAL}
    for name in ("uneven/fisher", "uneven/gram", "merged/uneven/regmean_plus_plus"):
        assert read[f"{name}.safetensors"] == {TRAIN}
    for name in (*mergers, "finetuned"):
        assert read[f"uneven/{name}.json"] == {VAL, TEST}
    corrupted = TEST.replace("32px", "32px_contrast2")
    assert set.union(*read.values()) == {TRAIN, VAL, TEST, corrupted}


def test_a_collection_trained_by_the_sampler_reads_all_images(built):
    target = "models/ViT-Tiny/sampled/tiny_digits/checkpoint.safetensors"
    assert built.planned(target) == {"finetune_task": 1}
    built.run(target)
    sampled, plain = (
        load_file(built.folder / f"models/ViT-Tiny/{e}/tiny_digits/checkpoint.safetensors")
        for e in ("sampled", "finetuned")
    )
    assert any((sampled[key] != plain[key]).any() for key in plain)


def test_a_split_for_validation_is_used_by_all_collections(fresh):
    planned = fresh.planned("results/ViT-Tiny/undersampled/tiny/regmean_plus_plus.json")
    assert planned["balance_task"] == planned["decode_balanced_training_images"] == 2
    assert planned["decode_evaluation_images"] == 2
    assert planned["decode_training_images"] == 2, "of pretraining"
    assert "decode_balanced_validation_images" not in planned


def test_checkpoints_that_were_not_trained_here_know_no_balancing(fresh):
    """Whatever the recipe of their encoder is."""
    path = fresh.folder / "tests/workflow/presets/encoders/ViT-Tiny.yaml"
    encoder = yaml.safe_load(path.read_text()) | {"recipe": "tiny_undersampled"}
    path.write_text(yaml.safe_dump(encoder))
    planned = {
        experts: fresh.planned(f"results/ViT-Tiny/{experts}/tiny/regmean_plus_plus.json")
        for experts in ("finetuned", "public")
    }
    assert planned["finetuned"]["balance_task"] == 2
    assert planned["public"]["import_checkpoint"] == 2
    assert "balance_task" not in planned["public"]


def test_an_empty_class_stops_balancing_with_task_class_and_remedy(fresh):
    add_uneven(fresh, [60, 0, 40])
    done = fresh.run("cache/uneven/undersample.json", check=False)
    assert done.returncode != 0
    assert "uneven: 1 of the 3 classes have no training image (green)" in done.stdout
    assert "Set `balancing: none` in the recipe" in done.stdout
    assert not (fresh.folder / "cache/uneven/undersample.json").exists()


def test_a_damaged_index_file_is_named_when_images_are_decoded(fresh):
    add_uneven(fresh, [60, 50, 40])
    fresh.run("cache/uneven/undersample.json")
    path = fresh.folder / "cache/uneven/undersample.json"
    record = json.loads(path.read_text())
    record["training"] = sorted({*record["training"], record["validation"][0]})
    path.write_text(json.dumps(record))
    done = fresh.run("cache/uneven/undersample/train_32px.safetensors", check=False)
    assert done.returncode != 0
    assert "cache/uneven/undersample.json: is damaged: 1 images train and validate" in done.stdout


def test_a_recipe_that_balances_is_refused_for_pretraining(fresh):
    fresh.edit("tests/workflow/presets/encoders/ViT-Tiny.yaml", "    recipe: tiny",
               "    recipe: tiny_sampled")  # fmt: skip
    done = fresh.run("-n", check=False)
    assert done.returncode != 0
    assert "encoder 'ViT-Tiny': the recipe 'tiny_sampled' balances the classes" in done.stdout
    assert "Traceback" not in done.stdout


def test_a_base_that_was_trained_on_images_that_would_validate_is_refused(fresh):
    add_uneven(fresh, [60, 50, 40])
    encoder = "tests/workflow/presets/encoders/ViT-Tiny.yaml"
    target = "results/ViT-Tiny/undersampled/uneven/task_arithmetic.json"
    assert "pretrain_encoder" in fresh.planned(target)
    fresh.edit(encoder, "tasks: [tiny_digits, tiny_shapes]", "tasks: [tiny_digits, uneven]")
    done = fresh.run(target, "-n", check=False)
    assert done.returncode != 0
    assert "ViT-Tiny was pretrained on uneven, on images that would validate its" in done.stdout
    assert "give the task a split `val`, or balance by `sampler`" in done.stdout
    # With images of its own to validate on, there is nothing to refuse.
    fresh.edit(encoder, "tasks: [tiny_digits, uneven]", "tasks: [tiny_digits, tiny_shapes]")
    assert fresh.planned("results/ViT-Tiny/undersampled/tiny/task_arithmetic.json")
