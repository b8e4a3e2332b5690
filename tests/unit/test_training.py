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
from mergeloom.evaluation.examples import open_examples
from mergeloom.evaluation.head import build_head
from mergeloom.io.tensors import TensorFile, write_tensors
from mergeloom.models.family import get_family
from mergeloom.training import loop
from mergeloom.training.candidates import Candidates
from mergeloom.training.finetune import finetune
from mergeloom.training.pretrain import contrastive_loss, distort, pretrain
from mergeloom.training.reading import ReadAhead
from mergeloom.training.recipe import Recipe, Span
from mergeloom.training.resume import State
from mergeloom.training.sampling import balanced_order

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
            family, tower.eval(), head["weight"],
            open_examples(task / "val.safetensors", ENCODER, "cpu"), device="cpu", batch_size=3,
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


def test_the_default_recipe_is_a_plain_loop_of_adamw(undisturbed, task, encoder):
    """To the byte: what is new in recipes leaves those that do not ask for it alone."""
    torch.set_num_threads(1)
    family, images = get_family("clip"), open_images(task / "train.safetensors")
    with TensorFile(encoder[0]) as base, TensorFile(encoder[1]) as head:
        weights = {k: base.read(k) for k in base if k.startswith("visual.")}
        tower = family.build_tower(ENCODER["architecture"], weights).train()
        head_weight = head.read("weight")
    optimizer = torch.optim.AdamW(tower.parameters(), weight_decay=0.1, fused=True)
    for epoch in range(3):
        order = torch.randperm(24, generator=loop.generator(0, epoch + 1))
        for batch in range(3):
            step = 3 * epoch + batch
            peak = 0.5 * (1 + math.cos(math.pi * (step - 2) / 7))
            optimizer.param_groups[0]["lr"] = 1e-2 * (step + 1) / 2 if step < 2 else 1e-2 * peak
            chosen = order[8 * batch : 8 * (batch + 1)]
            pixels = (images.images[chosen].permute(0, 3, 1, 2).float() - 127.5) / 63.75
            loss = cross_entropy(family.logits(tower, head_weight, pixels), images.labels[chosen])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    with TensorFile(undisturbed[1] / "checkpoint.safetensors") as file:
        for key, value in family.tower_weights(tower).items():
            assert torch.equal(file[key], value), key


def interrupt(monkeypatch, after):
    """Let a run die after it has saved its state so many times."""
    save = State.save
    saved = []

    def save_and_die(self, *arguments):
        save(self, *arguments)
        saved.append(1)
        if len(saved) == after:
            raise KeyboardInterrupt

    monkeypatch.setattr(State, "save", save_and_die)


def count_batches(monkeypatch):
    """A list that grows with every batch that is trained on."""
    seen = []

    def counted(*arguments):
        seen.append(1)
        return cross_entropy(*arguments)

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", counted)
    return seen


@pytest.mark.parametrize("epochs", [1, 2])
def test_interrupted_training_ends_in_the_same_bytes(
    undisturbed, task, encoder, tmp_path, monkeypatch, epochs
):
    with monkeypatch.context() as patch:
        interrupt(patch, epochs)
        with pytest.raises(KeyboardInterrupt):
            run(task, encoder, tmp_path)
    assert not (tmp_path / "checkpoint.safetensors").exists()
    batches = count_batches(monkeypatch)
    assert run(task, encoder, tmp_path) == undisturbed[0]
    assert len(batches) == 3 * (3 - epochs), "it started anew instead of resuming"


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": "adam"},
        {"optimizer": "sgd", "momentum": 0.0},
        {"optimizer": "sgd", "momentum": 0.9},
        {"optimizer": "muon"},
        {"optimizer": "dualized_adamw"},
        {"optimizer": "dualized_sgd", "momentum": 0.9, "clip": None},
        {"ema": 0.8, "augmentation": "random_resized_crop", "schedule": "cosine_by_epoch"},
        {"optimizer": "muon", "ema": 0.8, "accumulate": 2},
    ],
    ids=str,
)
def test_every_optimiser_resumes_to_the_same_bytes(task, encoder, tmp_path, monkeypatch, change):
    (tmp_path / "whole").mkdir()
    recipe = RECIPE | change
    expected = run(task, encoder, tmp_path / "whole", recipe=recipe)
    with monkeypatch.context() as patch:
        interrupt(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            run(task, encoder, tmp_path, recipe=recipe)
    batches = count_batches(monkeypatch)
    assert run(task, encoder, tmp_path, recipe=recipe) == expected
    assert len(batches) == 3 * recipe.get("accumulate", 1), "it started anew"


def test_the_state_of_another_run_is_not_resumed(undisturbed, task, encoder, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            run(task, encoder, tmp_path, fingerprint="of another recipe", seed=1)
    assert run(task, encoder, tmp_path) == undisturbed[0]


def closeness(base):
    """Something to record that is largest for the epoch whose weights are nearest to the base."""
    with TensorFile(base) as file:
        start = {key.removeprefix("visual."): file.read(key) for key in file}

    def measure(tower, head):
        moved = sum(
            float((p.detach() - start[k]).square().sum()) for k, p in tower.state_dict().items()
        )
        return {"log_trace": -moved, "log_trace_se": 0.0}

    return measure


SELECTIONS = ("max_fim", "max_val")


def run_with_selections(task, base_and_head, out, fingerprint="f", **changes):
    outputs = {selection: out / selection / "checkpoint.safetensors" for selection in SELECTIONS}
    run(
        task,
        base_and_head,
        out,
        measure=closeness(base_and_head[0]),
        candidates=Candidates(outputs, fingerprint, "task"),
        fingerprint=fingerprint,
        **changes,
    )
    return [path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()]


# Batches of another size, so that validation accuracy is best before the last epoch.
SELECTING = RECIPE | {"epochs": 5, "lr": 3e-2, "batch_size": 6}


@pytest.fixture(scope="module")
def selected(task, encoder, tmp_path_factory):
    out = tmp_path_factory.mktemp("selected")
    return run_with_selections(task, encoder, out, recipe=SELECTING), out


def tensors_of(path):
    with TensorFile(path) as file:
        return {key: file.read(key) for key in file}, dict(file.metadata)


def test_a_selected_checkpoint_is_that_of_the_epoch_that_the_curve_says(selected, task, encoder):
    rows = pd.read_parquet(selected[1] / "training.parquet")
    trained = rows[rows["epoch"] >= 1]
    for selection, column in (("max_val", "val_accuracy"), ("max_fim", "log_trace")):
        epoch = int(trained.loc[trained[column].idxmax(), "epoch"])
        weights, header = tensors_of(selected[1] / selection / "checkpoint.safetensors")
        assert (header["selection"], header["epoch"]) == (selection, str(epoch))
        assert header["mergeloom"] == "{}"
        # Trained no longer than until that epoch, a run ends in the same weights.
        family = get_family("clip")
        tower = family.build_tower(ENCODER["architecture"], weights)
        with TensorFile(encoder[1]) as file:
            scores = evaluate(
                family, tower.eval(), file.read("weight"),
                open_examples(task / "val.safetensors", ENCODER, "cpu"), device="cpu", batch_size=8,
            )  # fmt: skip
        row = rows[rows["epoch"] == epoch].iloc[0]
        assert scores["accuracy"] == row["val_accuracy"]
        assert scores["loss"] == pytest.approx(row["val_loss"], rel=1e-12)
        assert closeness(encoder[0])(tower, None)["log_trace"] == row["log_trace"]


def test_selections_differ_from_the_last_epoch_where_the_curves_say_so(selected):
    rows = pd.read_parquet(selected[1] / "training.parquet")
    last, _ = tensors_of(selected[1] / "checkpoint.safetensors")
    epochs = {}
    for selection in SELECTIONS:
        weights, header = tensors_of(selected[1] / selection / "checkpoint.safetensors")
        epochs[selection] = int(header["epoch"])
        assert not all(torch.equal(weights[key], last[key]) for key in last)
    assert epochs["max_fim"] == 1, "the recorded value falls from the first epoch on"
    assert epochs["max_val"] < rows["epoch"].max(), "the recipe was chosen so that it does"


def test_keeping_epochs_changes_neither_the_last_one_nor_its_curve(
    selected, task, encoder, tmp_path
):
    run(task, encoder, tmp_path, recipe=SELECTING)
    plain, kept = tmp_path / "checkpoint.safetensors", selected[1] / "checkpoint.safetensors"
    assert plain.read_bytes() == kept.read_bytes()
    both = [pd.read_parquet(f.with_name("training.parquet")) for f in (plain, kept)]
    pd.testing.assert_frame_equal(both[0], both[1][list(both[0].columns)])


def test_no_candidate_is_left(selected):
    names = sorted(path.name for path in selected[1].rglob("*") if path.is_file())
    assert names == ["checkpoint.safetensors"] * 3 + ["training.parquet"]


@pytest.mark.parametrize("epochs", [1, 3])
def test_an_interrupted_run_selects_the_same(
    selected, task, encoder, tmp_path, monkeypatch, epochs
):
    with monkeypatch.context() as patch:
        interrupt(patch, epochs)
        with pytest.raises(KeyboardInterrupt):
            run_with_selections(task, encoder, tmp_path, recipe=SELECTING)
    batches = count_batches(monkeypatch)
    assert run_with_selections(task, encoder, tmp_path, recipe=SELECTING) == selected[0]
    assert len(batches) == 4 * (5 - epochs), "it started anew instead of resuming"


@pytest.mark.parametrize("lost", ["removed", "of another run"])
def test_a_run_whose_candidate_is_lost_starts_anew(
    selected, task, encoder, tmp_path, monkeypatch, lost
):
    with monkeypatch.context() as patch:
        interrupt(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            run_with_selections(task, encoder, tmp_path, recipe=SELECTING)
    [candidate] = (tmp_path / "max_fim").glob(".checkpoint.max_fim.*.resume.safetensors")
    weights, header = tensors_of(candidate)
    candidate.unlink()
    if lost == "of another run":
        write_tensors(candidate, weights, header | {"fingerprint": "g"})
    batches = count_batches(monkeypatch)
    assert run_with_selections(task, encoder, tmp_path, recipe=SELECTING) == selected[0]
    assert len(batches) == 4 * 5


def test_a_lost_epoch_that_is_computed_otherwise_leaves_the_weights_of_the_one_selected(
    task, encoder, tmp_path, monkeypatch
):
    """Killed after the weights of epoch 3 were kept and before the state was, on another device."""
    values = iter([0.0, 1.0, 2.0, 3.0])

    def rising(tower, head):
        return {"log_trace": next(values), "log_trace_se": 0.0}

    outputs = {"max_fim": tmp_path / "max_fim" / "checkpoint.safetensors"}
    given = {"recipe": RECIPE | {"epochs": 4}, "candidates": Candidates(outputs, "f", "task")}
    save, saved = State.save, []

    def die_instead(self, *arguments):
        if len(saved) == 2:
            raise KeyboardInterrupt
        saved.append(save(self, *arguments))

    with monkeypatch.context() as patch:
        patch.setattr(State, "save", die_instead)
        with pytest.raises(KeyboardInterrupt):
            run(task, encoder, tmp_path, measure=rising, **given)
    kept = {path.name.split(".")[3] for path in outputs["max_fim"].parent.iterdir()}
    assert kept == {"2", "3"}
    values = iter([1.5, 1.4])
    run(task, encoder, tmp_path, measure=rising, **given)
    rows = pd.read_parquet(tmp_path / "training.parquet")
    assert list(rows["log_trace"]) == [0, 1, 2, 1.5, 1.4]
    weights, header = tensors_of(outputs["max_fim"])
    assert header["epoch"] == "2"
    # By its loss on the validation images, which the curve has, it is that epoch's model.
    tower = get_family("clip").build_tower(ENCODER["architecture"], weights).eval()
    with TensorFile(encoder[1]) as file:
        scores = evaluate(
            get_family("clip"), tower, file.read("weight"),
            open_examples(task / "val.safetensors", ENCODER, "cpu"), device="cpu", batch_size=8,
        )  # fmt: skip
    assert scores["loss"] == pytest.approx(rows["val_loss"][2], rel=1e-12)
    assert rows["val_loss"].nunique() == 5


def test_a_state_from_before_a_selection_was_asked_for_is_not_in_its_way(
    selected, task, encoder, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        interrupt(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            run(task, encoder, tmp_path, recipe=SELECTING, fingerprint="without")
    assert run_with_selections(task, encoder, tmp_path, recipe=SELECTING) == selected[0]


def test_a_run_holds_at_most_two_models_for_a_selection(task, encoder, tmp_path, monkeypatch):
    most, values = [], iter(range(9))
    keep = Candidates.keep

    def counted(self, *arguments):
        keep(self, *arguments)
        most.append(len(list(tmp_path.rglob("*.max_fim.*.resume.safetensors"))))

    monkeypatch.setattr(Candidates, "keep", counted)
    outputs = {"max_fim": tmp_path / "max_fim" / "checkpoint.safetensors"}
    run(
        task, encoder, tmp_path, recipe=RECIPE | {"epochs": 4},
        measure=lambda tower, head: {"log_trace": float(next(values)), "log_trace_se": 0.0},
        candidates=Candidates(outputs, "f", "task"),
    )  # fmt: skip
    assert most == [1, 2, 2, 2], "each epoch is better than the one before"


def test_an_average_of_weights_is_what_is_selected(task, encoder, tmp_path):
    run_with_selections(task, encoder, tmp_path, recipe=SELECTING | {"ema": 0.9})
    rows = pd.read_parquet(tmp_path / "training.parquet")
    weights, header = tensors_of(tmp_path / "max_fim" / "checkpoint.safetensors")
    tower = get_family("clip").build_tower(ENCODER["architecture"], weights)
    recorded = rows.set_index("epoch")["log_trace"][int(header["epoch"])]
    assert closeness(encoder[0])(tower, None)["log_trace"] == recorded


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
    recipe = Recipe(batch_size=1, lr=1.0, weight_decay=0, warmup_steps=4, clip=1, steps=12)
    rate = recipe.rates(Span(4, 1, 12))
    rates = [rate(1.0, step) for step in range(12)]
    np.testing.assert_allclose(rates[:4], [0.25, 0.5, 0.75, 1.0])
    expected = [0.5 * (1 + math.cos(math.pi * i / 8)) for i in range(8)]
    np.testing.assert_allclose(rates[4:], expected)


SGD = RECIPE | {"optimizer": "sgd", "momentum": 0.9, "lr": 0.02, "weight_decay": 0.0}


@pytest.mark.parametrize("accumulate", [2, 8])
def test_micro_batches_add_up_to_the_batch(task, encoder, tmp_path, accumulate):
    """Up to the order of floating-point sums; random crops are of the batch, not of its parts."""
    recipe = SGD | {"augmentation": "random_resized_crop", "crop_scale": [0.5, 1.0]}
    for name, change in (("whole", {}), ("divided", {"accumulate": accumulate})):
        (tmp_path / name).mkdir()
        run(task, encoder, tmp_path / name, recipe=recipe | change)
    curves = [pd.read_parquet(tmp_path / n / "training.parquet") for n in ("whole", "divided")]
    for column in loop.COLUMNS:
        np.testing.assert_allclose(curves[0][column], curves[1][column], rtol=1e-5)
    with (
        TensorFile(encoder[0]) as base,
        TensorFile(tmp_path / "whole" / "checkpoint.safetensors") as one,
        TensorFile(tmp_path / "divided" / "checkpoint.safetensors") as other,
    ):
        for key in one:
            moved = (one[key] - base[key]).norm()
            assert moved > 1e-4
            assert (one[key] - other[key]).norm() < 1e-3 * moved, key


def test_crops_change_what_is_learnt_and_not_what_is_validated(
    undisturbed, task, encoder, tmp_path
):
    cropped = run(task, encoder, tmp_path, recipe=RECIPE | {"augmentation": "random_resized_crop"})
    assert cropped[0] != undisturbed[0][0]
    rows = pd.read_parquet(tmp_path / "training.parquet")
    before = pd.read_parquet(undisturbed[1] / "training.parquet")
    assert rows["val_loss"].iloc[0] == before["val_loss"].iloc[0]


def fit_line(tmp_path, **change):
    """A linear regression by the shared loop: weights seen by each step, validated, and final."""
    torch.manual_seed(0)
    module = torch.nn.Linear(3, 1)
    inputs, targets = torch.randn(8, 3), torch.randn(8, 1)
    seen, validated = [], []

    def batch_loss(model, indices, part, step):
        seen.append(module.weight.detach().double().numpy().copy())
        shown = indices[part]
        return (model(inputs[shown]) - targets[shown]).square().mean(), torch.tensor(0)

    def validate(model):
        validated.append(model.weight.detach().double().numpy().copy())
        return {"val_loss": 0.0, "val_accuracy": 0.0}

    recipe = Recipe.read(
        {"batch_size": 4, "epochs": 3, "lr": 0.1, "weight_decay": 0, "warmup_steps": 0}
        | {"clip": None, "optimizer": "sgd", "schedule": "constant"}
        | change
    )
    loop.fit(
        module, batch_loss, 8, recipe, seed=0, device="cpu", validate=validate,
        state=tmp_path / "state", fingerprint="f", title="line",
    )  # fmt: skip
    return seen, validated, module.weight.detach().double().numpy()


def test_what_is_validated_and_kept_is_the_moving_average_of_the_weights(tmp_path):
    (tmp_path / "plain").mkdir()
    seen, _, last = fit_line(tmp_path / "plain")
    trajectory = [*seen, last]
    averaged, validated, kept = fit_line(tmp_path, ema=0.7)
    np.testing.assert_array_equal(averaged, seen)  # training itself goes on from the weights
    for epoch, value in enumerate(validated):
        steps = 2 * epoch
        expected = 0.7**steps * trajectory[0] + 0.3 * sum(
            0.7 ** (steps - i) * trajectory[i] for i in range(1, steps + 1)
        )
        np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_array_equal(kept, validated[-1])
    assert np.abs(kept - last).max() > 1e-3


def test_without_clipping_the_gradient_is_as_it_is(tmp_path):
    (tmp_path / "plain").mkdir()
    (tmp_path / "huge").mkdir()
    _, _, plain = fit_line(tmp_path / "plain")
    _, _, huge = fit_line(tmp_path / "huge", clip=1e9)
    _, _, small = fit_line(tmp_path, clip=1e-3)
    np.testing.assert_array_equal(plain, huge)
    assert np.abs(plain - small).max() > 1e-3


def test_without_clipping_a_loss_that_is_not_finite_proposes_it(task, encoder, tmp_path):
    with pytest.raises(MergeloomError, match=r"the loss is nan at step \d.*or set clip"):
        run(task, encoder, tmp_path, recipe=RECIPE | {"lr": 1e38, "warmup_steps": 0, "clip": None})


def test_steps_bound_a_run_within_an_epoch(task, encoder, tmp_path):
    recipe = {k: v for k, v in RECIPE.items() if k != "epochs"} | {"steps": 4}
    run(task, encoder, tmp_path, recipe=recipe)
    rows = pd.read_parquet(tmp_path / "training.parquet")
    assert list(rows["step"]) == [0, 3, 4]


@pytest.fixture
def trained_on(monkeypatch):
    """A list of the images that training reads, batch by batch."""
    read, take = [], ReadAhead.take

    def noted(self, indices, part):
        read.append(indices[part].tolist())
        return take(self, indices, part)

    monkeypatch.setattr(ReadAhead, "take", noted)
    return read


@pytest.mark.parametrize("balancing", [None, "none", "undersample"])
def test_an_epoch_is_a_permutation_of_the_images_as_they_are_given(
    undisturbed, task, encoder, tmp_path, trained_on, balancing
):
    recipe = RECIPE | ({"balancing": balancing} if balancing else {})
    assert run(task, encoder, tmp_path, recipe=recipe) == undisturbed[0]
    for epoch in range(3):
        shown = [i for batch in trained_on[3 * epoch : 3 * epoch + 3] for i in batch]
        assert shown == torch.randperm(24, generator=loop.generator(0, epoch + 1)).tolist()


def test_the_sampler_trains_on_what_it_draws_and_resumes_to_the_same_bytes(
    task, encoder, tmp_path, monkeypatch, trained_on
):
    recipe = RECIPE | {"balancing": "sampler"}
    (tmp_path / "whole").mkdir()
    expected = run(task, encoder, tmp_path / "whole", recipe=recipe)
    order = balanced_order(open_images(task / "train.safetensors").labels, 2, 0, "t")
    drawn = [batch.tolist() for epoch in (1, 2, 3) for batch in order(epoch).split(8)]
    assert trained_on == drawn
    assert len({i for batch in drawn[:3] for i in batch}) < 24, "drawn with replacement"
    with monkeypatch.context() as patch:
        interrupt(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            run(task, encoder, tmp_path, recipe=recipe)
    trained_on.clear()
    assert run(task, encoder, tmp_path, recipe=recipe) == expected
    assert trained_on == drawn[6:]


def test_the_sampler_refuses_a_head_of_classes_that_no_image_is_of(task, encoder, tmp_path):
    with TensorFile(encoder[1]) as file:
        weight = torch.cat([file["weight"], file["weight"][:1]])
    write_tensors(tmp_path / "head.safetensors", {"weight": weight}, {})
    head = tmp_path / "head.safetensors"
    with pytest.raises(MergeloomError, match=r"task: 1 of the 3 classes have no .*\(label 2\)"):
        run(task, encoder, tmp_path, head=head, recipe=RECIPE | {"balancing": "sampler"})
    run(task, encoder, tmp_path, head=head)


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"accumulate": 2}, r"a batch at once.*devices \(1\) and accumulate \(2\)"),
        ({"augmentation": "random_resized_crop"}, r"distorts its images.*remove augmentation"),
        ({"balancing": "sampler"}, r"of several tasks, .*remove balancing \(sampler\)"),
        ({"optimizer": "muon"}, r"'muon' is for models whose matrices are known"),
    ],
)
def test_pretraining_refuses_what_it_has_no_use_for(task, tmp_path, change, message):
    with pytest.raises(MergeloomError, match=message):
        pretrain(
            encoder=ENCODER,
            tasks=[(task / "train.safetensors", task / "classnames.txt", task / "templates.txt")],
            recipe=RECIPE | change,
            distortion={"invert": 0.5, "shift": 2, "contrast": 0.5, "noise": 0.1},
            seed=0,
            device="cpu",
            out=tmp_path / "base.safetensors",
            curve=tmp_path / "training.parquet",
            fingerprint="f",
            metadata={},
        )
    assert list(tmp_path.iterdir()) == []


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


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_devices_train_the_model_that_one_does(
    undisturbed, task, encoder, tmp_path, accumulate
):
    """Fabric's `ddp` over two CPU processes: equal up to the order of floating-point sums."""
    import subprocess
    import sys

    (tmp_path / "script.py").write_text(DDP)
    base, head = encoder
    arguments = {
        "encoder": ENCODER, "base": str(base), "head": str(head),
        "train": str(task / "train.safetensors"), "val": str(task / "val.safetensors"),
        "recipe": RECIPE | {"devices": 2, "strategy": "ddp", "accumulate": accumulate},
        "seed": 0, "device": "cpu",
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
