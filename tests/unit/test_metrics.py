"""Metrics are the formulas', whatever the batches."""

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, top_k_accuracy_score

from mergeloom.evaluation.metrics import Confusion, Reliability, TopAccuracy

CLASSES, IMAGES = 8, 500


@pytest.fixture(scope="module")
def predictions():
    """Logits that are somewhat right, and labels; class 7 has no image."""
    random = np.random.default_rng(0)
    labels = random.integers(0, CLASSES - 1, IMAGES)
    logits = random.standard_normal((IMAGES, CLASSES)).astype(np.float32)
    logits[np.arange(IMAGES), labels] += 1.2
    return logits, labels


def counted(counter, predictions, batch=64):
    logits, labels = (torch.from_numpy(part) for part in predictions)
    for start in range(0, len(labels), batch):
        counter.update(logits[start : start + batch], labels[start : start + batch])
    return counter


@pytest.mark.parametrize("batch", [1, 64, 1000])
def test_top_5_is_that_of_scikit_learn(predictions, batch):
    found = counted(TopAccuracy(CLASSES, "cpu"), predictions, batch).score()
    logits, labels = predictions
    assert found == top_k_accuracy_score(labels, logits, k=5, labels=range(CLASSES))


def test_top_5_of_three_classes_is_always_right(predictions):
    logits, labels = predictions[0][:, :3], predictions[1] % 3
    assert counted(TopAccuracy(3, "cpu"), (logits, labels)).score() == 1.0


@pytest.mark.parametrize("batch", [1, 64, 1000])
def test_the_confusion_matrix_and_mean_recall_are_those_of_scikit_learn(predictions, batch):
    logits, labels = predictions
    confusion = counted(Confusion(CLASSES, "cpu"), predictions, batch)
    expected = confusion_matrix(labels, logits.argmax(1), labels=range(CLASSES))
    np.testing.assert_array_equal(confusion.counts.numpy(), expected)
    # Of the classes that have images, as scikit-learn has it, too.
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        recall = balanced_accuracy_score(labels, logits.argmax(1))
    assert confusion.score() == pytest.approx(recall, rel=1e-12)


@pytest.mark.parametrize("batch", [1, 64, 1000])
def test_the_calibration_error_is_the_formulas(predictions, batch):
    logits, labels = predictions
    shares = np.exp(logits.astype(float))
    shares /= shares.sum(1, keepdims=True)
    confidence, right = shares.max(1), shares.argmax(1) == labels
    expected = 0.0
    for low in range(15):
        inside = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    reliability = counted(Reliability(CLASSES, "cpu"), predictions, batch)
    assert reliability.score() == pytest.approx(expected, rel=1e-9)
    assert int(reliability.count.sum()) == IMAGES
    assert int(reliability.correct.sum()) == right.sum()


def test_certainty_that_is_right_half_of_the_time_is_off_by_a_half():
    logits = torch.tensor([[100.0, 0.0]] * 10)
    labels = torch.tensor([0, 1] * 5)
    reliability = Reliability(2, "cpu")
    reliability.update(logits, labels)
    assert reliability.score() == pytest.approx(0.5)
    assert reliability.count.tolist() == [0] * 14 + [10]


def test_a_model_without_a_clue_is_calibrated():
    """Equal logits: confidence is 1/C, and so is the accuracy on balanced labels."""
    labels = torch.arange(4).repeat(5)
    reliability = Reliability(4, "cpu")
    reliability.update(torch.zeros(20, 4), labels)
    assert reliability.score() == pytest.approx(0.0, abs=1e-12)
