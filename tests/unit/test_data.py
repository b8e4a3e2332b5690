"""Tasks as shards and as decoded images: what is written is read, and what is damaged is named."""

import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from mergeloom.data.decoded import decode, fit_to_square, normalise, open_images, write_images
from mergeloom.data.shards import read_lines, read_shard, shard_paths, write_lines, write_shard
from mergeloom.errors import MergeloomError
from mergeloom.models.torchvision_cure import cure_torchvision


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)


LABELS = np.array([0, 1, 2, 0, 1, 2])


@pytest.fixture
def shard(tmp_path, images):
    path = tmp_path / "task" / "train" / "0.tar"
    write_shard(path, images, LABELS)
    return path


def rewrite(path, change):
    """Write the shard anew with `change(name, content)` applied to every member."""
    members = []
    with tarfile.open(path) as tar:
        for member in tar:
            members.append((member.name, tar.extractfile(member).read()))
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            changed = change(name, content)
            if changed is not None:
                info = tarfile.TarInfo(name)
                info.size = len(changed)
                tar.addfile(info, io.BytesIO(changed))


def test_a_shard_gives_back_pixels_and_labels_in_order(shard, images):
    read = list(read_shard(shard, classes=3))
    assert [label for _, label in read] == list(LABELS)
    np.testing.assert_array_equal([np.asarray(image) for image, _ in read], images)


def test_a_shard_has_the_layout_of_clip_benchmark(shard):
    with tarfile.open(shard) as tar:
        names = tar.getnames()
    assert names[:4] == ["s0000000.cls", "s0000000.png", "s0000001.cls", "s0000001.png"]


def test_equal_content_gives_equal_bytes(shard, tmp_path, images):
    write_shard(tmp_path / "again.tar", images, LABELS)
    assert (tmp_path / "again.tar").read_bytes() == shard.read_bytes()


def test_decoded_images_are_the_shards_pixels(shard, tmp_path, images):
    out = tmp_path / "train_32px.safetensors"
    decode([shard, shard], 3, 32, out, {"mergeloom": "{}"})
    split = open_images(out)
    np.testing.assert_array_equal(split.images.numpy(), np.concatenate([images, images]))
    np.testing.assert_array_equal(split.labels.numpy(), np.concatenate([LABELS, LABELS]))
    assert split.labels.dtype == torch.int64


def test_normalised_images_are_the_formula():
    pixels = torch.arange(48, dtype=torch.uint8).view(1, 4, 4, 3)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    expected = (pixels.double().numpy() / 255 - mean) / std
    got = normalise(pixels, mean, std)
    assert got.shape == (1, 3, 4, 4)
    np.testing.assert_allclose(got.permute(0, 2, 3, 1).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("size", [(64, 32), (32, 64), (100, 37), (31, 33), (224, 224)])
def test_any_image_becomes_a_square_of_its_centre(size):
    image = Image.new("RGB", size)
    half, (x, y) = min(size) / 16, (size[0] / 2, size[1] / 2)
    image.paste((255, 0, 0), tuple(round(v) for v in (x - half, y - half, x + half, y + half)))
    square = np.asarray(fit_to_square(image, 32))
    assert square.shape == (32, 32, 3)
    rows, columns = np.nonzero(square[..., 0] > 100)
    assert abs(rows.mean() - 15.5) <= 1
    assert abs(columns.mean() - 15.5) <= 1


@pytest.mark.parametrize("target", [32, 224, 336])
def test_a_square_image_is_scaled_whole_and_gets_no_border(target):
    """107 × 107 is one of those whose sides a rounded factor makes too small."""
    for size in (*range(53, 120), 153, 195, 277):
        square = np.asarray(fit_to_square(Image.new("RGB", (size, size), (90, 90, 90)), target))
        assert (square == 90).all(), size


@pytest.mark.parametrize("size", [(500, 375), (333, 500), (181, 60), (71, 95)])
def test_squares_are_those_of_torchvision(size):
    cure_torchvision()
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    transform = Compose([Resize(224, InterpolationMode.BICUBIC), CenterCrop(224)])
    np.testing.assert_array_equal(fit_to_square(image, 224), transform(image))


@pytest.mark.parametrize("cut", [512, 1024, 1500, 5000])
def test_a_shard_that_is_cut_short_is_named(shard, cut):
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 512 * 512 - cut - 10240])
    with pytest.raises(MergeloomError, match=r"0\.tar: is (cut short|damaged)"):
        list(read_shard(shard, 3))


def test_a_shard_cut_between_two_members_is_named(shard):
    with tarfile.open(shard) as tar:
        offset = tar.getmembers()[4].offset
    shard.write_bytes(shard.read_bytes()[:offset])
    with pytest.raises(MergeloomError, match=r"0\.tar: is cut short"):
        list(read_shard(shard, 3))


def test_an_image_that_does_not_decode_names_shard_and_sample(shard):
    rewrite(shard, lambda name, c: c[:60] if name == "s0000002.png" else c)
    with pytest.raises(MergeloomError, match=r"0\.tar: sample s0000002\.png: the image does not"):
        list(read_shard(shard, 3))


def test_a_label_outside_the_class_list_is_named(shard):
    with pytest.raises(
        MergeloomError, match=r"sample s0000002\.cls: label 2 is outside the 2 classes"
    ):
        list(read_shard(shard, 2))


def test_a_label_that_is_no_number_is_named(shard):
    rewrite(shard, lambda name, c: b"cat" if name == "s0000001.cls" else c)
    with pytest.raises(MergeloomError, match=r"s0000001\.cls: b'cat' is not a label"):
        list(read_shard(shard, 3))


def test_a_sample_without_image_or_label_says_what_it_has(shard):
    rewrite(shard, lambda name, c: None if name == "s0000003.png" else c)
    with pytest.raises(MergeloomError, match=r"sample s0000003 has cls; expected cls and one of"):
        list(read_shard(shard, 3))


def test_missing_shards_are_counted_and_named(shard):
    counter = shard.parent / "nshards.txt"
    with pytest.raises(MergeloomError, match=r"nshards.txt: no such file"):
        shard_paths(shard.parent)
    write_lines(counter, ["3"])
    with pytest.raises(MergeloomError, match=r"promises 3 shards, missing: .*1\.tar, .*2\.tar"):
        shard_paths(shard.parent)
    write_lines(counter, ["1"])
    assert shard_paths(shard.parent) == [shard]


def test_a_failed_decode_leaves_nothing(shard, tmp_path):
    out = tmp_path / "cache" / "x.safetensors"
    rewrite(shard, lambda name, c: c[:60] if name == "s0000005.png" else c)
    with pytest.raises(MergeloomError):
        decode([shard], 3, 32, out, {})
    assert not out.exists()
    assert not out.parent.exists() or list(out.parent.iterdir()) == []


def write_pictures(out, given, counted):
    picture = np.zeros((4, 4, 3), np.uint8)
    write_images(out, ((picture, n) for n in range(given)), counted, 4, {}, "data/birds/test")


@pytest.mark.parametrize("given", [0, 2, 4])
def test_another_number_of_images_than_counted_is_refused_and_leaves_nothing(given, tmp_path):
    out = tmp_path / "x.safetensors"
    with pytest.raises(MergeloomError, match=rf"data/birds/test: gave {given} images where 3 "):
        write_pictures(out, given, 3)
    assert list(tmp_path.iterdir()) == []
    write_pictures(out, 3, 3)
    assert open_images(out).labels.tolist() == [0, 1, 2]


def test_labels_that_belong_to_no_image_are_an_error_that_names_the_shards(shard, tmp_path):
    with tarfile.open(shard, "a") as tar:
        tar.addfile(tarfile.TarInfo("s0000005.other.cls"), io.BytesIO())
    with pytest.raises(MergeloomError, match=r"task/train: gave 6 images where 7 were counted"):
        decode([shard], 3, 32, tmp_path / "x.safetensors", {})
    assert not (tmp_path / "x.safetensors").exists()


def test_suffixes_in_capitals_count(shard, tmp_path, images):
    with tarfile.open(shard) as tar:
        members = [(m, tar.extractfile(m).read()) for m in tar]
    with tarfile.open(shard, "w") as tar:
        for member, content in members:
            member.name = member.name.replace(".cls", ".CLS")
            tar.addfile(member, io.BytesIO(content))
    decode([shard], 3, 32, tmp_path / "x.safetensors", {})
    np.testing.assert_array_equal(open_images(tmp_path / "x.safetensors").images, images)


def test_missing_and_empty_class_names_are_errors(tmp_path):
    with pytest.raises(MergeloomError, match=r"classnames.txt: no such file"):
        read_lines(tmp_path / "classnames.txt")
    (tmp_path / "classnames.txt").write_text("\n")
    with pytest.raises(MergeloomError, match=r"is empty"):
        read_lines(tmp_path / "classnames.txt")


@pytest.mark.parametrize("folder", ["./", "v1.0/"])
def test_samples_may_lie_in_a_folder_with_a_dot(shard, images, folder):
    with tarfile.open(shard) as tar:
        members = [(m.name, tar.extractfile(m).read()) for m in tar]
    with tarfile.open(shard, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(folder + name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    assert [label for _, label in read_shard(shard, 3)] == list(LABELS)


def test_the_decoded_file_is_what_the_library_of_the_format_reads(shard, tmp_path, images):
    from safetensors.numpy import load_file

    decode([shard], 3, 32, tmp_path / "x.safetensors", {"mergeloom": "{}"})
    read = load_file(tmp_path / "x.safetensors")
    np.testing.assert_array_equal(read["images"], images)
    np.testing.assert_array_equal(read["labels"], LABELS)
