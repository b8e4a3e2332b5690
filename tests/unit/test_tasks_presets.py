"""The task presets of CLIP: what they must hold to give the heads and labels of the studies."""

from pathlib import Path

import numpy as np
import pytest

from mergeloom.config.presets import load_presets, schema_named
from mergeloom.config.study import resolve_import
from mergeloom.errors import MergeloomError
from mergeloom.report.published import read_published

CONFIG = Path(__file__).parents[2] / "config"
CLASSES = {
    "SUN397": 397, "Cars": 196, "RESISC45": 45, "EuroSAT": 10, "SVHN": 10, "GTSRB": 43, "MNIST": 10,
    "DTD": 47, "Flowers102": 102, "PCAM": 2, "FER2013": 7, "OxfordIIITPet": 37, "STL10": 10,
    "CIFAR100": 100, "CIFAR10": 10, "Food101": 101, "FashionMNIST": 10, "EMNIST": 10, "KMNIST": 10,
    "RenderedSST2": 2, "EMNIST-letters": 26, "CIFAR10-11way": 11, "STL10-11way": 11,
    "EMNIST-stored": 10, "KMNIST-kana": 10,
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


@pytest.fixture(scope="module")
def families():
    return load_presets("experts", [CONFIG], schema_named(CONFIG / "schema", "experts"))


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


def test_one_emnist_is_transposed_which_is_a_rotation_by_minus_90_degrees_and_a_flip(tasks):
    transposed = {n for n, t in tasks.items() if "transform" in t["source"]}
    assert transposed == {"EMNIST"}
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


@pytest.mark.parametrize(
    ("family", "instead"),
    [
        ("N20-stored", {"EMNIST": "EMNIST-stored"}),
        ("N20-letters", {"EMNIST": "EMNIST-letters", "KMNIST": "KMNIST-kana"}),
        ("N20-11way", {"STL10": "STL10-11way", "CIFAR10": "CIFAR10-11way"}),
        ("N14-11way", {"STL10": "STL10-11way"}),
    ],
)
def test_a_familys_benchmark_has_its_own_tasks_where_the_common_ones_would_be_others(
    family, instead, benchmarks
):
    common = benchmarks[family[:3]]
    assert benchmarks[family] == [instead.get(task, task) for task in common]
    assert set(instead) <= set(common)


@pytest.mark.parametrize(
    ("experts", "benchmark", "task", "name"),
    [
        ("tanganke", "N20-letters", "KMNIST-kana", "patch14_kmnist"),
        ("tanganke", "N20", "EMNIST", "patch14_emnist_letters"),
        ("crisostomi", "N20", "EMNIST", "ViT-L-14-EMNIST"),
        ("crisostomi", "N20-11way", "CIFAR10-11way", "ViT-L-14-CIFAR10"),
        ("crisostomi", "N14-11way", "STL10-11way", "ViT-L-14-STL10"),
        ("tall_masks", "N20-stored", "EMNIST-stored", "ViT-L-14/EMNISTVal"),
    ],
)
def test_a_family_has_a_checkpoint_of_every_task_of_its_benchmark(
    experts, benchmark, task, name, benchmarks, families
):
    def where(task):
        found = resolve_import(experts, families[experts], encoder="ViT-L-14", task=task)
        return f"{found['hub']}/{found['file']}"

    assert all(where(each) for each in benchmarks[benchmark])
    assert f"{name}/" in where(task)


@pytest.mark.parametrize(
    ("experts", "task"),
    [("tall_masks", "EMNIST"), ("crisostomi", "EMNIST-letters"), ("tanganke", "STL10-11way")],
)
def test_a_family_has_no_checkpoint_of_a_task_that_it_never_saw(experts, task, families):
    with pytest.raises(MergeloomError, match=rf"'{experts}' have no checkpoint of task {task}"):
        resolve_import(experts, families[experts], encoder="ViT-L-14", task=task)


@pytest.mark.parametrize("hub", ["a/b/c", "a /b", "https://huggingface.co/a/b"])
def test_a_repository_of_experts_that_is_none_is_refused(hub, tmp_path):
    (tmp_path / "experts.yaml").write_text(
        f"mine: {{import: {{hub: '{hub}', file: f, revision: main}}}}\n"
    )
    with pytest.raises(MergeloomError, match=r"mine: import"):
        load_presets("experts", [tmp_path], schema_named(CONFIG / "schema", "experts"))


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
