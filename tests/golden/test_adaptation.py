"""Adaptation at test time and what it is evaluated to, on a study in miniature."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from adaptive_study import COUNTS, PROVENANCE, SIZE, Study
from jsonschema import Draft202012Validator
from small_clip import TASKS

from mergeloom.adaptive import adaptation, evaluation, outcome
from mergeloom.adaptive.adaptation import Minimiser
from mergeloom.adaptive.coefficients import Moments
from mergeloom.adaptive.entropy import joined, mean_entropies
from mergeloom.adaptive.files import adapt_files, evaluate_files, times_of
from mergeloom.adaptive.mixed_batches import mixed_batches, score_together
from mergeloom.adaptive.outcome import MARGIN, Adaptation
from mergeloom.adaptive.plan import Plan
from mergeloom.adaptive.sampling import Reshuffled
from mergeloom.adaptive.scores import score
from mergeloom.adaptive.state_file import by_relative_depth, read_state
from mergeloom.errors import MergeloomError
from mergeloom.evaluation.precision import NotFinite
from mergeloom.io.tensors import TensorFile, write_tensors

SCHEMA = json.loads(
    (Path(__file__).parents[2] / "config/schema/adaptive_result.schema.json").read_text()
)
STEPS = {"split": "test", "steps": 6, "batch_size": 4, "lr": 0.01, "checkpoint": 2}
GATE = {"method": "gate", "adaptation": STEPS, "evaluation": {"granularity": "sample"}}
BY_LAYER = {**GATE, "parameters": {"per": "layer"}}
BY_DEPTH = {**GATE, "parameters": {"per": "layer", "transfer": "by_relative_depth"}}
FILES = {"out": "a.safetensors", "checkpoints": "a.checkpoints.safetensors",
         "curve": "a.parquet", "times": "a.times.json"}  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return Study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def larger(tmp_path_factory):
    """The same tasks on an encoder of three blocks."""
    return Study(tmp_path_factory.mktemp("larger"), layers=3, name="F")


def adapt(study, preset, folder, seed=0, **changed):
    subject = study.subject(preset, seed)
    paths = {name: folder / path for name, path in FILES.items()}
    given = {
        "inputs": study.paths["test"],
        "features": study.features_of(preset, "test"),
        "val_features": study.features_of(preset, "val"),
        "finetuned": study.finetuned,
        "corruption": None,
        "seed": seed,
        "fingerprint": "f",
        "title": "a test",
        "metadata": {},
    }
    benchmark = changed.pop("benchmark", study.benchmark())
    adapt_files(subject, benchmark, **paths, **(given | changed))
    return paths


def evaluate(study, preset, path, source=None, subject=None, **changed):
    given = {
        "features": study.features_of(preset, "test"),
        "val_features": study.features_of(preset, "val"),
        "finetuned": study.finetuned,
        "names": {**study.names, "adapter": "a"},
        "seed": 0,
        "provenance": PROVENANCE,
    }
    benchmark = changed.pop("benchmark", study.benchmark())
    return evaluate_files(
        subject or study.subject(preset), benchmark, adapted=path, source=source,
        **(given | changed),
    )  # fmt: skip


@pytest.fixture(scope="module")
def adapted(study, tmp_path_factory):
    return adapt(study, GATE, tmp_path_factory.mktemp("adapted"))


def test_the_entropy_of_each_task_is_that_under_its_own_head(study):
    benchmark = study.benchmark()
    tower = study.family.build_tower(
        study.encoder["architecture"], {k: v.float() for k, v in study.start.items()}
    ).eval()
    inputs = [benchmark.examples["test"][t].take(torch.arange(3)) for t in study.tasks]
    heads = [benchmark.heads[t] for t in study.tasks]
    heads[1] = heads[1][:3]  # another number of classes
    with torch.no_grad():
        found = mean_entropies(study.family, tower, heads, inputs)
    for value, head, images in zip(found, heads, inputs, strict=True):
        features = study.features(study.start, images).detach()
        logits = torch.nn.functional.normalize(features, dim=-1) @ head.double().T
        p = logits.softmax(dim=1).numpy()
        expected = -(p * np.log(p)).sum(axis=1).mean()
        assert float(value) == pytest.approx(expected, rel=1e-4)


def test_texts_of_several_lengths_are_padded_to_the_longest():
    found = joined([torch.ones(2, 3, dtype=torch.int64), torch.ones(1, 5, dtype=torch.int64)])
    assert found.tolist() == [[1, 1, 1, 0, 0]] * 2 + [[1] * 5]


def test_every_pass_over_a_split_is_a_new_permutation_that_the_seed_decides():
    sampler = Reshuffled(0, "digits", 10)
    drawn = torch.cat([sampler.batch(n, 4) for n in range(5)])
    assert sorted(drawn[:10].tolist()) == sorted(drawn[10:].tolist()) == list(range(10))
    assert drawn[:10].tolist() != drawn[10:].tolist()
    assert torch.equal(Reshuffled(0, "digits", 10).batch(3, 4), drawn[12:16])
    assert not torch.equal(Reshuffled(0, "shapes", 10).batch(0, 4), drawn[:4])
    assert Reshuffled(0, "digits", 3).batch(0, 8).max() == 2, "a split smaller than a batch"


def test_adaptation_lowers_the_entropy_and_leaves_a_curve_and_checkpoints(study, adapted):
    curve = pd.read_parquet(adapted["curve"])
    assert list(curve.columns) == ["step", "task", "entropy", "val_accuracy", "val_loss",
                                   "val_normalized_accuracy"]  # fmt: skip
    assert sorted(set(curve.step)) == [0, 2, 4, 6]
    assert set(curve.task) == {*study.tasks, "average"}
    average = curve[curve.task == "average"].set_index("step")
    assert average.entropy[6] < average.entropy[0]
    of_tasks = curve[(curve.step == 6) & (curve.task != "average")]
    assert average.entropy[6] == pytest.approx(of_tasks.entropy.mean())
    with TensorFile(adapted["checkpoints"]) as file, TensorFile(adapted["out"]) as kept:
        assert file["steps"].tolist() == [0, 2, 4, 6]
        assert torch.equal(file["bias"][0], torch.full((TASKS,), 0.3))
        assert torch.equal(file["bias"][-1], kept["bias"])
    spent = json.loads(adapted["times"].read_text())
    assert spent["adaptation_seconds"] > 0


def test_an_adapted_result_fits_the_schema_and_tells_what_was_before(study, adapted):
    found = evaluate(study, GATE, adapted["out"])
    Draft202012Validator(SCHEMA).validate(found.result)
    assert found.result["adaptation"]["chosen"] == 6
    assert found.result["adapter"]["extractor"] == "small"
    assert found.result["tasks"]["task0"]["n"] == COUNTS["test"]
    arithmetic = study.merged([0.3] * TASKS)
    for k, task in enumerate(study.tasks):
        examples = study.benchmark().examples["test"][task]
        head = study.benchmark().heads[task].double()
        features = study.features(arithmetic, examples.take(torch.arange(len(examples))))
        logits = torch.nn.functional.normalize(features, dim=-1) @ head.T
        right = (logits.argmax(dim=1) == examples.labels).double().mean()
        assert found.result["before"]["tasks"][task]["accuracy"] == pytest.approx(float(right)), k
    times = times_of(found, "cpu")
    assert set(times) == {"evaluation_seconds", "examples_per_second", "device", "threads"}


def test_per_sample_evaluation_is_the_merge_of_every_input(study, adapted):
    """Accuracies and losses against one merged model per image in float64."""
    result = evaluate(study, GATE, adapted["out"]).result
    stored = {n: t.double() for n, t in read_state(adapted["out"]).state.items()}
    for task, phi in study.phi("test").items():
        examples = study.benchmark().examples["test"][task]
        head = study.benchmark().heads[task].double()
        hidden = (phi.double() @ stored["hidden_weight"].T + stored["hidden_bias"]).relu()
        rows = (hidden @ stored["weight"].T + stored["bias"]).tolist()
        images = examples.take(torch.arange(len(examples)))
        features = torch.cat([
            study.features(study.merged(row), image[None])
            for row, image in zip(rows, images, strict=True)
        ])  # fmt: skip
        logits = torch.nn.functional.normalize(features, dim=-1) @ head.T
        loss = torch.nn.functional.cross_entropy(logits, examples.labels)
        assert result["tasks"][task]["loss"] == pytest.approx(float(loss), rel=1e-4)


@pytest.mark.parametrize("granularity", ["sample", "batch"])
def test_the_curve_validates_what_is_evaluated(study, tmp_path, granularity):
    preset = {**GATE, "evaluation": {"granularity": granularity}}
    paths = adapt(study, preset, tmp_path)
    result = evaluate(study, preset, paths["out"]).result
    curve = pd.read_parquet(paths["curve"])
    last = curve[curve["step"] == curve["step"].max()].set_index("task")
    for task, scores in result["validation"]["tasks"].items():
        assert last["val_loss"][task] == pytest.approx(scores["loss"], rel=1e-6)
        assert last["val_accuracy"][task] == scores["accuracy"]


def test_validation_and_mixed_batches_are_of_the_precision_of_the_evaluation(study, tmp_path):
    narrow = study.benchmark(precision="bfloat16")
    finetuned = study.finetuned | {"precision": {"dtype": "bfloat16"}}
    preset = {
        "method": "wemoe", "adaptation": {**STEPS, "steps": 1},
        "evaluation": {"granularity": "sample"},
    }  # fmt: skip
    paths = adapt(study, preset, tmp_path, benchmark=narrow, finetuned=finetuned)
    result = evaluate(study, preset, paths["out"], benchmark=narrow, finetuned=finetuned).result
    exact = evaluate(study, preset, paths["out"]).result
    curve = pd.read_parquet(paths["curve"])
    last = curve[curve["step"] == 1].set_index("task")
    for task, scores in result["validation"]["tasks"].items():
        assert last["val_loss"][task] == pytest.approx(scores["loss"], rel=1e-6)
        assert last["val_loss"][task] != exact["validation"]["tasks"][task]["loss"]
    losses = [r["mixed_batches"]["average"]["loss"] for r in (result, exact)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    with pytest.raises(MergeloomError, match="evaluated in bfloat16, this would be in float32"):
        adapt(study, preset, tmp_path, finetuned=finetuned)


def test_mixed_batches_whose_logits_are_not_finite_are_an_error(study, tmp_path):
    subject = study.subject({"method": "wemoe", "evaluation": {"granularity": "sample"}})
    with torch.no_grad():
        subject.adapter.routers[0].bias.fill_(math.inf)
    with pytest.raises(MergeloomError, match="logits are not finite"):
        score_together(study.benchmark(), subject.adapter, "test", 0)


def test_what_is_chosen_within_is_tabled_input_by_input_and_not_while_times_are_taken(
    study, tmp_path, monkeypatch
):
    preset = {
        "method": "wemoe", "adaptation": {**STEPS, "steps": 2},
        "evaluation": {"granularity": "sample"},
    }  # fmt: skip
    paths = adapt(study, preset, tmp_path)
    watched, scored = [], evaluation.score
    monkeypatch.setattr(
        evaluation,
        "score",
        lambda *given: watched.append(given[1].observer is not None) or scored(*given),
    )
    by_sample = evaluate(study, preset, paths["out"]).coefficients
    assert watched == [False, True, False, False]
    by_batch = {**preset, "evaluation": {"granularity": "batch"}}
    other = evaluate(study, by_batch, paths["out"], subject=study.subject(by_batch)).coefficients
    assert other["layer"] == by_sample["layer"]
    np.testing.assert_allclose(other["std"], by_sample["std"])
    assert min(by_sample["std"]) > 0


def test_moments_are_those_of_all_rows():
    rows = torch.randn(11, 2, 3, generator=torch.Generator().manual_seed(0))
    moments = Moments()
    for part in rows.split(4):
        moments.add(part)
    np.testing.assert_allclose(moments.mean, rows.double().mean(dim=0))
    np.testing.assert_allclose(moments.std, rows.double().std(dim=0, correction=0))


def test_a_batch_and_a_mixed_batch_share_the_mean_of_their_coefficients(study, adapted):
    by_batch = {**GATE, "evaluation": {"granularity": "batch"}}
    everything = study.benchmark(batch_size=TASKS * COUNTS["test"])
    result = evaluate(study, by_batch, adapted["out"], benchmark=everything).result
    stored = {n: t.double() for n, t in read_state(adapted["out"]).state.items()}

    def coefficients(phi):
        hidden = (phi.double() @ stored["hidden_weight"].T + stored["hidden_bias"]).relu()
        return (hidden @ stored["weight"].T + stored["bias"]).mean(dim=0).tolist()

    def loss(row, task):
        examples = study.benchmark().examples["test"][task]
        head = study.benchmark().heads[task].double()
        features = study.features(study.merged(row), examples.take(torch.arange(len(examples))))
        logits = torch.nn.functional.normalize(features, dim=-1) @ head.T
        return float(torch.nn.functional.cross_entropy(logits, examples.labels))

    phi = study.phi("test")
    shared = coefficients(torch.cat(list(phi.values())))
    for task in study.tasks:
        own = coefficients(phi[task])
        assert result["tasks"][task]["loss"] == pytest.approx(loss(own, task), rel=1e-4)
        mixed = result["mixed_batches"]["tasks"][task]
        assert mixed["loss"] == pytest.approx(loss(shared, task), rel=1e-4)
        assert mixed["n"] == COUNTS["test"]


def test_mixed_batches_hold_every_input_once():
    batches = mixed_batches({"a": 7, "b": 5}, 4, seed=0)
    assert [sum(len(rows) for rows in batch.values()) for batch in batches] == [4, 4, 4]
    for task, n in (("a", 7), ("b", 5)):
        rows = torch.cat([batch[task] for batch in batches if task in batch])
        assert sorted(rows.tolist()) == list(range(n))


def test_coefficients_are_tabled_by_task_and_expert(study, adapted):
    columns = pd.DataFrame(evaluate(study, GATE, adapted["out"]).coefficients)
    stored = {n: t.double() for n, t in read_state(adapted["out"]).state.items()}
    for task, phi in study.phi("test").items():
        hidden = (phi.double() @ stored["hidden_weight"].T + stored["hidden_bias"]).relu()
        values = hidden @ stored["weight"].T + stored["bias"]
        rows = columns[columns.task == task]
        assert list(rows.expert) == study.tasks
        np.testing.assert_allclose(rows["mean"], values.mean(dim=0), rtol=1e-5)
        np.testing.assert_allclose(rows["std"], values.std(dim=0, correction=0), atol=1e-6)


OTHERS = {
    "adamerging": {}, "wemoe": {}, "e_wemoe": {}, "concrete_task_arithmetic": {},
    "concrete_adamerging": {"mask_steps": 1},
}  # fmt: skip


@pytest.mark.parametrize("method", OTHERS)
def test_every_trained_adapter_adapts_and_is_evaluated(study, tmp_path, method):
    preset = {
        "method": method, "parameters": OTHERS[method],
        "adaptation": {**STEPS, "steps": 2, "granularity": "sample"},
        "evaluation": {"granularity": "sample"},
    }  # fmt: skip
    paths = adapt(study, preset, tmp_path)
    found = evaluate(study, preset, paths["out"])
    Draft202012Validator(SCHEMA).validate(found.result)
    assert found.result["before"]["tasks"] != found.result["tasks"]
    table = pd.DataFrame(found.coefficients)
    assert set(table.task) == set(study.tasks)
    assert table["mean"].notna().all()
    assert found.result["mixed_batches"]["average"]["accuracy"] > 0


@pytest.mark.parametrize("method", ["smile", "task_classifier"])
def test_what_is_not_trained_is_evaluated_from_its_file_alike(study, tmp_path, method):
    preset = {
        "method": method, "evaluation": {"granularity": "sample"},
        **({"adaptation": {"split": "test"}} if method == "task_classifier" else {}),
    }  # fmt: skip
    paths = adapt(study, preset, tmp_path)
    found = evaluate(study, preset, paths["out"])
    Draft202012Validator(SCHEMA).validate(found.result)
    assert found.result["before"] is None
    assert found.result["parameters"]["trainable"] == 0
    if method == "task_classifier":
        assert found.result["average"]["accuracy"] == 1, "experts answer their own tasks right"
        mixed = found.result["mixed_batches"]["average"]
        assert mixed["loss"] != found.result["average"]["loss"], "a third of each expert"
    assert pd.read_parquet(paths["curve"]).empty


def test_adamerging_takes_one_vector_per_task_of_a_merger(study, tmp_path):
    from mergeloom.merging.engine import merge_files, plan_merge

    merged = tmp_path / "ties.safetensors"
    merge_files(study.base, study.vectors, plan_merge("ties_vectors"), merged, "clip")
    preset = {"method": "adamerging", "vectors": "ties_vectors", "adaptation": STEPS,
              "evaluation": {"granularity": "batch"}}  # fmt: skip
    subject = study.subject(preset, vectors=merged)
    assert subject.mixture.size == TASKS
    kept = sum(int((stack != 0).sum()) for stack in subject.mixture.stacks.values())
    total = sum(stack.numel() for stack in subject.mixture.stacks.values())
    assert 0 < kept <= 0.21 * total


def test_the_low_rank_form_says_its_error(study, adapted):
    preset = {**GATE, "evaluation": {"granularity": "sample", "rank": 4}}
    result = evaluate(study, preset, adapted["out"]).result
    Draft202012Validator(SCHEMA).validate(result)
    assert result["evaluation"]["form"] == "low_rank"
    assert 0 < result["evaluation"]["error"] < 1
    exact = evaluate(study, GATE, adapted["out"]).result
    assert result["parameters"]["stored"] < exact["parameters"]["stored"]


def test_only_what_the_mixture_combines_has_a_low_rank_form(study, tmp_path):
    preset = {"method": "smile", "evaluation": {"granularity": "sample", "rank": 4}}
    paths = adapt(study, preset, tmp_path)
    with pytest.raises(MergeloomError, match="adapter 'a' has no low-rank form"):
        evaluate(study, preset, paths["out"])


def test_an_interrupted_adaptation_ends_in_the_same_bytes(study, tmp_path, monkeypatch):
    whole = adapt(study, GATE, tmp_path / "whole")
    checkpoint, calls = Minimiser._checkpoint, []

    def killed(self, found, step, title):
        calls.append(step)
        if step == 4:
            raise KeyboardInterrupt
        return checkpoint(self, found, step, title)

    monkeypatch.setattr(Minimiser, "_checkpoint", killed)
    with pytest.raises(KeyboardInterrupt):
        adapt(study, GATE, tmp_path / "cut")
    assert not (tmp_path / "cut" / FILES["out"]).exists()
    monkeypatch.setattr(
        Minimiser,
        "_checkpoint",
        lambda s, f, step, t: calls.append(step) or checkpoint(s, f, step, t),
    )
    cut = adapt(study, GATE, tmp_path / "cut")
    assert calls == [0, 2, 4, 4, 6]
    for name in ("out", "checkpoints", "curve"):
        assert cut[name].read_bytes() == whole[name].read_bytes(), name
    assert not list((tmp_path / "cut").glob(".*")), "what it went on from is removed"


@pytest.mark.parametrize("keep", ["best", "last"])
def test_of_large_states_only_those_that_may_be_kept_are_resumed_from(
    study, tmp_path, monkeypatch, keep
):
    preset = {
        "method": "concrete_adamerging", "parameters": {"mask_steps": 3},
        "adaptation": {**STEPS, "steps": 8, "keep": keep, "lr": 0.5},
        "evaluation": {"granularity": "batch"},
    }  # fmt: skip
    everything = adapt(study, preset, tmp_path / "everything")
    monkeypatch.setattr(outcome, "LARGE", 0)
    whole = adapt(study, preset, tmp_path / "whole")
    checkpoint = Minimiser._checkpoint
    kept = []

    def killed(self, found, step, title):
        done = checkpoint(self, found, step, title)
        kept.append(sorted(found.states))
        if step == 6:
            raise KeyboardInterrupt
        return done

    monkeypatch.setattr(Minimiser, "_checkpoint", killed)
    with pytest.raises(KeyboardInterrupt):
        adapt(study, preset, tmp_path / "cut")
    monkeypatch.setattr(Minimiser, "_checkpoint", checkpoint)
    cut = adapt(study, preset, tmp_path / "cut")
    for name in ("out", "checkpoints", "curve"):
        assert cut[name].read_bytes() == whole[name].read_bytes(), name
    assert whole["out"].read_bytes() == everything["out"].read_bytes()
    assert max(map(len, kept)) == (1 if keep == "last" else 2)
    with TensorFile(cut["checkpoints"]) as file:
        assert list(file) == ["steps"]
        assert not len(file["steps"])
    if keep == "best":
        assert read_state(cut["out"]).adaptation["chosen"] < 6, "an earlier state was kept"


def test_the_state_of_another_run_is_not_gone_on_with(study, tmp_path, monkeypatch):
    checkpoint = Minimiser._checkpoint
    seen = []

    def watched(self, found, step, title):
        seen.append(step)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return checkpoint(self, found, step, title)

    monkeypatch.setattr(Minimiser, "_checkpoint", watched)
    with pytest.raises(KeyboardInterrupt):
        adapt(study, GATE, tmp_path)
    adapt(study, GATE, tmp_path, fingerprint="another")
    assert seen == [0, 2, 4, 0, 2, 4, 6]


def test_an_entropy_that_is_not_finite_ends_adaptation_at_the_last_good_checkpoint(
    study, tmp_path, monkeypatch, caplog
):
    entropies, calls = adaptation.mean_entropies, []

    def breaking(*given):
        calls.append(1)
        found = entropies(*given)
        # 4 probes, 2 steps, 4 probes, then the first step after the checkpoint.
        return found * math.nan if len(calls) > 10 else found

    monkeypatch.setattr(adaptation, "mean_entropies", breaking)
    paths = adapt(study, GATE, tmp_path)
    stored = read_state(paths["out"])
    assert stored.adaptation["chosen"] == 2
    assert stored.adaptation["stopped"] == {"step": 2, "reason": "the entropy is not finite"}
    assert all(torch.isfinite(t).all() for t in stored.state.values())
    assert "the entropy is not finite at step 2; the state of step 2 is kept" in caplog.text
    monkeypatch.undo()
    Draft202012Validator(SCHEMA).validate(evaluate(study, GATE, paths["out"]).result)


def test_logits_that_are_not_finite_on_validation_data_end_adaptation_alike(
    study, tmp_path, monkeypatch, caplog
):
    scored, calls = adaptation.score, []

    def breaking(*given):
        calls.append(1)
        if len(calls) == 3:
            raise NotFinite("the model's logits are not finite")
        return scored(*given)

    monkeypatch.setattr(adaptation, "score", breaking)
    paths = adapt(study, GATE, tmp_path)
    stored = read_state(paths["out"])
    assert stored.adaptation["chosen"] == 2
    reason = "the validation loss is not finite"
    assert stored.adaptation["stopped"] == {"step": 4, "reason": reason}
    assert f"{reason} at step 4; the state of step 2 is kept" in caplog.text
    with TensorFile(paths["checkpoints"]) as file:
        assert torch.equal(file["bias"][-1], stored.state["bias"])
    monkeypatch.undo()
    Draft202012Validator(SCHEMA).validate(evaluate(study, GATE, paths["out"]).result)


def test_weights_that_are_not_finite_give_no_validation_loss(study):
    subject = study.subject({"method": "adamerging", "evaluation": {"granularity": "batch"}})
    with torch.no_grad():
        subject.adapter.clamp = False
        subject.adapter.values.fill_(math.nan)
    with pytest.raises(NotFinite, match="a weight is NaN or too large"):
        score(study.benchmark(), subject.adapter, "val", None, "batch")


def test_a_model_that_is_broken_before_adaptation_is_an_error(study, tmp_path, monkeypatch):
    monkeypatch.setattr(adaptation, "mean_entropies", lambda *given: torch.full((TASKS,), math.nan))
    with pytest.raises(MergeloomError, match="before adaptation the entropy is not finite"):
        adapt(study, GATE, tmp_path)


def curve_of(entropies, accuracies):
    """Rows of one task at steps 0, 1, ..., and of the average, which is the same."""
    return Adaptation([
        {"step": step, "task": task, "entropy": entropy, "val_accuracy": accuracy,
         "val_loss": 0.0, "val_normalized_accuracy": accuracy}
        for step, (entropy, accuracy) in enumerate(zip(entropies, accuracies, strict=True))
        for task in ("a", "average")
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("entropies", "accuracies", "collapsed"),
    [
        ((2.0, 1.0), (0.8, 0.7), True),
        ((2.0, 1.0), (0.8, 0.795), False),  # within the margin
        ((2.0, 1.0), (0.8, 0.9), False),
        ((1.0, 2.0), (0.8, 0.7), False),  # no better an entropy either
    ],
)
def test_a_collapse_is_a_lower_entropy_at_a_lower_accuracy(entropies, accuracies, collapsed):
    found = curve_of(entropies, accuracies).collapsed(1)
    assert found == {"average": collapsed, "tasks": ["a"] if collapsed else []}


def test_a_collapse_is_warned_of_with_its_tasks(study, tmp_path, monkeypatch, caplog):
    fell = {"average": False, "tasks": ["task1", "task2"]}
    monkeypatch.setattr(Adaptation, "collapsed", lambda self, step: dict(fell))
    adapt(study, GATE, tmp_path)
    assert "a test: collapsed on task1, task2: entropy fell" in caplog.text


CORRUPTED = {"corruption": "contrast", "severity": 2}


def test_what_adapts_to_corrupted_inputs_says_that_they_are_of_the_test_split(study, tmp_path):
    preset = {**GATE, "adaptation": {**STEPS, "split": "val", "patience": 7}}
    paths = adapt(study, preset, tmp_path / "corrupted", corruption=CORRUPTED)
    found = read_state(paths["out"]).adaptation
    assert found["split"] == "test"
    assert CORRUPTED.items() <= found.items()
    assert (found["checkpoint"], found["patience"]) == (STEPS["checkpoint"], 7)
    plain = adapt(
        study, preset, tmp_path / "plain",
        inputs=study.paths["val"], features=study.paths["val_features"],
    )  # fmt: skip
    assert read_state(plain["out"]).adaptation["split"] == "val"


@pytest.mark.parametrize("evaluated_on", [None, {"benchmark": "C", "unseen": []}, CORRUPTED])
def test_corrupted_inputs_that_are_answered_worse_than_before_are_a_collapse(
    study, tmp_path, evaluated_on
):
    """Here the test inputs stand for corrupted ones, and the state is broken after its adaptation:
    validation accuracy did not fall."""
    paths = adapt(study, GATE, tmp_path, corruption=CORRUPTED)
    stored = read_state(paths["out"])
    flags = {"average": False, "tasks": ["task1"]}
    state = stored.state | {"weight": torch.zeros(TASKS, SIZE), "bias": torch.tensor([1.0, 0, 0])}
    with TensorFile(paths["out"]) as file:
        header = dict(file.metadata)
    header["adaptation"] = json.dumps(stored.adaptation | {"collapsed": flags})
    write_tensors(paths["out"], state, header)
    splits = ("test",) if evaluated_on else ("val", "test")
    result = evaluate(
        study, GATE, paths["out"], benchmark=study.benchmark(splits), evaluated_on=evaluated_on
    ).result
    Draft202012Validator(SCHEMA).validate(result)
    lower = [
        task for task in study.tasks
        if result["tasks"][task]["accuracy"] < result["before"]["tasks"][task]["accuracy"] - MARGIN
    ]  # fmt: skip
    assert "task2" in lower
    assert "task0" not in lower, "it has its own expert now"
    expected = [t for t in study.tasks if t in lower or t == "task1"]
    found = result["adaptation"]["collapsed"]
    if evaluated_on == CORRUPTED:
        worse = result["average"]["accuracy"] < result["before"]["average"]["accuracy"] - MARGIN
        assert found == {"average": worse, "tasks": expected}
    else:
        assert found == flags


def test_the_best_step_is_the_first_of_the_highest_validation_accuracy():
    found = curve_of((3, 2, 1, 0), (0.5, 0.7, 0.7, 0.6))
    assert found.chosen("best") == 1
    assert found.chosen("last") == 3
    assert curve_of((3, 2), (0.5, 0.4)).chosen("best") == 0, "adaptation made it worse"


def test_patience_ends_adaptation_and_best_keeps_its_state(study, tmp_path):
    plan = {**STEPS, "steps": 20, "checkpoint": 1, "patience": 1, "keep": "best", "lr": 3.0}
    paths = adapt(study, {**GATE, "adaptation": plan}, tmp_path)
    stored = read_state(paths["out"])
    curve = pd.read_parquet(paths["curve"])
    average = curve[curve.task == "average"]
    best = int(average.step[average.val_normalized_accuracy.idxmax()])
    assert stored.adaptation["chosen"] == best
    assert stored.adaptation["stopped"] == {"step": best + 1, "reason": "patience"}
    with TensorFile(paths["checkpoints"]) as file:
        place = file["steps"].tolist().index(best)
        assert torch.equal(file["bias"][place], stored.state["bias"])


def test_an_unknown_key_of_a_plan_is_named():
    with pytest.raises(MergeloomError, match="adaptation has no key step; it has: batch_size"):
        Plan.read({"split": "test", "step": 3})


def test_a_gate_per_task_serves_another_encoder(study, larger, adapted):
    found = evaluate(larger, GATE, adapted["out"], source="E").result
    Draft202012Validator(SCHEMA).validate(found)
    assert found["transferred_from"]["encoder"] == "E"
    assert found["encoder"] == "F"


def test_a_gate_per_layer_serves_another_encoder_by_relative_depth_alone(study, larger, tmp_path):
    exact = adapt(study, BY_LAYER, tmp_path / "exact")
    with pytest.raises(MergeloomError, match=r"keys differ: .* 32 parameters of E, and F has 44"):
        evaluate(larger, BY_LAYER, exact["out"], source="E")
    paths = adapt(study, BY_DEPTH, tmp_path / "depth")
    subject = larger.subject(BY_DEPTH)
    found = evaluate(larger, BY_DEPTH, paths["out"], source="E", subject=subject)
    Draft202012Validator(SCHEMA).validate(found.result)
    stored = read_state(paths["out"])
    features = larger.phi("test")["task0"]
    own = study.subject(BY_DEPTH)
    own.adapter.load(stored.state)
    moved = larger.subject(BY_DEPTH)
    moved.adapter.load(
        moved.adapter.relayered(stored.state, by_relative_depth(stored.sidecar, moved.sidecar))
    )
    source, target = (s.adapter.coefficients(features, len(features)) for s in (own, moved))
    keys = {s: {k: i for i, k in enumerate(x.mixture.keys)} for s, x in (("E", own), ("F", moved))}
    block = "visual.transformer.resblocks.{}.mlp.c_fc.weight"
    # Of blocks 0, 1 and 2 of three the nearest of two are 0, 0 (as near as 1) and 1.
    for here, there in ((0, 0), (1, 0), (2, 1)):
        assert torch.equal(
            target[..., keys["F"][block.format(here)]], source[..., keys["E"][block.format(there)]]
        )
    assert torch.equal(target[..., keys["F"]["visual.proj"]], source[..., keys["E"]["visual.proj"]])


@pytest.mark.parametrize(
    ("field", "change", "message"),
    [
        ("tasks", {"tasks": ["task1", "task0", "task2"]}, 'tasks is ."task0", "task1"'),
        ("K", {"K": 8}, "K is 3, but the target .* has 8"),
        ("extractor", {"extractor": "resnet18"}, 'extractor is "small", .* has "resnet18"'),
        ("d", {"d": 512}, "d is 5, but the target .* has 512. It reads features of that size"),
        ("preprocessing", {"preprocessing": {"size": 224}}, "preprocessing is .*8.*, but .*224"),
        ("method", {"method": "adamerging"}, 'method is "gate", but the target'),
        ("parameters", {"parameters": {"per": "layer"}}, "parameters is .*task.*layer"),
        ("vectors", {"vectors": "ties_vectors"}, "vectors is null, but .*ties_vectors"),
    ],
)
@pytest.mark.parametrize("source", [None, "E"])
def test_a_sidecar_that_disagrees_says_in_which_field(
    study, larger, adapted, field, change, message, source
):
    where = study if source is None else larger
    subject = where.subject(GATE)
    subject.sidecar |= change
    with pytest.raises(MergeloomError, match=message):
        evaluate(where, GATE, adapted["out"], source=source, subject=subject)


def test_a_state_of_the_encoders_own_layers_serves_no_other(study, larger, tmp_path):
    preset = {"method": "wemoe", "adaptation": {**STEPS, "steps": 1},
              "evaluation": {"granularity": "sample"}}  # fmt: skip
    paths = adapt(study, preset, tmp_path)
    with pytest.raises(MergeloomError, match="belongs to the layers of E, and serves no other"):
        evaluate(larger, preset, paths["out"], source="E")


def test_a_copied_state_is_noticed(study, larger, adapted):
    with pytest.raises(
        MergeloomError, match='encoder is "E", but the target F/finetuned/B has "F"'
    ):
        evaluate(larger, GATE, adapted["out"])
    with pytest.raises(MergeloomError, match="encoder is 'E', expected 'G'"):
        evaluate(larger, GATE, adapted["out"], source="G")


def test_tasks_that_the_gate_never_saw_are_evaluated_when_asked_for(study, tmp_path):
    seen, unseen = study.tasks[:2], study.tasks[2:]
    given = {"tasks": seen, "vectors": study.vectors[:2]}
    benchmark = study.benchmark(tasks=seen)
    paths = {name: tmp_path / path for name, path in FILES.items()}
    adapt_files(
        study.subject(GATE, **given), benchmark, **paths,
        inputs=study.paths["test"][:2], features=study.paths["test_features"][:2],
        val_features=study.paths["val_features"][:2],
        finetuned=study.finetuned, corruption=None, seed=0, fingerprint="f", title="t", metadata={},
    )  # fmt: skip
    found = evaluate(
        study, GATE, paths["out"], subject=study.subject(GATE, **given),
        benchmark=study.benchmark(splits=("test",), tasks=unseen),
        features=study.paths["test_features"][2:],
        evaluated_on={"benchmark": "C", "unseen": unseen},
    )  # fmt: skip
    Draft202012Validator(SCHEMA).validate(found.result)
    assert found.result["evaluated_on"]["unseen"] == unseen
    assert list(found.result["tasks"]) == unseen
    assert set(found.coefficients["task"]) == set(unseen)
    assert set(found.coefficients["expert"]) == set(seen)
    stored = read_state(paths["out"])
    assert stored.sidecar["tasks"] == seen
    # Against the merge of the two seen experts for every input of the third task, in float64.
    [task] = unseen
    examples = study.benchmark().examples["test"][task]
    gate = study.subject(GATE, **given).adapter
    gate.load(stored.state)
    phi = study.phi("test")[task]
    rows = gate.coefficients(phi, len(phi)).detach().double()
    images = examples.take(torch.arange(len(examples)))
    features = torch.cat([
        study.features(study.merged([*row.tolist(), 0.0]), image[None])
        for row, image in zip(rows, images, strict=True)
    ])  # fmt: skip
    head = study.benchmark().heads[task].double()
    logits = torch.nn.functional.normalize(features, dim=-1) @ head.T
    loss = torch.nn.functional.cross_entropy(logits, examples.labels)
    assert found.result["tasks"][task]["loss"] == pytest.approx(float(loss), rel=1e-4)


def test_features_of_other_examples_are_refused(study, tmp_path):
    with pytest.raises(MergeloomError, match=r"features are .* \[12, 5\], but the split has 20"):
        adapt(study, GATE, tmp_path, features=study.paths["val_features"])


def test_the_order_of_the_tasks_is_no_matter(study, tmp_path):
    """Adapted with the tasks in another order, the gate gives the same coefficients in that."""
    order = [2, 0, 1]
    plain = adapt(study, GATE, tmp_path / "plain")
    tasks = [study.tasks[k] for k in order]
    subject = study.subject(GATE, tasks=tasks, vectors=[study.vectors[k] for k in order])
    paths = {name: tmp_path / path for name, path in FILES.items()}
    adapt_files(
        subject, study.benchmark(tasks=tasks), **paths,
        inputs=[study.paths["test"][k] for k in order],
        features=[study.paths["test_features"][k] for k in order],
        val_features=[study.paths["val_features"][k] for k in order],
        finetuned=study.finetuned, corruption=None, seed=0, fingerprint="f", title="t", metadata={},
    )  # fmt: skip
    one, other = (read_state(p["out"]).state for p in (plain, paths))
    torch.testing.assert_close(other["bias"], one["bias"][order], rtol=1e-3, atol=1e-4)
