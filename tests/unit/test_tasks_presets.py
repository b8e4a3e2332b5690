"""The task presets of CLIP: what they must hold to give the heads and labels of the studies."""

from pathlib import Path

import numpy as np
import pytest

from mergeloom.config.presets import load_presets, schema_named
from mergeloom.errors import MergeloomError
from mergeloom.report.published import read_published

CONFIG = Path(__file__).parents[2] / "config"
CLASSES = {
    "SUN397": 397, "Cars": 196, "RESISC45": 45, "EuroSAT": 10, "SVHN": 10, "GTSRB": 43, "MNIST": 10,
    "DTD": 47, "Flowers102": 102, "PCAM": 2, "FER2013": 7, "OxfordIIITPet": 37, "STL10": 10,
    "CIFAR100": 100, "CIFAR10": 10, "Food101": 101, "FashionMNIST": 10, "EMNIST": 10, "KMNIST": 10,
    "RenderedSST2": 2, "EMNIST-letters": 26, "CIFAR10-11way": 11, "STL10-11way": 11,
}  # fmt: skip
TEMPLATES = {
    "Cars": 8, "RESISC45": 18, "EuroSAT": 3, "GTSRB": 3, "DTD": 8, "FER2013": 6, "SUN397": 2,
    "STL10": 2, "STL10-11way": 2, "FashionMNIST": 2, "CIFAR100": 18, "CIFAR10": 18,
    "CIFAR10-11way": 18,
}  # fmt: skip


@pytest.fixture(scope="module")
def tasks():
    return load_presets("tasks", [CONFIG], schema_named(CONFIG / "schema", "tasks"))


@pytest.fixture(scope="module")
def benchmarks():
    return load_presets("benchmarks", [CONFIG], schema_named(CONFIG / "schema", "benchmarks"))


@pytest.mark.parametrize("name", CLASSES)
def test_a_task_has_the_classes_and_templates_of_its_head(name, tasks):
    task = tasks[name]
    assert len(task["classnames"]) == len(set(task["classnames"])) == CLASSES[name]
    assert all(isinstance(word, str) for word in task["classnames"])
    assert len(task["templates"]) == TEMPLATES.get(name, 1)
    assert task["epochs"] >= 1
    assert task["source"]["hub"].count("/") == 1


def test_hub_labels_are_named_by_class_names_and_reach_their_place(tasks):
    """The public study's own tables of label numbers, of its conf/dataset at f8163c4."""
    study = {
        "CIFAR10-11way": [0, 1, 2, 3, 4, 5, 6, 7, 9, 10],
        "STL10-11way": [0, 2, 1, 3, 4, 5, 7, 8, 9, 10],
    }
    for name, numbers in study.items():
        task = tasks[name]
        assert [task["classnames"].index(n) for n in task["source"]["names"]] == numbers
    for task in tasks.values():
        if "hub" in task["source"] and "names" in task["source"]:
            assert set(task["source"]["names"]) <= set(task["classnames"])


def test_only_emnist_is_transposed_which_is_a_rotation_by_minus_90_degrees_and_a_flip(tasks):
    transposed = {n for n, t in tasks.items() if "transform" in t["source"]}
    assert transposed == {"EMNIST", "EMNIST-letters"}
    image = np.arange(6).reshape(2, 3)
    np.testing.assert_array_equal(np.fliplr(np.rot90(image, -1)), image.T)


def test_published_accuracies_are_whole_numbers_of_right_images_of_the_counts(tasks):
    """fusion_bench's have four decimals of a percent here, enough to tell the test set's size."""
    checked = set()
    for figure in read_published([CONFIG]):
        if figure.experts != "tanganke" or not figure.task:
            continue
        count = tasks[figure.task]["source"]["counts"]["test"]
        right = figure.accuracy * count
        assert abs(right - round(right)) < 0.03, (figure.task, count)
        checked.add(figure.task)
    assert len(checked) == 20


def test_benchmarks_have_their_sizes_and_contain_each_other(benchmarks):
    sizes = {"N2": 2, "N3": 3, "N8": 8, "N14": 14, "N20": 20, "hard": 5, "hard10": 10}
    assert {name: len(benchmarks[name]) for name in sizes} == sizes
    assert benchmarks["N8"] == benchmarks["N14"][:8]
    assert benchmarks["N14"] == benchmarks["N20"][:14]
    assert set(benchmarks["N2"]) < set(benchmarks["N3"]) < set(benchmarks["N8"])
    assert set(benchmarks["hard"]) | set(benchmarks["hard10"]) < set(benchmarks["N20"])
    assert set(benchmarks["N20-letters"]) ^ set(benchmarks["N20"]) == {"EMNIST", "EMNIST-letters"}


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{hub: a/b/birds, revision: main, files: {train: [a], test: [b]}}", "source"),
        ("{hub: a/birds, revision: main, files: {train: [a]}}", "source"),
        ("{hub: a/birds, revision: main, files: {train: [a], test: [b]}, format: zip}", "source"),
        ("{folder: /birds, split: train}", "source"),
    ],
)
def test_a_source_that_is_none_of_the_four_kinds_is_refused(source, words, tmp_path):
    (tmp_path / "tasks.yaml").write_text(
        f"birds: {{title: Birds, source: {source}, classnames: [a, b], templates: ['{{c}}']}}\n"
    )
    with pytest.raises(MergeloomError, match=rf"birds: {words}"):
        load_presets("tasks", [tmp_path], schema_named(CONFIG / "schema", "tasks"))
