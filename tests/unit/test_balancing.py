"""Class balancing: drawn once, from the whole training set, before validation is split off."""

import numpy as np
import pytest
import torch
from pictures import encoded, pixels, shard

from mergeloom.data.balancing import balance_task, undersample
from mergeloom.data.shards import read_labels
from mergeloom.data.split_record import indices_of
from mergeloom.errors import MergeloomError
from mergeloom.io.jsonfile import write_json
from mergeloom.training.loop import generator
from mergeloom.training.sampling import balanced_order

MNIST = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
DIGITS = [str(digit) for digit in range(10)]
DRAWN = {"validation": [0], "excluded": []}


@pytest.fixture(scope="module")
def mnist():
    """Labels of MNIST's length and class counts."""
    labels = np.repeat(np.arange(10), MNIST)
    return np.random.default_rng(0).permutation(labels)


@pytest.fixture(scope="module")
def balanced_mnist(mnist):
    return balance_task(mnist, DIGITS, DRAWN, 0, "MNIST")


def small(seed=0, splits=None):
    labels = np.repeat([0, 1, 2], [50, 20, 30])
    labels = np.random.default_rng(1).permutation(labels)
    return labels, balance_task(labels, ["a", "b", "c"], splits, seed, "t")


def test_every_class_has_as_many_images_as_the_smallest(mnist, balanced_mnist):
    chosen = [*balanced_mnist["training"], *balanced_mnist["validation"]]
    assert len(chosen) == len(set(chosen)) == 54_210
    assert np.bincount(mnist[chosen]).tolist() == [5421] * 10
    assert balanced_mnist["counts"] == {"before": MNIST, "after": [5421] * 10}


def test_validation_is_split_off_the_balanced_images_as_public_code_splits_them(
    mnist, balanced_mnist
):
    """The subset's image at place 31034 is the first that public code trains on."""
    subset = undersample(mnist, DIGITS, 0, "MNIST")
    order = torch.randperm(54_210, generator=torch.Generator().manual_seed(0))
    assert order[0] == 31034
    assert balanced_mnist["training"] == np.sort(subset[order[:-5000]]).tolist()
    assert balanced_mnist["validation"] == np.sort(subset[order[-5000:]]).tolist()


def test_a_split_for_validation_stays_and_all_balanced_images_train():
    for splits in (None, {"validation": None, "excluded": None}):
        labels, record = small(splits=splits)
        assert record["validation"] is None
        assert np.bincount(labels[record["training"]]).tolist() == [20] * 3
        assert record["images"] == {"train": 100}


def test_images_that_must_not_validate_train_where_they_are_drawn():
    labels, _ = small()
    excluded = np.flatnonzero(np.arange(100) % 3 > 0).tolist()
    for seed in range(5):
        _, record = small(seed, {"validation": [0], "excluded": excluded})
        assert len(record["validation"]) == 6
        assert not set(record["validation"]) & set(excluded)
        assert set(record["training"]) & set(excluded)
        chosen = [*record["training"], *record["validation"]]
        assert np.bincount(labels[chosen]).tolist() == [20] * 3


def test_the_seed_decides_and_nothing_else_does():
    assert small(0, DRAWN)[1] == small(0, DRAWN)[1]
    assert small(0)[1]["training"] != small(1)[1]["training"]


def test_a_balanced_task_is_left_whole():
    labels = np.arange(30) % 3
    assert undersample(labels, ["a", "b", "c"], 0, "t").tolist() == list(range(30))


def test_every_image_of_a_class_is_as_likely():
    labels = np.array([0] * 10 + [1] * 4)
    times = np.zeros(14)
    for seed in range(2000):
        times[undersample(labels, ["a", "b"], seed, "t")] += 1
    assert times[10:].tolist() == [2000] * 4
    # Each of ten is drawn with probability 0.4: 800 times, within five standard deviations.
    assert abs(times[:10] - 800).max() < 5 * np.sqrt(2000 * 0.4 * 0.6)


def test_an_empty_class_names_task_class_and_remedy():
    with pytest.raises(MergeloomError) as raised:
        balance_task(np.array([0, 2, 2]), ["a", "b", "c", "d"], None, 0, "birds")
    for part in ("birds: 2 of the 4 classes have no training image (b, d)", "`balancing: none`"):
        assert part in str(raised.value)


def test_a_class_so_small_that_nothing_is_left_to_validate_is_an_error():
    labels = np.array([0] * 100 + [1] * 3)
    with pytest.raises(MergeloomError, match=r"t: validation needs a tenth of the 6 training"):
        balance_task(labels, ["a", "b"], DRAWN, 0, "t")


def test_the_record_gives_each_split_its_images(tmp_path):
    path = tmp_path / "undersample.json"
    for splits in (DRAWN, None):
        _, record = small(splits=splits)
        write_json(path, record)
        assert indices_of(path, "train").tolist() == record["training"]
        val = indices_of(path, "val")
        assert (None if val is None else val.tolist()) == record["validation"]
        assert indices_of(path, "test") is None


def test_labels_are_read_from_all_shards_and_no_image_is_decoded(tmp_path):
    for place, labels in enumerate(([2, 0], [1])):
        (tmp_path / f"{place}.tar").write_bytes(shard([b"no image"] * len(labels), labels, "png"))
    shards = [tmp_path / "0.tar", tmp_path / "1.tar"]
    labels = read_labels(shards, 3)
    assert labels.tolist() == [2, 0, 1]
    assert labels.dtype == np.int64
    (tmp_path / "0.tar").write_bytes(shard([encoded(pixels(1)[0])], [3], "png"))
    with pytest.raises(MergeloomError, match=r"0\.tar: sample s0000000\.cls: label 3 is outside"):
        read_labels(shards, 3)


LOPSIDED = torch.tensor([0] * 900 + [1] * 90 + [2] * 10)


def test_an_epoch_of_the_sampler_shows_every_class_as_often():
    order = balanced_order(LOPSIDED, 3, 0, "t")
    shown = torch.stack([order(epoch) for epoch in range(1, 31)])
    assert shown.shape == (30, 1000)
    assert shown.dtype == torch.int64
    # A third of 30 000 draws, within five standard deviations; the same of each image of a class.
    times = LOPSIDED[shown.flatten()].bincount().double()
    assert (times - 10_000).abs().max() < 5 * np.sqrt(30_000 / 3 * 2 / 3)
    rare = shown.flatten().bincount(minlength=1000)[990:].double()
    assert (rare - 1000).abs().max() < 5 * np.sqrt(1000)


def test_the_sampler_depends_on_seed_and_epoch_alone():
    first, again, other = (balanced_order(LOPSIDED, 3, seed, "t") for seed in (0, 0, 1))
    assert torch.equal(first(2), first(2))
    assert torch.equal(first(2), again(2))
    assert not torch.equal(first(2), first(1))
    assert not torch.equal(first(2), other(2))


def test_the_sampler_draws_in_float64_by_the_inverse_class_counts():
    weights = torch.tensor([1 / 900] * 900 + [1 / 90] * 90 + [1 / 10] * 10, dtype=torch.float64)
    expected = torch.multinomial(weights, 1000, replacement=True, generator=generator(3, 4))
    assert torch.equal(balanced_order(LOPSIDED, 3, 3, "t")(4), expected)


def test_a_head_with_more_classes_than_there_are_labels_is_refused_by_the_sampler():
    with pytest.raises(
        MergeloomError, match=r"t: 2 of the 5 classes have no training image \(label 3, label 4\)"
    ):
        balanced_order(LOPSIDED, 5, 0, "t")
