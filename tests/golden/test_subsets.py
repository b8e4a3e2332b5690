"""Subsets of splits: the study's sizes, and classes as equal as they can be."""

import numpy as np
import pytest

from mergeloom.errors import MergeloomError
from mergeloom.similarity.subsets import draw_subset


def make_labels(sizes: list[int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))


@pytest.mark.parametrize(
    ("name", "classes", "rows"),
    [
        ("country211", 211, 10128),
        ("resisc45", 45, 10035),
        ("entity30", 30, 10020),
        ("living17", 17, 10013),
        ("nonliving26", 26, 10010),
        ("fer2013", 7, 10003),
        ("dmlab", 6, 10002),
        ("cifar10", 10, 10000),
        ("imagenet1k", 1000, 10000),
    ],
)
def test_subsets_have_the_studys_sizes(name: str, classes: int, rows: int) -> None:
    size = -(-10000 // classes) + 7
    labels = make_labels([size] * classes)
    found = draw_subset(labels, 10000, name=name, seed=42)
    assert len(found) == rows
    assert (np.diff(found) > 0).all()
    assert len(set(np.bincount(labels[found]))) == 1


def test_small_classes_are_taken_whole() -> None:
    labels = make_labels([3, 50, 100, 8])
    found = draw_subset(labels, 40, name="d", seed=0)
    assert np.bincount(labels[found]).tolist() == [3, 10, 10, 8]


def test_a_split_that_is_small_enough_is_taken_whole() -> None:
    labels = make_labels([3, 50])
    for rows in (53, 100):
        np.testing.assert_array_equal(draw_subset(labels, rows, name="d", seed=0), np.arange(53))
    np.testing.assert_array_equal(
        draw_subset(labels, 53, name="d", seed=0, exact=True), np.arange(53)
    )


@pytest.mark.parametrize("rows", [4, 11, 12, 13, 40, 77, 160])
def test_an_exact_subset_has_classes_as_equal_as_their_sizes_allow(rows: int) -> None:
    sizes = np.array([3, 50, 100, 8])
    labels = make_labels(sizes.tolist())
    found = draw_subset(labels, rows, name="d", seed=0, exact=True)
    assert len(found) == len(set(found)) == rows
    counts = np.bincount(labels[found], minlength=4)
    # Who has less than another by more than one has no more to give.
    assert ((counts == sizes) | (counts >= counts.max() - 1)).all()


def test_a_subset_depends_on_seed_name_and_labels_alone() -> None:
    labels = make_labels([300, 200, 100])
    first = draw_subset(labels, 90, name="d", seed=0)
    np.random.seed(1)
    np.testing.assert_array_equal(draw_subset(labels, 90, name="d", seed=0), first)
    assert not np.array_equal(draw_subset(labels, 90, name="e", seed=0), first)
    assert not np.array_equal(draw_subset(labels, 90, name="d", seed=1), first)
    # Classes that are numbered otherwise, in the same order, are the same classes.
    np.testing.assert_array_equal(draw_subset(labels * 5 + 2, 90, name="d", seed=0), first)


def test_the_smaller_of_two_subsets_is_part_of_the_larger() -> None:
    labels = make_labels([300, 200, 100])
    subsets = [set(draw_subset(labels, rows, name="d", seed=0)) for rows in (30, 90, 400)]
    assert subsets[0] < subsets[1] < subsets[2]


def test_every_row_of_a_class_is_as_likely_as_another() -> None:
    labels = np.repeat([0, 1], 10)
    counts = np.zeros(20)
    for seed in range(2000):
        counts[draw_subset(labels, 6, name="d", seed=seed)] += 1
    np.testing.assert_allclose(counts, 600, atol=5 * np.sqrt(2000 * 0.3 * 0.7))


@pytest.mark.parametrize(
    ("labels", "rows", "exact", "says"),
    [
        ([], 10, False, "d: has 0 rows, but similarities need at least 4"),
        ([0, 1, 1], 10, False, "d: has 3 rows"),
        ([0, 1] * 10, 3, False, "a subset of 3 rows is asked for"),
        (list(range(20)), 10, True, "one of each of the 20 classes: ask for 20 or more"),
        ([0, 1] * 10, 21, True, "exactly 21 rows are asked for, but it has 20"),
        ([0.5, 1.0] * 10, 8, False, "labels are float64"),
        ([[0, 1]] * 10, 8, False, "expected a list of whole numbers"),
    ],
)
def test_what_no_subset_can_be_drawn_from_is_refused(
    labels: list[int], rows: int, exact: bool, says: str
) -> None:
    with pytest.raises(MergeloomError, match=says):
        draw_subset(np.array(labels), rows, name="d", seed=0, exact=exact)
