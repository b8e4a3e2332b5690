"""Splits: no image is in two of them, and training never touches validation."""

import numpy as np
import pytest
from pictures import encoded, pixels, shard
from safetensors.numpy import load_file

from mergeloom.data.decoded import decode
from mergeloom.data.shards import Sample
from mergeloom.data.split_record import indices_of
from mergeloom.data.splits import content_of, draw_validation, split_task
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


@pytest.mark.parametrize(("train", "val"), [(10, 1), (1239, 123), (50_000, 5000), (60_000, 5000)])
def test_validation_is_a_tenth_of_train_and_at_most_5000(train, val):
    drawn = draw_validation(names(train), set(), 0, "t")
    assert len(drawn) == len(set(drawn)) == val
    assert drawn == sorted(drawn)
    assert 0 <= drawn[0] <= drawn[-1] < train


def test_the_seed_decides_and_nothing_else_does():
    first = draw_validation(names(1000), set(), 0, "t")
    assert draw_validation(names(1000), set(), 0, "t") == first
    assert draw_validation(names(1000), set(), 1, "t") != first


def test_what_occurs_twice_in_train_or_in_test_never_validates():
    # Half of the images occur twice, a tenth is in test, too.
    train = names(1000) + names(500)
    test = set(names(1000)[900:])
    for seed in range(5):
        drawn = draw_validation(train, test, seed, "t")
        assert len(drawn) == 150
        assert all(500 <= index < 900 for index in drawn)


def test_too_few_images_to_draw_from_are_an_error():
    with pytest.raises(MergeloomError, match=r"t: .* a tenth of the 9 .* only 0 .*split `val`"):
        draw_validation(names(9), set(), 0, "t")
    with pytest.raises(MergeloomError, match=r"a tenth of the 100 training images, but only 4 "):
        draw_validation(names(4) + names(52)[4:] * 2, set(), 0, "t")


def test_an_image_that_occurs_twice_is_never_split_across_train_and_validation(task, tmp_path):
    pictures = pixels(60)
    train = np.concatenate([pictures, pictures[:30]])
    shards = task(train=train, test=pixels(10, seed=1))
    record = split(shards)
    assert record["repeated"] == {"train": 60, "test": 0}
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
    assert record["validation"] is None
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
