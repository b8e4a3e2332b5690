"""Linear probes: trained at once against one by one, and the search against its rule."""

import itertools
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score
from sklearn.model_selection import train_test_split
from torch import Tensor

from mergeloom.errors import MergeloomError
from mergeloom.linalg.products import times_transpose
from mergeloom.similarity.feature_table import FeatureTable, LabelledFeatures
from mergeloom.similarity.held_out import hold_out_stratified
from mergeloom.similarity.logistic import train_logistic
from mergeloom.similarity.peak_search import WEIGHT_DECAYS, Candidate, search_peak
from mergeloom.similarity.probe import Probe, Protocol, fit_probes
from mergeloom.similarity.probe_scores import accuracies, score
from mergeloom.similarity.probe_training import initial_weights, train_probes

CLASSES, WIDTH = 7, 24
RATES = (1e-1, 1e-2, 1e-3, 1e-4)
QUICK = Protocol(epochs=3, batch_size=64, learning_rates=(1e-1, 1e-2))


def make_split(count: int, seed: int = 0, classes: int = CLASSES) -> LabelledFeatures:
    """Unit features around a centre per class, so that no probe is right about all."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, WIDTH))
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, count - classes)])
    features = 0.5 * centres[labels] + rng.normal(size=(count, WIDTH))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return LabelledFeatures(features.astype(np.float32), labels)


def make_table(split: LabelledFeatures, memory: int = 2**30) -> FeatureTable:
    return FeatureTable(split, "cpu", memory, "made up")


def plain_training(
    split: LabelledFeatures, candidate: Candidate, epochs: int, batch_size: int, dtype: torch.dtype
) -> Tensor:
    """torch.nn.Linear and torch.optim.AdamW, as anybody writes it down: [C, d + 1]."""
    features = torch.from_numpy(np.asarray(split.features)).to(dtype)
    labels = torch.from_numpy(split.labels)
    torch.manual_seed(3)
    model = torch.nn.Linear(WIDTH, CLASSES)  # in float32, whatever it goes on in
    model = model.to(dtype)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=candidate.learning_rate, weight_decay=candidate.weight_decay
    )
    steps = epochs * math.ceil(len(labels) / batch_size)
    step = 0
    for _ in range(epochs):
        for batch in torch.randperm(len(labels)).split(batch_size):
            for group in optimizer.param_groups:
                group["lr"] = candidate.learning_rate * (1 + math.cos(math.pi * step / steps)) / 2
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(features[batch]), labels[batch]).backward()
            optimizer.step()
            step += 1
    return torch.cat([model.weight, model.bias[:, None]], dim=1).detach()


def test_probes_begin_as_a_linear_layer_of_torch() -> None:
    torch.manual_seed(5)
    model = torch.nn.Linear(WIDTH, CLASSES)
    found = initial_weights(CLASSES, WIDTH + 1, torch.Generator().manual_seed(5))
    assert torch.equal(found[:, :-1], model.weight)
    assert torch.equal(found[:, -1], model.bias)


@pytest.mark.parametrize("count", [256, 300])  # 300 is no multiple of the batch size
def test_candidates_trained_at_once_follow_adamw(count: int) -> None:
    split = make_split(count)
    candidates = [Candidate(r, w) for r in RATES for w in (1e-6, 1e-2, 10.0)]
    found = train_probes(
        make_table(split), torch.arange(count), candidates, CLASSES, 3, epochs=5, batch_size=64
    )
    for candidate, weights in zip(candidates, found, strict=True):
        exact = plain_training(split, candidate, 5, 64, torch.float64)
        plain = plain_training(split, candidate, 5, 64, torch.float32)
        off = float((plain - exact).abs().max())
        # As far from float64 as torch's own float32 is, give or take, and no more.
        assert float((weights - exact).abs().max()) < max(5 * off, 2e-6)
        torch.testing.assert_close(weights, plain, rtol=1e-4, atol=1e-5)


def test_a_candidate_gets_at_once_what_it_gets_alone() -> None:
    split = make_split(300)
    table, rows = make_table(split), torch.arange(0, 300, 2)
    candidates = [Candidate(r, w) for r in RATES for w in WEIGHT_DECAYS[::9]]
    among = train_probes(table, rows, candidates, CLASSES, 1, epochs=4, batch_size=64)
    for candidate, weights in zip(candidates, among, strict=True):
        alone = train_probes(table, rows, [candidate], CLASSES, 1, epochs=4, batch_size=64)[0]
        torch.testing.assert_close(weights, alone, rtol=1e-5, atol=1e-6)


def test_products_by_convolution_are_products() -> None:
    for p, q, k in ((1, 1, 1), (3, 5, 7), (33, 17, 65), (200, 64, 130)):
        left, right = torch.randn(p, k), torch.randn(q, k)
        exact = left.double() @ right.double().T
        torch.testing.assert_close(
            times_transpose(left, right).double(), exact, rtol=0, atol=1e-6 * k
        )
        assert torch.equal(times_transpose(left.double(), right.double()), exact)


def one_after_another(table: dict[Candidate, float], rates: tuple[float, ...]) -> Candidate:
    """The search's rule as the study's code goes through it, candidate by candidate."""

    def peak_of(places: list[int], rate: float) -> tuple[int, float]:
        best, most = 0, 0.0
        for place in places:
            accuracy = table[Candidate(rate, WEIGHT_DECAYS[place])]
            if accuracy >= most:
                best, most = place, accuracy
        return best, most

    chosen, most_of_all = None, -1.0
    for rate in rates:
        peak, most = peak_of(list(range(0, 64, 9)), rate)
        for step in (4, 2, 1):
            beside = [p for p in (max(peak - step, 0), min(peak + step, 63)) if p != peak]
            place, accuracy = peak_of(beside, rate)
            if accuracy > most:
                peak, most = place, accuracy
        if most > most_of_all:
            chosen, most_of_all = Candidate(rate, WEIGHT_DECAYS[peak]), most
    assert chosen is not None
    return chosen


@pytest.mark.parametrize("levels", [2, 5, 1000])  # few of them: many ties
def test_the_search_in_rounds_ends_where_the_search_one_by_one_does(levels: int) -> None:
    rng = np.random.default_rng(levels)
    for _ in range(200):
        grid = itertools.product(RATES, WEIGHT_DECAYS)
        table = {Candidate(*pair): rng.integers(1, levels + 1) / levels for pair in grid}
        rounds: list[int] = []

        def look_up(
            candidates: list[Candidate],
            table: dict[Candidate, float] = table,
            rounds: list[int] = rounds,
        ) -> list[float]:
            rounds.append(len(candidates))
            return [table[candidate] for candidate in candidates]

        choice = search_peak(look_up, RATES)
        assert choice.candidate == one_after_another(table, RATES)
        assert choice.accuracy == table[choice.candidate]
        assert rounds[0] == 32
        assert len(rounds) <= 4
        assert max(rounds[1:]) <= 8
        assert len(choice.tried) == sum(rounds) <= 56


def test_the_grid_is_the_studys() -> None:
    assert len(WEIGHT_DECAYS) == 64
    np.testing.assert_allclose(WEIGHT_DECAYS[::9], 10.0 ** np.arange(-6, 2), rtol=1e-12)


def test_a_probe_is_the_one_found_by_training_candidates_one_by_one() -> None:
    train, test = make_split(400), make_split(150, seed=1)
    (probe,) = fit_probes(train, test, seeds=[3], protocol=QUICK)
    part, held = hold_out_stratified(train.labels, 0.2, 3, "made up")
    inner = LabelledFeatures(train.features[part], train.labels[part])
    features = torch.from_numpy(np.asarray(train.features[held]))
    one = torch.cat([features, torch.ones(len(held), 1)], dim=1)
    measured = {}
    for pair in itertools.product(QUICK.learning_rates, WEIGHT_DECAYS):
        weights = plain_training(inner, Candidate(*pair), 3, 64, torch.float32)
        guess = (one @ weights.T).argmax(dim=1).numpy()
        measured[Candidate(*pair)] = float(np.mean(guess == train.labels[held]))
    assert probe.chosen == one_after_another(measured, QUICK.learning_rates)
    assert probe.validation_accuracy == measured[probe.chosen]
    refit = plain_training(train, probe.chosen, 3, 64, torch.float32)
    torch.testing.assert_close(probe.weight, refit[:, :-1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(probe.bias, refit[:, -1], rtol=1e-4, atol=1e-5)


def test_scores_are_scikit_learns() -> None:
    train, test = make_split(300), make_split(200, seed=1)
    (probe,) = fit_probes(train, test, seeds=[0], protocol=QUICK)
    for split, found in ((train, probe.train), (test, probe.test)):
        logits = probe.logits(split.features).numpy()
        guess = logits.argmax(axis=1)
        assert found.n == len(split.labels)
        assert found.top1 == pytest.approx(np.mean(guess == split.labels))
        assert found.top5 == pytest.approx(top_k_accuracy_score(split.labels, logits, k=5))
        assert found.mean_class_recall == pytest.approx(
            balanced_accuracy_score(split.labels, guess)
        )
    assert probe.summary()["test"]["top1"] == probe.test.top1


@pytest.mark.parametrize(("classes", "there"), [(5, False), (6, True)])
def test_top5_is_given_from_six_classes_on(classes: int, there: bool) -> None:
    split = make_split(40, classes=classes)
    found = score(make_table(split), torch.zeros(classes, WIDTH + 1))
    assert math.isnan(found.top5) is not there


def test_validation_examples_are_scikit_learns() -> None:
    labels = make_split(303).labels
    train, validation = hold_out_stratified(labels, 0.2, 7, "made up")
    theirs = train_test_split(np.arange(303), test_size=0.2, stratify=labels, random_state=7)
    np.testing.assert_array_equal(train, np.sort(theirs[0]))
    np.testing.assert_array_equal(validation, np.sort(theirs[1]))


def same(one: Probe, other: Probe) -> None:
    assert one.chosen == other.chosen
    assert one.tried == other.tried
    torch.testing.assert_close(one.weight, other.weight, rtol=1e-5, atol=1e-6)


def test_seeds_make_the_difference_and_nothing_else_does() -> None:
    train, test = make_split(300), make_split(100, seed=1)
    first, second, again = fit_probes(train, test, seeds=[0, 1, 0], protocol=QUICK)
    same(first, again)
    assert not torch.equal(first.weight, second.weight)


def test_mapped_features_of_half_precision_in_little_memory_give_the_same(tmp_path: Path) -> None:
    split, test = make_split(300), make_split(100, seed=1)
    half = np.asarray(split.features).astype(np.float16)
    np.save(tmp_path / "features.npy", half)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    plain = LabelledFeatures(half.astype(np.float32), split.labels)
    (expected,) = fit_probes(plain, test, seeds=[0], protocol=QUICK)
    # So little that neither features nor two candidates at once are held.
    (found,) = fit_probes(
        LabelledFeatures(mapped, split.labels), test, seeds=[0], protocol=QUICK, memory=1000
    )
    same(expected, found)
    tensor = LabelledFeatures(torch.from_numpy(half), split.labels)
    (found,) = fit_probes(tensor, test, seeds=[0], protocol=QUICK)
    same(expected, found)


def test_a_probe_with_infinite_weights_is_right_about_nothing() -> None:
    split = make_split(50)
    weights = torch.zeros(2, CLASSES, WIDTH + 1)
    weights[1, 0, 0] = torch.inf
    first, second = accuracies(make_table(split), torch.arange(50), weights)
    assert first == np.mean(split.labels == 0)
    assert second == 0


def test_lbfgs_solves_what_scikit_learn_solves() -> None:
    split = make_split(200)
    penalties = [1e-3, 1e-2, 0.3, 10.0]
    found = train_logistic(make_table(split), torch.arange(200), penalties, CLASSES)
    for penalty, weights in zip(penalties, found, strict=True):
        theirs = LogisticRegression(C=1 / (200 * penalty), tol=1e-10, max_iter=10000)
        theirs.fit(split.features.astype(np.float64), split.labels)
        np.testing.assert_allclose(weights[:, :-1], theirs.coef_, atol=2e-5)
        # The biases are free of penalty, so that their sum is anything.
        bias = weights[:, -1] - weights[:, -1].mean()
        np.testing.assert_allclose(bias, theirs.intercept_ - theirs.intercept_.mean(), atol=2e-5)
        alone = train_logistic(make_table(split), torch.arange(200), [penalty], CLASSES)[0]
        torch.testing.assert_close(alone, weights, rtol=0, atol=1e-9)


def test_lbfgs_searches_the_penalty_alone() -> None:
    train, test = make_split(150), make_split(100, seed=1)
    (probe,) = fit_probes(train, test, seeds=[0], protocol=Protocol(solver="lbfgs"))
    assert probe.chosen.learning_rate is None
    assert probe.chosen.weight_decay in WEIGHT_DECAYS
    assert 8 <= len(probe.tried) <= 14
    assert probe.weight.dtype == torch.float64
    assert probe.test.top1 > 0.5


def test_lbfgs_says_when_it_has_not_come_to_an_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("mergeloom.similarity.logistic.MOST_STEPS", 2)
    with caplog.at_level(logging.WARNING):
        found = train_logistic(make_table(make_split(50)), torch.arange(50), [1e-6, 1e-3], CLASSES)
    assert "1e-06, 0.001" in caplog.text
    assert found.abs().max() > 0


def spoil(split: LabelledFeatures, what: str) -> LabelledFeatures:
    features, labels = np.array(split.features), split.labels.copy()
    match what:
        case "nan":
            features[3, 2] = np.nan
        case "length":
            labels = labels[:-1]
        case "single":
            labels[labels == 2] = 1
            labels[0] = 2
        case "one class":
            labels[:] = 4
        case "negative":
            labels[0] = -1
        case "fractions":
            labels = labels.astype(float)
        case "flat":
            features = features.ravel()
        case "few":
            features, labels = features[:20], labels[:20]
            labels[:] = np.arange(20) % CLASSES
    return LabelledFeatures(features, labels)


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("nan", "made up, train: features of row 3 are not finite"),
        ("length", "200 rows of features, but labels have the shape \\[199\\]"),
        ("single", "class 2 has a single example"),
        ("one class", "all 200 examples are of class 4"),
        ("negative", "the least is -1: expected whole numbers from 0"),
        ("fractions", "labels are float64"),
        ("flat", "expected a matrix"),
        ("few", "0.2 of 20 examples are 4, but each of the 7 classes"),
    ],
)
def test_what_no_probe_can_be_fitted_to_is_refused(what: str, says: str) -> None:
    with pytest.raises(MergeloomError, match=says):
        fit_probes(
            spoil(make_split(200), what),
            make_split(100, seed=1),
            seeds=[0],
            protocol=QUICK,
            title="made up",
        )


def test_splits_that_do_not_fit_one_another_are_refused() -> None:
    train, test = make_split(200), make_split(100, seed=1)
    narrow = LabelledFeatures(test.features[:, :-1], test.labels)
    with pytest.raises(MergeloomError, match="train have 24 columns, those of test 23"):
        fit_probes(train, narrow, seeds=[0], protocol=QUICK)
    with pytest.raises(MergeloomError, match="has a label 6, but 6 classes"):
        fit_probes(train, test, seeds=[0], classes=6, protocol=QUICK)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("solver", "sgd"),
        ("epochs", 0),
        ("batch_size", 0),
        ("learning_rates", ()),
        ("learning_rates", (0.1, 0.1)),
        ("validation", 1.0),
    ],
)
def test_a_protocol_out_of_its_ranges_is_refused(key: str, value: object) -> None:
    with pytest.raises(MergeloomError, match=f"linear probe: {key} is"):
        Protocol(**{key: value})  # type: ignore[arg-type]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("protocol", [QUICK, Protocol(solver="lbfgs")], ids=["adamw", "lbfgs"])
def test_a_probe_on_a_gpu_is_that_on_a_processor(protocol: Protocol) -> None:
    train, test = make_split(300), make_split(100, seed=1)
    (expected,) = fit_probes(train, test, seeds=[0], protocol=protocol)
    (found,) = fit_probes(train, test, seeds=[0], protocol=protocol, device="cuda")
    assert found.chosen == expected.chosen
    assert found.test.top1 == pytest.approx(expected.test.top1, abs=0.02)
    torch.testing.assert_close(found.weight, expected.weight, rtol=1e-3, atol=1e-3)
