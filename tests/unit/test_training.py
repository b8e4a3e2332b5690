"""Training: resumable to the byte, honest about its curve, and explained when it fails."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import cross_entropy

from mergeloom.data.decoded import decode, open_images
from mergeloom.data.shards import write_lines, write_shard
from mergeloom.errors import MergeloomError
from mergeloom.evaluation.accuracy import evaluate
from mergeloom.evaluation.head import build_head
from mergeloom.io.tensors import TensorFile, write_tensors
from mergeloom.models.family import get_family
from mergeloom.training import loop
from mergeloom.training.finetune import finetune
from mergeloom.training.pretrain import contrastive_loss, distort, pretrain

ENCODER = {
    "family": "clip",
    "architecture": {
        "embed_dim": 8,
        "vision_cfg": {
            "image_size": 32,
            "patch_size": 16,
            "width": 16,
            "layers": 1,
            "head_width": 8,
        },
        "text_cfg": {
            "context_length": 12,
            "vocab_size": 49408,
            "width": 8,
            "heads": 1,
            "layers": 1,
        },
    },
    "image": {"size": 32, "mean": [0.5] * 3, "std": [0.25] * 3},
}
RECIPE = {
    "batch_size": 8,
    "epochs": 3,
    "lr": 1e-2,
    "weight_decay": 0.1,
    "warmup_steps": 2,
    "clip": 1.0,
}


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """Bright and dark images: a task that anything learns."""
    folder = tmp_path_factory.mktemp("task")
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 8)):
        labels = np.arange(count) % 2
        images = (
            rng.integers(0, 100, (count, 32, 32, 3)) + 150 * labels[:, None, None, None]
        ).astype(np.uint8)
        write_shard(folder / split / "0.tar", images, labels)
        decode([folder / split / "0.tar"], 2, 32, folder / f"{split}.safetensors", {})
    write_lines(folder / "classnames.txt", ["dark", "bright"])
    write_lines(folder / "templates.txt", ["a {c} image.", "{c}"])
    return folder


@pytest.fixture(scope="module")
def encoder(task):
    """A base with random weights and its head."""
    torch.manual_seed(0)
    base, head = task / "base.safetensors", task / "head.safetensors"
    write_tensors(base, get_family("clip").build(ENCODER["architecture"]).state_dict(), {})
    build_head(
        encoder=ENCODER, base=base, classnames=["dark", "bright"], templates=["a {c} image."],
        device="cpu", out=head, metadata={},
    )  # fmt: skip
    return base, head


def run(task, base_and_head, out, **changes):
    torch.set_num_threads(1)
    base, head = base_and_head
    arguments = {
        "encoder": ENCODER,
        "base": base,
        "head": head,
        "train": task / "train.safetensors",
        "val": task / "val.safetensors",
        "recipe": RECIPE,
        "seed": 0,
        "device": "cpu",
        "batch_size": 8,
        "out": out / "checkpoint.safetensors",
        "curve": out / "training.parquet",
        "fingerprint": "f",
        "title": "task",
        "metadata": {"mergeloom": "{}"},
    }
    finetune(**(arguments | changes))
    return arguments["out"].read_bytes(), arguments["curve"].read_bytes()


@pytest.fixture(scope="module")
def undisturbed(task, encoder, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    return run(task, encoder, out), out


def test_fine_tuning_learns_and_writes_a_row_per_epoch(undisturbed):
    rows = pd.read_parquet(undisturbed[1] / "training.parquet")
    assert list(rows.columns) == list(loop.COLUMNS)
    assert list(rows["epoch"]) == [0, 1, 2, 3]
    assert list(rows["step"]) == [0, 3, 6, 9]
    assert rows["train_loss"].iloc[-1] < rows["train_loss"].iloc[1]
    assert rows["val_accuracy"].iloc[-1] == 1.0


def test_the_recorded_validation_accuracy_is_that_of_the_checkpoint(undisturbed, task, encoder):
    family = get_family("clip")
    with (
        TensorFile(undisturbed[1] / "checkpoint.safetensors") as file,
        TensorFile(encoder[1]) as head,
    ):
        tower = family.build_tower(ENCODER["architecture"], {k: file[k] for k in file})
        scores = evaluate(
            family, tower.eval(), head["weight"], open_images(task / "val.safetensors"),
            ENCODER["image"], device="cpu", batch_size=3,
        )  # fmt: skip
    rows = pd.read_parquet(undisturbed[1] / "training.parquet")
    assert scores["accuracy"] == rows["val_accuracy"].iloc[-1]
    assert scores["loss"] == pytest.approx(rows["val_loss"].iloc[-1], rel=1e-5)


def test_a_checkpoint_holds_the_tower_and_nothing_else(undisturbed, encoder):
    with (
        TensorFile(undisturbed[1] / "checkpoint.safetensors") as tuned,
        TensorFile(encoder[0]) as base,
    ):
        assert set(tuned.keys()) == {k for k in base if k.startswith("visual.")}
        assert all(tuned.shape(k) == base.shape(k) for k in tuned)


def test_no_resume_state_is_left(undisturbed):
    assert sorted(p.name for p in undisturbed[1].iterdir()) == [
        "checkpoint.safetensors",
        "training.parquet",
    ]


@pytest.mark.parametrize("epochs", [1, 2])
def test_interrupted_training_ends_in_the_same_bytes(
    undisturbed, task, encoder, tmp_path, monkeypatch, epochs
):
    save = loop._save
    saved = []

    def save_and_die(*arguments):
        save(*arguments)
        saved.append(1)
        if len(saved) == epochs:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "_save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        run(task, encoder, tmp_path)
    assert not (tmp_path / "checkpoint.safetensors").exists()
    monkeypatch.setattr(loop, "_save", save)
    steps = []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(
        torch.optim.AdamW, "step", lambda self, *a, **k: steps.append(1) or step(self, *a, **k)
    )
    assert run(task, encoder, tmp_path) == undisturbed[0]
    assert len(steps) == 3 * (3 - epochs), "it started anew instead of resuming"


def test_the_state_of_another_run_is_not_resumed(undisturbed, task, encoder, tmp_path, monkeypatch):
    save = loop._save

    def save_and_die(*arguments):
        save(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "_save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        run(task, encoder, tmp_path, fingerprint="of another recipe", seed=1)
    monkeypatch.setattr(loop, "_save", save)
    assert run(task, encoder, tmp_path) == undisturbed[0]


def test_another_seed_gives_another_checkpoint(undisturbed, task, encoder, tmp_path):
    assert run(task, encoder, tmp_path, seed=1)[0] != undisturbed[0][0]


def test_a_loss_that_is_not_finite_stops_with_a_remedy(task, encoder, tmp_path):
    with pytest.raises(
        MergeloomError, match=r"task: the loss is nan at step \d.*lower the recipe's lr"
    ):
        run(task, encoder, tmp_path, recipe=RECIPE | {"lr": 1e38, "warmup_steps": 0})
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_logits_that_are_not_finite_are_an_error(task, encoder, tmp_path):
    with TensorFile(encoder[1]) as file:
        write_tensors(tmp_path / "head.safetensors", {"weight": file["weight"] * math.nan}, {})
    with pytest.raises(MergeloomError, match=r"logits are not finite"):
        run(task, encoder, tmp_path, head=tmp_path / "head.safetensors")


def test_a_batch_larger_than_the_training_set_is_refused(task, encoder, tmp_path):
    with pytest.raises(MergeloomError, match="24 training images are fewer than one batch of 25"):
        run(task, encoder, tmp_path, recipe=RECIPE | {"batch_size": 25})


def test_a_base_of_another_architecture_names_its_tensors(task, encoder, tmp_path):
    other = {**ENCODER, "architecture": {**ENCODER["architecture"], "embed_dim": 16}}
    with pytest.raises(
        MergeloomError, match=r"another encoder(.|\n)*visual\.proj: \(16, 8\) here, \(16, 16\)"
    ):
        run(task, encoder, tmp_path, encoder=other)


def test_the_learning_rate_warms_up_and_follows_a_cosine_to_zero():
    recipe = loop.Recipe(batch_size=1, lr=1.0, weight_decay=0, warmup_steps=4, clip=1, steps=12)
    rates = [recipe.lr_at(step, 12) for step in range(12)]
    np.testing.assert_allclose(rates[:4], [0.25, 0.5, 0.75, 1.0])
    expected = [0.5 * (1 + math.cos(math.pi * i / 8)) for i in range(8)]
    np.testing.assert_allclose(rates[4:], expected)


def test_steps_bound_a_run_within_an_epoch(task, encoder, tmp_path):
    recipe = {k: v for k, v in RECIPE.items() if k != "epochs"} | {"steps": 4}
    run(task, encoder, tmp_path, recipe=recipe)
    rows = pd.read_parquet(tmp_path / "training.parquet")
    assert list(rows["step"]) == [0, 3, 4]


def test_the_contrastive_loss_of_distinct_captions_is_clips():
    logits = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
    target = torch.arange(5)
    expected = (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2
    torch.testing.assert_close(contrastive_loss(logits, target), expected)


def test_images_that_share_a_caption_share_its_probability():
    logits = torch.randn(3, 2, generator=torch.Generator().manual_seed(0)).double()
    caption = torch.tensor([0, 1, 1])
    p = torch.log_softmax(logits, 1).numpy()
    q = torch.log_softmax(logits.T, 1).numpy()
    image_to_text = -(p[0, 0] + p[1, 1] + p[2, 1]) / 3
    text_to_image = -(q[0, 0] + (q[1, 1] + q[1, 2]) / 2) / 2
    assert contrastive_loss(logits, caption).item() == pytest.approx(
        (image_to_text + text_to_image) / 2
    )


def test_without_strength_distortion_is_the_identity():
    images = torch.arange(2 * 32 * 32 * 3).remainder(256).to(torch.uint8).view(2, 32, 32, 3)
    same = distort(
        images, torch.Generator().manual_seed(0), invert=0.0, shift=0, contrast=1.0, noise=0.0
    )
    assert torch.equal(same, images)
    inverted = distort(
        images, torch.Generator().manual_seed(0), invert=1.1, shift=0, contrast=1.0, noise=0.0
    )
    assert torch.equal(inverted, 255 - images)


def test_a_shift_moves_the_whole_image_and_repeats_its_edge():
    image = torch.zeros(64, 32, 32, 3, dtype=torch.uint8)
    image[:, 16, 16] = 255
    moved = distort(
        image, torch.Generator().manual_seed(0), invert=0.0, shift=3, contrast=1.0, noise=0.0
    )
    _, rows, columns, _ = moved.nonzero(as_tuple=True)
    assert set(rows.tolist()) == set(columns.tolist()) == set(range(13, 20))
    assert (moved.flatten(1).sum(dim=1) == 3 * 255).all()


def test_pretraining_is_a_function_of_seed_and_data_and_writes_both_towers(task, tmp_path):
    torch.set_num_threads(1)

    def base(name, seed):
        pretrain(
            encoder=ENCODER,
            tasks=[(task / "train.safetensors", task / "classnames.txt", task / "templates.txt")],
            recipe=RECIPE,
            distortion={"invert": 0.5, "shift": 2, "contrast": 0.5, "noise": 0.1},
            seed=seed,
            device="cpu",
            out=tmp_path / name,
            curve=tmp_path / f"{name}.parquet",
            fingerprint="f",
            metadata={},
        )
        return (tmp_path / name).read_bytes()

    assert base("a.safetensors", 0) == base("b.safetensors", 0)
    assert base("c.safetensors", 1) != base("a.safetensors", 0)
    model = get_family("clip").build(ENCODER["architecture"])
    with TensorFile(tmp_path / "a.safetensors") as file:
        assert set(file.keys()) == set(model.state_dict())


DDP = """
import json, sys
from pathlib import Path
from mergeloom.training.finetune import finetune
if __name__ == "__main__":
    arguments = json.loads(Path(sys.argv[1]).read_text())
    for name in ("base", "head", "train", "val", "out", "curve"):
        arguments[name] = Path(arguments[name])
    import torch
    torch.set_num_threads(1)
    finetune(**arguments)
"""


def test_two_devices_train_the_model_that_one_does(undisturbed, task, encoder, tmp_path):
    """Fabric's `ddp` over two CPU processes: equal up to the order of floating-point sums."""
    import subprocess
    import sys

    (tmp_path / "script.py").write_text(DDP)
    base, head = encoder
    arguments = {
        "encoder": ENCODER, "base": str(base), "head": str(head),
        "train": str(task / "train.safetensors"), "val": str(task / "val.safetensors"),
        "recipe": RECIPE | {"devices": 2, "strategy": "ddp"}, "seed": 0, "device": "cpu",
        "batch_size": 8, "out": str(tmp_path / "checkpoint.safetensors"),
        "curve": str(tmp_path / "training.parquet"), "fingerprint": "f", "title": "task",
        "metadata": {},
    }  # fmt: skip
    (tmp_path / "arguments.json").write_text(json.dumps(arguments))
    subprocess.run(
        [sys.executable, tmp_path / "script.py", tmp_path / "arguments.json"],
        check=True,
        timeout=240,
    )
    curves = [pd.read_parquet(p / "training.parquet") for p in (tmp_path, undisturbed[1])]
    for column in ("train_loss", "train_accuracy", "val_loss", "val_accuracy"):
        np.testing.assert_allclose(curves[0][column], curves[1][column], rtol=1e-3)
