"""Splits: no image is in two of them, and training never touches validation."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import encoded, pixels, shard
from safetensors.numpy import load_file
from torch.utils.data import random_split

from mergeloom.data.decoded import decode
from mergeloom.data.hold_out import hold_out
from mergeloom.data.overlaps import not_to_validate
from mergeloom.data.shards import Sample
from mergeloom.data.split_record import indices_of
from mergeloom.data.splits import content_of, split_task
from mergeloom.errors import MergeloomError
from mergeloom.io.jsonfile import write_json


@pytest.fixture
def task(tmp_path):
    """A function that writes the pictures of some splits as shards and gives their paths."""

    def write(**splits):
        paths = {}
        for split, pictures in splits.items():
            images = [p if isinstance(p, bytes) else encoded(p) for p in pictures]
            paths[split] = []
            for place in range(0, len(images), 40):
                part = images[place : place + 40]
                path = tmp_path / "DTD" / split / f"{place // 40}.tar"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(shard(part, [i % 2 for i in range(len(part))], "png"))
                paths[split].append(path)
        return paths

    return write


def split(shards, seed=0, allow_overlap=False, threads=2):
    return split_task(shards, 2, seed, allow_overlap, threads, "data/DTD")


def names(count):
    return [str(index).encode() for index in range(count)]


@pytest.mark.parametrize(
    ("count", "val"), [(10, 1), (1239, 123), (50_000, 5000), (60_000, 5000), (54_210, 5000)]
)
@pytest.mark.parametrize("seed", [0, 2])
def test_validation_is_drawn_as_torchs_random_split_draws_it(count, val, seed):
    generator = torch.Generator().manual_seed(seed)
    expected = random_split(range(count), [count - val, val], generator=generator)
    for part, drawn in zip(expected, hold_out(count, seed, [], "t"), strict=True):
        assert part.indices == drawn.tolist()


def test_the_first_training_images_are_those_that_public_code_asserts():
    """MNIST whole, and with as many images of every digit as of its rarest, 5421."""
    assert hold_out(60_000, 0, [], "MNIST")[0][0] == 36044
    assert hold_out(54_210, 0, [], "MNIST")[0][0] == 31034


def test_another_seed_holds_out_other_images():
    assert set(hold_out(1000, 0, [], "t")[1]) != set(hold_out(1000, 1, [], "t")[1])


def test_the_next_image_before_takes_the_place_of_one_that_must_not_validate():
    order = np.concatenate(hold_out(100, 0, [], "t"))
    excluded = [order[99], order[97], order[89], order[3]]
    training, validation = hold_out(100, 0, excluded, "t")
    expected = [*order[86:89], *order[90:97], order[98]][-10:]
    assert validation.tolist() == expected
    assert training.tolist() == [i for i in order if i not in set(expected)]


def test_what_occurs_twice_in_train_or_in_test_never_validates():
    # Half of the images occur twice, a tenth is in test, too.
    train = names(1000) + names(500)
    excluded = not_to_validate(train, set(names(1000)[900:]))
    assert excluded == [*range(500), *range(900, 1500)]
    for seed in range(5):
        training, drawn = hold_out(1500, seed, excluded, "t")
        assert len(set(drawn)) == 150
        assert all(500 <= index < 900 for index in drawn)
        assert sorted([*training, *drawn]) == list(range(1500))


def test_too_few_images_to_draw_from_are_an_error():
    with pytest.raises(MergeloomError, match=r"t: .* a tenth of the 9 .* only 0 .*split `val`"):
        hold_out(9, 0, [], "t")
    with pytest.raises(MergeloomError, match=r"a tenth of the 100 training examples, but only 4 "):
        hold_out(100, 0, range(4, 100), "t")


def test_reading_and_comparing_splits_needs_no_torch():
    program = (
        "import sys, mergeloom.data.splits, mergeloom.data.split_record;"
        "assert 'torch' not in sys.modules"
    )
    library = str(Path(decode.__code__.co_filename).parents[2])
    subprocess.run([sys.executable, "-c", program], env={"PYTHONPATH": library}, check=True)


def test_an_image_that_occurs_twice_is_never_split_across_train_and_validation(task, tmp_path):
    pictures = pixels(60)
    train = np.concatenate([pictures, pictures[:30]])
    shards = task(train=train, test=pixels(10, seed=1))
    record = split(shards)
    assert record["repeated"] == {"train": 60, "test": 0}
    assert record["excluded"] == [*range(30), *range(60, 90)]
    write_json(tmp_path / "splits.json", record)
    for part in ("train", "val", "test"):
        indices = indices_of(tmp_path / "splits.json", part)
        source = shards["test" if part == "test" else "train"]
        decode(source, 2, 8, tmp_path / f"{part}.safetensors", {}, indices, threads=2)
    read = {p: load_file(tmp_path / f"{p}.safetensors") for p in ("train", "val", "test")}
    assert {p: len(part["images"]) for p, part in read.items()} == {
        "train": 81, "val": 9, "test": 10,
    }  # fmt: skip
    seen = {p: {image.tobytes() for image in part["images"]} for p, part in read.items()}
    assert not seen["train"] & seen["val"]
    assert seen["train"] | seen["val"] == {picture.tobytes() for picture in pictures}
    # Labels stay with their images.
    label_of = {p.tobytes(): i % 40 % 2 for i, p in enumerate(train[:60])}
    for part in ("train", "val"):
        for image, label in zip(read[part]["images"], read[part]["labels"], strict=True):
            assert label == label_of[image.tobytes()]


def test_a_split_for_validation_is_taken_as_it_is(task, tmp_path):
    record = split(task(train=pixels(20), val=pixels(5, 1), test=pixels(5, 2)))
    assert record["validation"] is record["excluded"] is None
    assert record["images"] == {"train": 20, "val": 5, "test": 5}
    write_json(tmp_path / "splits.json", record)
    assert indices_of(tmp_path / "splits.json", "train") is None


def test_a_leak_is_refused_naming_numbers_and_pairs(task):
    """As in the DTD splits behind published tables: test images that are in train, too."""
    train, test = pixels(90), pixels(30, seed=1)
    test[3], test[7], test[8] = train[50], train[2], train[2]
    shards = task(train=train, test=test)
    with pytest.raises(MergeloomError) as raised:
        split(shards)
    for part in (
        "data/DTD: splits share images",
        "2 of the 90 images of train and 3 of the 30 of test are the same",
        "train/1.tar: sample s0000010.png = test/0.tar: sample s0000003.png",
        "train/0.tar: sample s0000002.png = test/0.tar: sample s0000007.png",
        "set `allow_overlap: true`",
    ):
        assert part in str(raised.value)


def test_a_leak_that_is_allowed_is_recorded(task):
    train = pixels(90)
    record = split(task(train=train, test=train[:4]), allow_overlap=True)
    (overlap,) = record["overlap"]
    assert overlap["splits"] == ["train", "test"]
    assert overlap["images"] == [4, 4]
    assert overlap["first"][3] == [
        "train/0.tar: sample s0000003.png", "test/0.tar: sample s0000003.png",
    ]  # fmt: skip
    assert min(record["validation"]) >= 4


def test_overlap_with_validation_is_refused_too(task):
    pictures = pixels(30)
    with pytest.raises(MergeloomError, match="1 of the 20 images of train and 1 of the 5 of val"):
        split(task(train=pictures[:20], val=pictures[19:24], test=pictures[24:]))
    with pytest.raises(MergeloomError, match="1 of the 5 images of val and 1 of the 6 of test"):
        split(task(train=pictures[:20], val=pictures[20:25], test=pictures[24:]))


def test_content_is_pixels_and_size_and_not_the_file():
    picture = pixels(1, size=(4, 8))[0]
    content = content_of(Sample("a", encoded(picture), 0))
    assert content == content_of(Sample("b", encoded(picture, "WEBP", lossless=True), 1))
    assert content == content_of(Sample("c", encoded(picture, "BMP"), 1))
    assert content != content_of(Sample("d", encoded(picture.reshape(8, 4, 3)), 0))
    picture[0, 0, 0] ^= 1
    assert content != content_of(Sample("e", encoded(picture), 0))


def test_a_grey_picture_and_its_copy_in_colour_are_the_same():
    grey = pixels(1)[0, ..., 0]
    colour = np.repeat(grey[..., None], 3, axis=2)
    assert content_of(Sample("", encoded(grey), 0)) == content_of(Sample("", encoded(colour), 0))


def test_the_record_does_not_depend_on_the_number_of_threads(task):
    shards = task(train=pixels(90), test=pixels(10, seed=1))
    assert split(shards, threads=1) == split(shards, threads=4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training": [0, 1, 2, 3], "validation": [3, 4]}, "1 images train and validate, the fi"),
        ({"validation": [3, 10]}, "not in ascending order, or not below 10"),
        ({"validation": [-1, 3]}, "not in ascending order, or not below 10"),
        ({"validation": [3, 3]}, "not in ascending order, or not below 10"),
        ({"validation": []}, "not a list of whole numbers"),
        ({"validation": [0.5]}, "not a list of whole numbers"),
        ({"validation": "3"}, "not a list of whole numbers"),
        ({"validation": [[1], [2, 3]]}, "ValueError"),
        ({"images": {}}, "KeyError: 'train'"),
    ],
)
def test_a_damaged_index_file_is_named_with_what_is_wrong(change, message, tmp_path):
    path = tmp_path / "splits.json"
    write_json(path, {"images": {"train": 10}, "training": None, "validation": [1, 2]} | change)
    for part in ("train", "val", "test"):
        with pytest.raises(MergeloomError, match=f"splits.json: is damaged.*{message}"):
            indices_of(path, part)


def test_an_index_file_without_validation_is_no_whole_training_split(tmp_path):
    write_json(tmp_path / "splits.json", {"images": {"train": 10}, "training": None})
    with pytest.raises(MergeloomError, match=r"is damaged \(KeyError: 'validation'\); delete it"):
        indices_of(tmp_path / "splits.json", "train")


def test_indices_of_other_shards_are_refused(task, tmp_path):
    shards = task(train=pixels(20))
    with pytest.raises(MergeloomError, match=r"DTD/train: holds 20 images, but image 20 is to be"):
        decode(shards["train"], 2, 8, tmp_path / "x", {}, np.array([0, 20]))
