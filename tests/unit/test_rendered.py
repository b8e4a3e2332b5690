"""The rendered tasks: balanced, disjoint, reproducible, and what their presets say they are."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from mergeloom.data.rendered import digits, registry
from mergeloom.data.rendered.registry import get_renderer, render
from mergeloom.errors import MergeloomError

PRESETS = {
    path.stem: preset
    for path in sorted((Path(__file__).parents[2] / "config" / "tasks").glob("*.yaml"))
    if "rendered" in (preset := yaml.safe_load(path.read_text()))["source"]
    and "prompt" not in preset  # one of texts
}
DEMO8 = {"digits", "letters", "house_numbers", "shapes", "textures", "signs", "land", "dots"}
LONG_TAILED = {"digits_longtail", "letters_longtail"}
SMALL = {"train": 30, "val": 11, "test": 20}


@pytest.fixture(params=sorted(PRESETS.keys() - LONG_TAILED))
def task(request):
    """Every rendered preset but those thinned out: the renderer's name and the class names."""
    preset = PRESETS[request.param]
    return preset["source"]["rendered"], preset["classnames"]


def test_there_are_presets_of_the_eight_tasks_and_of_the_corpus():
    assert set(PRESETS) == DEMO8 | LONG_TAILED | {"atlas"}
    assert len(PRESETS["atlas"]["classnames"]) > 100


def test_a_preset_names_every_class_of_its_renderer_and_puts_it_into_every_template(task):
    name, classnames = task
    preset = PRESETS[name]
    assert sorted(classnames) == sorted(get_renderer(name).classnames)
    assert all(template.count("{c}") == 1 for template in preset["templates"])


def test_images_are_32_by_32_bytes_in_three_channels_with_an_integer_label(task):
    for split, (images, labels) in render(*task, SMALL, 0).items():
        assert images.shape == (SMALL[split], 32, 32, 3)
        assert images.dtype == np.uint8
        assert labels.shape == (SMALL[split],)
        assert labels.dtype == np.int64


def test_classes_are_balanced_in_every_split():
    for _, labels in render("shapes", PRESETS["shapes"]["classnames"], SMALL, 0).values():
        counts = np.bincount(labels, minlength=12)
        assert counts.max() - counts.min() <= 1


def test_the_presets_divide_evenly_among_their_classes(task):
    name, classnames = task
    source = PRESETS[name]["source"]
    for split in ("train", "val", "test"):
        assert source[split] % len(classnames) == 0


@pytest.mark.parametrize("name", ["digits", "dots"])
def test_no_image_occurs_twice_within_or_across_splits_at_the_preset_size(name):
    preset = PRESETS[name]
    counts = {split: preset["source"][split] for split in ("train", "val", "test")}
    splits = render(name, preset["classnames"], counts, 0)
    contents = [image.tobytes() for images, _ in splits.values() for image in images]
    assert len(contents) == sum(counts.values())
    assert len(set(contents)) == len(contents)


def test_a_renderer_that_repeats_itself_still_gives_disjoint_splits(monkeypatch):
    def draw(classname, rng):
        return np.full((32, 32, 3), 100 * "ab".index(classname) + rng.integers(40), np.uint8)

    monkeypatch.setitem(registry._renderers, "flat", registry.Renderer("flat", ("a", "b"), draw))
    splits = render("flat", ["a", "b"], {"train": 40, "val": 20, "test": 20}, 0)
    values = np.concatenate([images[:, 0, 0, 0] for images, _ in splits.values()])
    assert sorted(values) == [*range(40), *range(100, 140)]


def test_the_same_arguments_draw_the_same_bytes(task):
    first, second = render(*task, SMALL, 3), render(*task, SMALL, 3)
    for split in SMALL:
        np.testing.assert_array_equal(first[split][0], second[split][0])
        np.testing.assert_array_equal(first[split][1], second[split][1])


def test_another_seed_draws_other_images(task):
    first, second = render(*task, {"test": 20}, 0)["test"], render(*task, {"test": 20}, 1)["test"]
    assert not np.array_equal(first[0], second[0])


def test_another_process_draws_the_same_bytes():
    program = (
        "import hashlib; from mergeloom.data.rendered.registry import render;"
        "images, labels = render('signs', ['stop', 'danger'], {'val': 6}, 5)['val'];"
        "print(hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest())"
    )
    library = str(Path(registry.__file__).parents[3])
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONPATH": library, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(digests) == 1


def test_more_training_images_leave_validation_and_test_as_they_were():
    few = render("dots", ["one", "two"], {"train": 4, "val": 4, "test": 4}, 0)
    many = render("dots", ["one", "two"], {"train": 40, "val": 4, "test": 4}, 0)
    for split in ("val", "test"):
        np.testing.assert_array_equal(few[split][0], many[split][0])


@pytest.mark.parametrize("name", sorted(LONG_TAILED))
def test_a_long_tailed_preset_thins_out_the_training_images_of_the_balanced_one(name):
    preset, whole = PRESETS[name], PRESETS[name.removesuffix("_longtail")]
    source, classnames = preset["source"], preset["classnames"]
    assert classnames == whole["classnames"]
    assert preset["templates"] == whole["templates"]
    counts = {split: source[split] for split in ("train", "val", "test")}
    assert {k: v for k, v in source.items() if k != "imbalance"} == whole["source"]
    balanced = render(source["rendered"], classnames, counts, 0)
    tailed = render(source["rendered"], classnames, counts, 0, source["imbalance"])
    for split in ("val", "test"):
        for one, other in zip(balanced[split], tailed[split], strict=True):
            np.testing.assert_array_equal(one, other)
    first, last = source["train"] // len(classnames), len(classnames) - 1
    expected = [int(first * source["imbalance"] ** (-c / last) + 1e-9) for c in range(last + 1)]
    assert (expected[0], expected[-1]) == (first, int(first / source["imbalance"]))
    assert np.bincount(tailed["train"][1]).tolist() == expected
    kept, drawn = (
        {(image.tobytes(), label) for image, label in zip(*splits["train"], strict=True)}
        for splits in (tailed, balanced)
    )
    assert kept < drawn


def test_without_imbalance_a_task_is_what_it_was():
    plain, flat = (render("dots", ["one", "two"], SMALL, 0, *more) for more in ((), (1,)))
    for split in SMALL:
        np.testing.assert_array_equal(plain[split][0], flat[split][0])


def test_an_image_does_not_depend_on_which_other_classes_are_asked_for():
    alone = render("dots", ["two"], {"test": 5}, 0)["test"][0]
    images, labels = render("dots", ["one", "two"], {"test": 10}, 0)["test"]
    assert {i.tobytes() for i in alone} == {i.tobytes() for i in images[labels == 1]}


def test_labels_follow_the_order_of_the_class_names_given():
    forth = render("shapes", ["heart", "star"], {"test": 10}, 0)["test"]
    back = render("shapes", ["star", "heart"], {"test": 10}, 0)["test"]
    hearts = {image.tobytes() for image in forth[0][forth[1] == 0]}
    assert hearts == {image.tobytes() for image in back[0][back[1] == 1]}


def test_digits_are_the_scans_of_scikit_learn():
    from sklearn.datasets import load_digits

    scans = load_digits()
    images, labels = render("digits", digits.NUMBERS, {"test": 30}, 0)["test"]
    # Averaged back to 8x8 and compared with every scan, an image is nearest to one of its class.
    small = images[..., 0].reshape(30, 8, 4, 8, 4).mean(axis=(2, 4)) / 255 * 16
    distance = np.linalg.norm((small[:, None] - scans.images[None]).reshape(30, -1, 64), axis=2)
    np.testing.assert_array_equal(scans.target[distance.argmin(axis=1)], labels)
    assert distance.min(axis=1).max() < 12


def test_a_picture_of_n_dots_has_n_dots():
    from scipy.ndimage import label

    names = PRESETS["dots"]["classnames"]
    images, labels = render("dots", names, {"test": 60}, 0)["test"]
    for image, target in zip(images, labels, strict=True):
        assert label(image.max(axis=2) > 160)[1] == target + 1


def test_an_unknown_class_is_an_error_that_lists_the_known_ones():
    with pytest.raises(MergeloomError, match=r"'shapes' cannot draw .*'blob'.*heart"):
        render("shapes", ["heart", "blob"], SMALL, 0)


def test_an_unknown_renderer_is_an_error_that_lists_the_known_ones():
    with pytest.raises(MergeloomError, match=r"no renderer 'paintings'.*atlas.*textures"):
        render("paintings", ["heart"], SMALL, 0)


def test_a_class_given_twice_is_an_error():
    with pytest.raises(MergeloomError, match=r"twice.*heart"):
        render("shapes", ["heart", "star", "heart"], SMALL, 0)


def test_asking_for_more_digits_than_there_are_is_an_error_that_says_how_many_there_were():
    with pytest.raises(MergeloomError, match=r"only 182 of 190 .*'one'"):
        render("digits", ["one", "three"], {"train": 380}, 0)


def test_rendering_needs_no_torch():
    program = (
        "import sys; from mergeloom.data.rendered.registry import render;"
        "render('signs', ['stop'], {'val': 1}, 0); assert 'torch' not in sys.modules"
    )
    library = str(Path(registry.__file__).parents[3])
    subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": library}, check=True, timeout=60
    )
