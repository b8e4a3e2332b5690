"""`mergeloom convert`: through its entry point, from files that other programs wrote."""

import hashlib
import json
import os
import sys

import pytest
import torch
import yaml
from clip_models import TINY, images, open_clip_model, transformers, transformers_model, write_base
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mergeloom.cli import app as cli


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    made = write_base(folder, TINY)
    transformers_model(TINY, "CLIPVisionModel").save_pretrained(folder / "hf")
    (folder / "tiny.yaml").write_text(yaml.safe_dump({"family": "clip", "architecture": TINY}))
    return made


@pytest.fixture
def mergeloom(monkeypatch, capsys):
    """Run the entry point in this process: exit code, output, errors."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["mergeloom", *map(str, arguments)])
        code = 0
        try:
            cli.run()
        except SystemExit as end:
            code = end.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_transformers_folder_becomes_a_file_that_says_what_it_was_made_from(
    files, mergeloom, tmp_path
):
    out = tmp_path / "expert.safetensors"
    code, printed, notes = mergeloom(
        "convert", files.folder / "hf", "--base", files.base, "--out", out
    )
    assert (code, printed) == (0, f"{out}\n")
    assert "hf/model.safetensors: transformers, a vision transformer of width 64" in notes
    with safe_open(out, "pt") as file:
        record = json.loads(file.metadata()["mergeloom"])
    assert record["rule"] == "mergeloom convert"
    assert record["params"]["from"] == "transformers"
    assert record["inputs"] == {
        "base.safetensors": digest(files.base),
        "config.json": digest(files.folder / "hf" / "config.json"),
        "model.safetensors": digest(files.folder / "hf" / "model.safetensors"),
    }


def test_the_same_input_gives_the_same_bytes(files, mergeloom, tmp_path):
    outs = [tmp_path / name / "expert.safetensors" for name in "ab"]
    for out in outs:
        assert mergeloom("convert", files.folder / "hf", "--base", files.base, "--out", out)[0] == 0
    assert digest(outs[0]) == digest(outs[1])


def test_experts_convert_merge_and_go_back_to_transformers(files, mergeloom, tmp_path):
    """What is merged by hand is what transformers loads; the card says what went in."""
    experts = []
    for seed in (3, 4):
        source = tmp_path / f"task{seed}.pt"
        state = open_clip_model(TINY, seed).state_dict()
        torch.save({"model." + key: value for key, value in state.items()}, source)
        experts.append(tmp_path / f"task{seed}.safetensors")
        code, _, errors = mergeloom(
            "convert", source, "--encoder", files.folder / "tiny.yaml", "--out", experts[-1]
        )
        assert code == 0, errors
    merged = tmp_path / "merged.safetensors"
    code, _, errors = mergeloom(
        "merge", "--method", "task_arithmetic", "--alpha", 0.4, "--base", files.base,
        "--experts", *experts, "--out", merged,
    )  # fmt: skip
    assert code == 0, errors
    folder = tmp_path / "exported"
    code, _, errors = mergeloom(
        "convert", merged, "--to", "transformers", "--out", folder,
        "--encoder", files.folder / "tiny.yaml",
    )  # fmt: skip
    assert code == 0, errors
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md", "config.json", "model.safetensors", "preprocessor_config.json",
    ]  # fmt: skip

    base = files.model.state_dict()
    states = [open_clip_model(TINY, seed).state_dict() for seed in (3, 4)]
    by_hand = open_clip_model(TINY)
    by_hand.load_state_dict(
        {
            key: base[key] + 0.4 * sum(state[key] - base[key] for state in states)
            if key.startswith("visual.")
            else base[key]
            for key in base
        }
    )
    kind = transformers.CLIPVisionModelWithProjection
    with torch.no_grad():
        found = kind.from_pretrained(folder)(images(32)).image_embeds
        expected = by_hand.encode_image(images(32))
    assert float((found - expected).norm() / expected.norm()) < 1e-5

    card = (folder / "README.md").read_text()
    for text in ("method: `task_arithmetic`", "alpha: 0.4", digest(files.base)):
        assert text in card
    for expert in experts:
        assert f"| {expert.name} | `{digest(expert)}` |" in card


def test_an_open_clip_folder_carries_its_architecture(files, mergeloom, tmp_path):
    out, back = tmp_path / "whole", tmp_path / "back.safetensors"
    arguments = ["--to", "open_clip", "--encoder", files.folder / "tiny.yaml"]
    assert mergeloom("convert", files.base, *arguments, "--out", out)[0] == 0
    assert mergeloom("convert", out, "--out", back)[0] == 0
    assert mergeloom("convert", out, "--to", "transformers", "--out", tmp_path / "hf")[0] == 0
    base = load_file(files.base)
    assert all(torch.equal(tensor, base[key]) for key, tensor in load_file(back).items())
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["hidden_act"] == "quick_gelu"


def test_an_architecture_that_is_not_published_must_be_named(mergeloom, tmp_path):
    architecture = {
        **TINY,
        "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 48, "layers": 1},
    }
    odd = tmp_path / "odd.safetensors"
    state = open_clip_model(architecture | {"vision_cfg": architecture["vision_cfg"] | {
        "head_width": 24}}).state_dict()  # fmt: skip
    save_file({k: v for k, v in state.items() if k.startswith("visual.")}, odd)
    code, _, errors = mergeloom("convert", odd, "--out", tmp_path / "out.safetensors")
    assert code == 1
    assert "its architecture is none of those known by its shapes (width 48, 1 layers" in errors
    assert "Name it by --encoder" in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.pt"], "nowhere.pt: no such file or folder"),
        (["hf"], "has no projection (it is a CLIPVisionModel)"),
        (["."], "has none of model.safetensors, pytorch_model.bin"),
        (["base.safetensors", "--encoder", "ViT-B-23"], "'ViT-B-23' is no model of open_clip"),
        (["base.safetensors", "--encoder", "none.yaml"], "none.yaml: no such file"),
        (["hf", "--base", "hf/config.json"], "is not a safetensors file"),
        (["base.safetensors", "--to", "transformers"], "expected a name of a folder: transformers"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(arguments, message, files, mergeloom, tmp_path,
                                                  monkeypatch):  # fmt: skip
    monkeypatch.chdir(files.folder)
    code, printed, errors = mergeloom("convert", *arguments, "--out", tmp_path / "o.safetensors")
    assert (code, printed) == (1, "")
    assert message in errors
    assert "Traceback" not in errors
    assert not list(tmp_path.iterdir())


def test_what_exists_is_kept_unless_asked_and_an_input_always(files, mergeloom, tmp_path):
    out = tmp_path / "expert.safetensors"
    out.write_text("mine")
    arguments = ["convert", files.folder / "hf", "--base", files.base, "--out"]
    code, _, errors = mergeloom(*arguments, out)
    assert code == 1
    assert "exists already" in errors
    assert out.read_text() == "mine"
    assert mergeloom(*arguments, out, "--overwrite")[0] == 0
    assert "visual.proj" in load_file(out)
    code, _, errors = mergeloom(*arguments, files.base, "--overwrite")
    assert code == 1
    assert "which would be lost" in errors
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    code, _, errors = mergeloom(
        "convert", files.base, "--to", "open_clip", "--out", folder, "--overwrite"
    )
    assert code == 1
    assert "holds notes.txt, which mergeloom has not written" in errors


@pytest.mark.parametrize("to", ["merge", "transformers"])
def test_a_disk_that_fills_leaves_nothing(to, files, mergeloom, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    out = tmp_path / ("o.safetensors" if to == "merge" else "o")
    code, _, errors = mergeloom(
        "convert", files.base, "--to", to, "--encoder", files.folder / "tiny.yaml", "--out", out
    )
    assert code == 1
    assert f"{out}" in errors
    assert "there is not enough room" in errors
    assert not list(tmp_path.iterdir())
