"""Training of a T5: pretraining on several tasks, fine-tuning on one, resume."""

import hashlib

import pandas as pd
import pytest
import torch
from text_study import ENCODER, random_weights, write_head, write_sentiment, write_split

from mergeloom.errors import MergeloomError
from mergeloom.io.tensors import TensorFile, write_tensors
from mergeloom.models.family import get_family
from mergeloom.training.finetune import finetune
from mergeloom.training.pretrain_text import pretrain_text

RECIPE = {
    "batch_size": 16, "epochs": 3, "lr": 5e-3, "weight_decay": 0.0, "warmup_steps": 2, "clip": 1.0,
}  # fmt: skip


class Stop(Exception):
    """What interrupts a run."""


@pytest.fixture
def files(tmp_path):
    """Base, head and split of a task."""
    head, split = write_sentiment(tmp_path)
    write_tensors(tmp_path / "base.safetensors", random_weights(), {})
    return {"base": tmp_path / "base.safetensors", "head": head, "train": split, "val": split}


def tune(files, out, recipe=RECIPE, measure=None, **more):
    out.mkdir(exist_ok=True)
    finetune(
        encoder=ENCODER, **files, recipe=recipe, seed=0, device="cpu", batch_size=32,
        out=out / "checkpoint.safetensors", curve=out / "training.parquet", fingerprint="f",
        title="t", metadata={}, measure=measure, **more,
    )  # fmt: skip
    return out


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_fine_tuning_learns_the_answers(files, tmp_path):
    rows = pd.read_parquet(
        tune(files, tmp_path / "run", {**RECIPE, "epochs": 40}) / "training.parquet"
    )
    assert rows["val_loss"].iloc[-1] < 0.1 < rows["val_loss"].iloc[0]
    assert rows["val_accuracy"].iloc[-1] == 1.0
    with TensorFile(tmp_path / "run/checkpoint.safetensors") as file:
        assert file.keys() == sorted(random_weights())


def test_interrupted_fine_tuning_ends_in_the_same_bytes(files, tmp_path):
    whole = tune(files, tmp_path / "whole")
    epochs = []

    def measure(tower, head):
        epochs.append(1)
        if len(epochs) == 3:
            raise Stop
        return {}

    with pytest.raises(Stop):
        tune(files, tmp_path / "cut", measure=measure)
    tune(files, tmp_path / "cut")
    for name in ("checkpoint.safetensors", "training.parquet"):
        assert digest(tmp_path / "cut" / name) == digest(whole / name)


def test_the_gradient_does_not_depend_on_how_a_batch_is_divided(files, tmp_path):
    """Answers of one and of two words: the mean is over examples, not over tokens."""
    files["head"] = write_head(tmp_path / "longer.safetensors", ["no", "yes good film"])
    checkpoints = []
    for parts in (1, 4):
        recipe = {**RECIPE, "epochs": 1, "accumulate": parts, "optimizer": "sgd", "lr": 0.1}
        out = tune(files, tmp_path / f"{parts}", recipe)
        with TensorFile(out / "checkpoint.safetensors") as file:
            checkpoints.append({key: file[key] for key in file})
    for key, value in checkpoints[0].items():
        torch.testing.assert_close(checkpoints[1][key], value, rtol=1e-4, atol=1e-5)


def test_an_augmentation_of_images_is_refused(files, tmp_path):
    recipe = {**RECIPE, "augmentation": "random_resized_crop"}
    with pytest.raises(MergeloomError, match=r"random_resized_crop.*one of images"):
        tune(files, tmp_path / "run", recipe)


def test_pretraining_learns_the_answers_of_all_tasks(tmp_path):
    head, split = write_sentiment(tmp_path)
    other = (
        write_split(tmp_path / "o.safetensors", ["nothing was", "the film"] * 32, [0, 1] * 32),
        write_head(tmp_path / "oh.safetensors", ["0.0", "1.0 film"]),
    )
    pretrain_text(
        encoder=ENCODER, tasks=[(split, head), other], recipe={**RECIPE, "epochs": 20}, seed=0,
        device="cpu", out=tmp_path / "base.safetensors", curve=tmp_path / "curve.parquet",
        fingerprint="f", metadata={},
    )  # fmt: skip
    family = get_family("t5")
    with TensorFile(tmp_path / "base.safetensors") as file:
        tower = family.build_tower(ENCODER["architecture"], {key: file.read(key) for key in file})
    for task, (examples, answers) in enumerate([(split, head), other]):
        with TensorFile(examples) as texts, TensorFile(answers) as file:
            inputs, labels = texts["tokens"].long(), texts["labels"]
            likeliest = family.logits(tower, family.read_head(file, "cpu"), inputs).argmax(dim=1)
        assert (likeliest == labels).float().mean() > 0.9, task
