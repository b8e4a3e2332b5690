"""Imported experts and exported models, as jobs of the workflow; the hub is on loopback."""

import hashlib
import io
import json

import pytest
import torch
import yaml
from hub import Hub
from safetensors import safe_open
from safetensors.torch import load_file
from sandbox import RESULTS, TINY

CHECKPOINT = "models/ViT-Tiny/{}/{}/checkpoint.safetensors"
EXPORTED = "models/ViT-Tiny/finetuned/exported/tiny/tsv"


def image_encoder(workflow, task):
    """The state dict of an ImageEncoder as the papers' code saves it, leftovers included."""
    tower = load_file(workflow.folder / CHECKPOINT.format("finetuned", task))
    leftovers = {
        "logit_scale": torch.tensor(4.6),
        "token_embedding.weight": torch.ones(9, 4),
    }
    content = io.BytesIO()
    state = tower | leftovers
    torch.save({f"model.{key}": value for key, value in state.items()}, content)
    return content.getvalue()


def test_a_dry_run_names_every_download(fresh):
    done = fresh.run("results/ViT-Tiny/public/tiny/tsv.json", "-n")
    for task, name in (("tiny_digits", "Digits"), ("tiny_shapes", "Shapes")):
        assert (
            f"Importing {task} of public for ViT-Tiny: someone/ViT-Tiny-{name}, pytorch_model.bin "
            "(revision main)"
        ) in done.stdout
    assert fresh.planned("results/ViT-Tiny/public/tiny/tsv.json")["import_checkpoint"] == 2


@pytest.mark.parametrize("experts", ["tanganke", "crisostomi", "tall_masks"])
def test_the_published_families_have_the_three_encoders(fresh, experts):
    target = f"models/ViT-L-14/{experts}/MNIST/checkpoint.safetensors"
    config = yaml.safe_load(fresh.read(TINY))
    (fresh.folder / "one.yaml").write_text(yaml.safe_dump(config))
    assert fresh.planned(target, configfile="one.yaml") == {
        "fetch_encoder": 1, "import_checkpoint": 1,
    }  # fmt: skip
    done = fresh.run(target.replace("ViT-L-14", "ViT-Tiny"), "-n", check=False)
    assert f"experts '{experts}' have no checkpoint of encoder ViT-Tiny" in done.stdout


def test_a_checkpoint_that_should_be_at_hand_is_asked_for(fresh):
    done = fresh.run(CHECKPOINT.format("at_hand", "tiny_digits"), "-n", check=False)
    assert done.returncode != 0
    assert (
        "given/ViT-Tiny/tiny_digits.pt: no such file. It is the at_hand checkpoint" in done.stdout
    )


def test_experts_of_the_hub_are_downloaded_converted_and_evaluated(built, tmp_path):
    given = {}
    with Hub() as hub:
        for task, name in (("tiny_digits", "Digits"), ("tiny_shapes", "Shapes")):
            given[task] = image_encoder(built, task)
            files = {"pytorch_model.bin": given[task]}
            commit = hub.add("model", f"someone/ViT-Tiny-{name}", files)
        built.run("results/ViT-Tiny/public/tiny/tsv.json", **hub.environment(tmp_path / "cache"))
    expected = load_file(built.folder / CHECKPOINT.format("finetuned", "tiny_shapes"))
    path = built.folder / CHECKPOINT.format("public", "tiny_shapes")
    found = load_file(path)
    assert set(found) == set(expected)
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    with safe_open(path, "pt") as file:
        record = json.loads(file.metadata()["mergeloom"])
    name = f"someone/ViT-Tiny-Shapes@{commit}/pytorch_model.bin"
    weights = hashlib.sha256(given["tiny_shapes"]).hexdigest()
    assert record["downloads"] == {name: weights}
    assert "origin" not in record["params"]
    # The same weights as the workflow's own: the same accuracies.
    one, other = (
        json.loads(built.read(f"results/ViT-Tiny/{experts}/tiny/tsv.json"))
        for experts in ("finetuned", "public")
    )
    assert one["tasks"] == other["tasks"]
    log = built.read("logs/models/ViT-Tiny/public/tiny_shapes/checkpoint.log")
    assert "left out 2 tensors" in log


def test_a_hostile_checkpoint_of_the_hub_ends_the_job_and_runs_nothing(built, tmp_path):
    program = b"cos\nsystem\n(S'touch %s'\ntR." % str(tmp_path / "executed").encode()
    with Hub() as hub:
        hub.add("model", "someone/ViT-Tiny-Digits", {"pytorch_model.bin": program})
        target = CHECKPOINT.format("public", "tiny_digits")
        done = built.run(target, check=False, **hub.environment(tmp_path / "cache"))
    assert done.returncode != 0
    assert "refers to os.system" in done.stdout
    assert not (tmp_path / "executed").exists()
    assert not (built.folder / target).exists()


def test_a_merged_model_is_exported_for_both_libraries(built):
    built.run(f"{EXPORTED}/transformers", f"{EXPORTED}/open_clip")
    result = json.loads(built.read(f"{RESULTS}/tsv.json"))
    alpha = result["alpha"]["value"]
    base = load_file(built.folder / "models/ViT-Tiny/base.safetensors")
    merged = load_file(built.folder / "models/ViT-Tiny/finetuned/merged/tiny/tsv.safetensors")
    whole = load_file(built.folder / f"{EXPORTED}/open_clip/open_clip_model.safetensors")
    assert set(whole) == set(base)
    for key in base:
        delta = merged.get(key, torch.zeros(()))
        torch.testing.assert_close(whole[key], base[key] + alpha * delta, rtol=1e-6, atol=1e-7)
    folder = built.folder / EXPORTED / "transformers"
    tower = load_file(folder / "model.safetensors")
    torch.testing.assert_close(tower["visual_projection.weight"], whole["visual.proj"].T)
    card = (folder / "README.md").read_text()
    assert "method: `tsv`" in card
    assert f"alpha: {alpha:g} (" in card
    provenance = json.loads(safe_open(folder / "model.safetensors", "pt").metadata()["mergeloom"])
    for task in ("tiny_digits", "tiny_shapes"):
        name = CHECKPOINT.format("finetuned", task)
        assert f"| {task} | `{provenance['inputs'][name]}` |" in card


def test_a_merger_of_one_model_per_task_has_nothing_to_export(fresh):
    done = fresh.run(EXPORTED.replace("tsv", "emr") + "/transformers", "-n", check=False)
    assert done.returncode != 0
    assert "merger 'emr' gives no single merged model" in done.stdout
