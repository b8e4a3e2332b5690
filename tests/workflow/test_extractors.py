"""Features of splits as artifacts: of an encoder of the workflow, and of a published network."""

import json

import numpy as np
import torch
from hub import Hub
from networks import write_resnet
from safetensors import safe_open
from safetensors.numpy import load_file

CACHE = "cache/tiny_digits"
FEATURES = f"{CACHE}/features"


def header(path):
    with safe_open(path, framework="numpy") as file:
        return file.metadata()


def test_an_encoders_features_wait_for_its_base_and_the_images_alone(fresh):
    planned = fresh.planned(f"{FEATURES}/tiny/test_contrast2.safetensors")
    assert planned["extract_features"] == planned["corrupt_images"] == 1
    assert planned["pretrain_encoder"] == 1
    assert not {"fetch_extractor", "build_head", "finetune_task"} & planned.keys()


def test_a_published_network_is_fetched_once_and_decides_the_size_of_the_images(fresh):
    splits = ("train", "val", "test", "undersample/val")
    targets = [f"{FEATURES}/tiny_resnet/{split}.safetensors" for split in splits]
    planned = fresh.planned(*targets)
    assert planned["fetch_extractor"] == 1
    assert planned["extract_features"] == 2
    assert planned["extract_features_of_evaluation"] == 1
    assert "pretrain_encoder" not in planned
    done = fresh.run(*targets, "-n")
    assert "images of tiny_digits at 24 px" in done.stdout
    assert "extractor tiny_resnet: transformers, someone/resnet (revision main)" in done.stdout


def test_what_cannot_be_extracted_is_one_clear_error(fresh):
    for inputs, message in {
        "tyni/test": "unknown extractor 'tyni'; config has: minilm_offline",
        "minilm_offline/test": "'minilm_offline' reads text, but the task 'tiny_digits' is of imag",
        "tiny/test_fog2": "unknown corruption 'fog'; there is: contrast",
    }.items():
        done = fresh.run(f"{FEATURES}/{inputs}.safetensors", "-n", check=False)
        assert done.returncode != 0
        assert message in done.stdout


def test_features_of_an_encoder_have_a_row_for_every_image_of_their_split(built):
    splits = {"val": "val_32px", "test": "test_32px", "test_contrast2": "test_32px_contrast2"}
    built.run(*(f"{FEATURES}/tiny/{name}.safetensors" for name in splits), "--cores", "2")
    found = {}
    for name, images in splits.items():
        path = built.folder / f"{FEATURES}/tiny/{name}.safetensors"
        found[name] = load_file(path)["features"]
        labels = load_file(built.folder / f"{CACHE}/{images}.safetensors")["labels"]
        assert found[name].shape == (len(labels), 16)
        assert found[name].dtype == np.float32
        record = json.loads(header(path)["mergeloom"])
        assert set(record["inputs"]) == {
            "models/ViT-Tiny/base.safetensors", f"{CACHE}/{images}.safetensors"
        }  # fmt: skip
    assert not np.allclose(found["test"], found["test_contrast2"], atol=1e-3)


def test_features_of_a_network_of_the_hub_are_recorded_with_its_commit(built, tmp_path):
    model = write_resnet(tmp_path / "resnet")
    target = f"{FEATURES}/tiny_resnet/test.safetensors"
    with Hub() as hub:
        files = {f.name: f for f in (tmp_path / "resnet").iterdir()}
        commit = hub.add("model", "someone/resnet", files)
        built.run(target, "--cores", "2", **hub.environment(tmp_path / "hub"))
    downloads = json.loads(
        header(built.folder / "models/extractors/tiny_resnet.safetensors")["mergeloom"]
    )["downloads"]
    assert set(downloads) == {
        f"someone/resnet@{commit}/{name}" for name in ("config.json", "model.safetensors")
    }
    features = load_file(built.folder / target)["features"]
    images = load_file(built.folder / f"{CACHE}/test_24px.safetensors")["images"]
    shift, scale = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    inputs = torch.from_numpy((images[:5] / 255 - shift) / scale).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = model.double().resnet(inputs).pooler_output.flatten(1)
    np.testing.assert_allclose(features[:5], expected, rtol=1e-4, atol=1e-5)
    built.run(target, "--cores", "1", HF_HUB_OFFLINE="1")  # nothing is asked for again
    assert built.planned(target) == {}
