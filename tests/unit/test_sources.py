"""Tasks from Parquet files, WebDataset shards and folders: what comes in goes out as it came."""

import os
import shutil
import struct
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pictures import encoded, parquet, pixels, shard
from PIL import Image

from mergeloom.data import hub_files, shards
from mergeloom.data.hub_task import HubTask
from mergeloom.data.image_folder import ImageFolder, state_of
from mergeloom.data.image_tables import read_table
from mergeloom.data.labels import Numbering
from mergeloom.data.layout import made_shards
from mergeloom.data.parallel import in_order
from mergeloom.data.shards import Sample, read_lines, read_shard, shard_paths, write_task
from mergeloom.errors import MergeloomError
from mergeloom.io.checksums import sha256

NAMES = ["cat", "dog", "tree frog"]
COMMIT = "a" * 40


@pytest.fixture
def table(tmp_path):
    """A function that writes a Parquet file of six pictures and gives its path."""

    def write(**options):
        path = tmp_path / "table.parquet"
        images = [encoded(picture) for picture in pixels(6)]
        path.write_bytes(parquet(images, options.pop("labels", [0, 1, 2, 2, 1, 0]), **options))
        return path

    return write


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("rows", [None, 2])
def test_a_table_gives_the_bytes_it_holds_in_order(table, packed, rows):
    samples = list(read_table(table(packed=packed, rows=rows), "t"))
    assert [sample.image for sample in samples] == [encoded(picture) for picture in pixels(6)]
    assert [sample.label for sample in samples] == [0, 1, 2, 2, 1, 0]


def test_columns_may_have_other_names(table):
    path = table(image="img", label="fine_label")
    assert len(list(read_table(path, "t", image="img", label="fine_label"))) == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image": "img"}, r"a/b/t\.parquet: has no column 'image'; it has: img, label"),
        ({"label": "y"}, r"has no column 'label'; it has: image, y\. Name .* `columns`"),
        ({"labels": [0.5] * 6}, r"column 'label' is double; expected whole numbers or class"),
        ({"labels": [0, 1, None, 1, 0, 1]}, r"t\.parquet: row 2: column 'label' is empty"),
    ],
)
def test_a_table_that_does_not_fit_says_what_it_has(table, options, message):
    with pytest.raises(MergeloomError, match=message):
        list(read_table(table(**options), "a/b/t.parquet"))


def test_a_column_of_paths_is_no_column_of_images(table):
    with pytest.raises(MergeloomError, match=r"column 'label' is int64; expected encoded images"):
        list(read_table(table(), "t", image="label", label="label"))


@pytest.mark.parametrize("damage", ["cut", "middle", "text"])
def test_a_damaged_table_is_named_and_where_it_lies(table, damage):
    path = table(rows=2)
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "middle":
        content[4:400] = bytes(396)
    else:
        content = b"<html>502 Bad Gateway</html>"
    path.write_bytes(content)
    with pytest.raises(MergeloomError, match=r"^x/y\.parquet: .*damaged.*delete .*table\.parquet"):
        list(read_table(path, "x/y.parquet"))


def test_a_table_is_never_in_memory_as_a_whole(tmp_path):
    random = np.random.default_rng(0)
    images = [random.bytes(200_000) for _ in range(160)]
    path = tmp_path / "large.parquet"
    path.write_bytes(parquet(images, [0] * 160, rows=8))
    del images
    before, most = pa.total_allocated_bytes(), 0
    for _ in read_table(path, "t"):
        most = max(most, pa.total_allocated_bytes() - before)
    assert path.stat().st_size > 32_000_000
    assert most < 10_000_000


def test_work_in_threads_keeps_the_order_and_looks_ahead_only_a_little():
    asked = []

    def items():
        for item in range(100):
            asked.append(item)
            yield item

    results = in_order(lambda item: -item, items(), threads=2)
    assert [next(results) for _ in range(3)] == [0, -1, -2]
    assert len(asked) <= 12
    assert list(results) == [-item for item in range(3, 100)]


# Labels


def labels(numbering, given, complete=False):
    samples = (Sample(f"row {row}", b"", label) for row, label in enumerate(given))
    return [sample.label for sample in numbering.apply(samples, complete)]


def test_labels_follow_their_names_to_the_order_of_the_class_names():
    numbering = Numbering(["dog", "monkey", "cat"], ["cat", "dog"], "t")
    assert labels(numbering, [0, 1, 1, 0]) == [2, 0, 0, 2]
    assert labels(numbering, ["dog", "cat"]) == [0, 2]
    assert labels(Numbering(NAMES, None, "t"), [2, 0, True, "dog"]) == [2, 0, 1, 1]


def test_a_label_outside_the_classes_is_named():
    with pytest.raises(MergeloomError, match=r"row 1: label 3 is outside the 3 classes .*`classna"):
        labels(Numbering(NAMES, None, "t"), [0, 3])
    with pytest.raises(MergeloomError, match=r"row 0: label -1 is outside the 2 classes .*`names`"):
        labels(Numbering(NAMES, ["cat", "dog"], "t"), [-1])


def test_names_without_a_counterpart_are_an_error():
    with pytest.raises(MergeloomError, match=r"t: `names` 'tree_frog' are not among `classnames`"):
        Numbering(NAMES, ["cat", "tree_frog"], "t")


def test_classes_that_never_occur_are_an_error():
    with pytest.raises(MergeloomError, match=r"1 of the 3 classes .* no image, .* tree frog\. Is"):
        labels(Numbering(NAMES, None, "t"), [0, 1], complete=True)
    # The 11-way head of CIFAR-10 has a class that the data set does not know of.
    assert labels(Numbering(NAMES, NAMES[:2], "t"), [0, 1], complete=True) == [0, 1]


def test_what_the_data_set_records_of_its_classes_is_held_against_the_preset():
    numbering = Numbering(NAMES, None, "t")
    numbering.check_recorded(NAMES, "f")
    numbering.check_recorded(["Cat", "Dog", "tree_frog"], "f")
    with pytest.raises(MergeloomError, match=r"f: has 2 classes \(cat, dog, …\), .* are 3 "):
        numbering.check_recorded(NAMES[:2], "f")
    with pytest.raises(MergeloomError, match=r"f: label 0 is 'dog', but 'cat' in .*`classnames`"):
        numbering.check_recorded(["dog", "cat", "tree frog"], "f")


@pytest.mark.parametrize(
    ("names", "recorded", "words"),
    [
        (["cat", "dog"], ["Dog", "Cat"], r"label 0 is 'Dog', but 'cat' .*has 'dog' as label 1"),
        (["cat", "tree frog"], ["feline", "CAT."], r"label 1 is 'CAT\.', but .*'cat' as label 0"),
        (["お", "き"], ["き", "お"], r"label 0 is 'き', but 'お'"),
        (["+", "-"], ["-", "+"], r"label 0 is '-', but '\+'"),
    ],
)
def test_a_class_at_another_place_is_refused_however_it_is_spelt(names, recorded, words):
    with pytest.raises(MergeloomError, match=words):
        Numbering(names, None, "t").check_recorded(recorded, "f")


def test_class_names_that_cannot_be_compared_are_logged_once(caplog):
    numbering = Numbering(NAMES, None, "t")
    for file in ("f", "g"):
        numbering.check_recorded(["feline", "Dog", "hyla"], file)
    (record,) = caplog.records
    assert record.getMessage().startswith("f: 2 of 3 class names are not in the preset's")
    assert record.getMessage().endswith("feline, hyla")


# The hub, whose client is tested with the workflow: here files come from a folder like its cache.


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A function that commits files (path -> bytes) to a data set."""
    snapshot = tmp_path / "datasets--a--b" / "snapshots" / COMMIT
    asked = []

    def fetch(repository, file, revision, kind):
        asked.append((repository, file, revision, kind))
        return snapshot / file

    def listing(repository, revision, kind):
        return sorted(str(p.relative_to(snapshot)) for p in snapshot.rglob("*") if p.is_file())

    monkeypatch.setattr(hub_files, "fetch", fetch)
    monkeypatch.setattr(hub_files, "listing", listing)

    def commit(files):
        for path, content in files.items():
            (snapshot / path).parent.mkdir(parents=True, exist_ok=True)
            (snapshot / path).write_bytes(content)
        return asked

    return commit


def source(**more):
    return {"hub": "a/b", "revision": "main", "files": {"train": ["**/train-*.parquet"]}, **more}


def test_files_are_read_in_the_order_of_their_numbers_at_one_commit(hub):
    images = [encoded(picture) for picture in pixels(33)]
    files = {
        f"data/train-{i}.parquet": parquet(images[3 * i : 3 * i + 3], [0, 1, 2]) for i in range(11)
    }
    asked = hub(files | {"data/test-0.parquet": b"", "README.md": b""})
    task = HubTask(source(), NAMES)
    assert [sample.image for sample in task.samples("train")] == images
    assert [file for _, file, _, _ in asked] == [f"data/train-{i}.parquet" for i in range(11)]
    # What the branch stood at when the first file came holds for all of them.
    assert [revision for _, _, revision, _ in asked] == ["main"] + [COMMIT] * 10
    assert next(iter(task.downloads)) == f"a/b@{COMMIT}/data/train-0.parquet"
    assert len(set(task.downloads.values())) == 11


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("train-*.parquet", {"train-0.parquet"}),
        ("**/train-*.parquet", {"train-0.parquet", "x/train-1.parquet", "x/y/train-2.parquet"}),
        ("x/*.parquet", {"x/train-1.parquet"}),
    ],
)
def test_a_star_stays_in_its_folder_and_two_do_not(hub, pattern, matches):
    content = parquet([encoded(picture) for picture in pixels(3)], [0, 1, 2])
    hub(dict.fromkeys(("train-0.parquet", "x/train-1.parquet", "x/y/train-2.parquet"), content))
    task = HubTask(source(files={"train": [pattern]}), NAMES)
    assert len(list(task.samples("train"))) == 3 * len(matches)
    assert {name.split("/", 2)[2] for name in task.downloads} == matches


def test_a_file_that_two_patterns_match_is_read_once(hub):
    images = [encoded(picture) for picture in pixels(3)]
    hub({"data/train-0.parquet": parquet(images, [0, 1, 2])})
    given = source(files={"train": ["data/*.parquet", "**/train-*.parquet"]})
    assert [sample.image for sample in HubTask(given, NAMES).samples("train")] == images


def test_a_pattern_without_a_file_lists_what_there_is(hub):
    hub({"data/training-0.parquet": b""})
    with pytest.raises(MergeloomError, match=r"no file matches .*; it has 1 .* data/training-0"):
        HubTask(source(), NAMES)


@pytest.mark.parametrize("suffix", ["webp", "jpg", "png"])
def test_shards_of_clip_benchmark_are_read(hub, suffix):
    images = [encoded(picture, {"jpg": "JPEG"}.get(suffix, suffix)) for picture in pixels(4)]
    hub({"train/0.tar": shard(images, [2, 1, 0, 1], suffix)})
    given = source(format="webdataset", files={"train": ["train/*.tar"]}, names=NAMES[::-1])
    samples = list(HubTask(given, NAMES).samples("train"))
    assert [sample.image for sample in samples] == images
    assert [sample.label for sample in samples] == [0, 1, 2, 1]


def test_columns_of_shards_are_their_suffixes(hub):
    hub({"train/0.tar": shard([encoded(p) for p in pixels(3)], [2, 1, 0], "img.png")})
    given = source(format="webdataset", files={"train": ["train/*.tar"]})
    with pytest.raises(MergeloomError, match=r"sample s0000000 has cls, img\.png; expected cls"):
        list(HubTask(given, NAMES).samples("train"))
    given["columns"] = {"image": "img.png"}
    assert len(list(HubTask(given, NAMES).samples("train"))) == 3


def test_a_shard_label_outside_the_classes_names_file_and_sample(hub):
    hub({"train/0.tar": shard([encoded(p) for p in pixels(2)], [0, 7])})
    given = source(format="webdataset", files={"train": ["train/*.tar"]})
    with pytest.raises(MergeloomError, match=r"a/b/train/0\.tar: sample s0000001.*label 7 is outs"):
        list(HubTask(given, NAMES).samples("train"))


def test_a_wrong_number_of_classes_is_found_before_a_row_is_read(hub):
    images = [encoded(picture) for picture in pixels(3)]
    hub({"train-0.parquet": parquet(images, [0, 1, 0], names=NAMES[:2])})
    with pytest.raises(MergeloomError, match=r"a/b/train-0\.parquet: has 2 classes .* are 3"):
        next(HubTask(source(), NAMES).samples("train"))


def test_transposing_turns_rows_into_columns(hub, tmp_path):
    pictures = pixels(3, size=(8, 6))
    hub({"train-0.parquet": parquet([encoded(p) for p in pictures], [0, 1, 2])})
    task = HubTask(source(transform="transpose"), NAMES)
    write(tmp_path, {"train": task.samples("train")})
    read = [np.asarray(image) for image, _ in read_shard(tmp_path / "t/train/0.tar", 3)]
    np.testing.assert_array_equal(read, pictures.transpose(0, 2, 1, 3))


# Shards


def samples_of(images, numbers):
    pairs = zip(images, numbers, strict=True)
    return [Sample(f"row {row}", *pair) for row, pair in enumerate(pairs)]


def write(folder, splits, shards=None, counts=None):
    write_task(
        folder / "t", splits, shards=shards or dict.fromkeys(splits, 1), counts=counts or {},
        classnames=NAMES, title="data set a/b",
    )  # fmt: skip


def test_a_shard_holds_the_bytes_as_they_came(tmp_path):
    pictures = pixels(4)
    kinds = ("PNG", "JPEG", "WEBP", "BMP")
    images = [encoded(p, k) for p, k in zip(pictures, kinds, strict=True)]
    write(tmp_path, {"train": iter(samples_of(images, [0, 1, 2, 0]))})
    with tarfile.open(tmp_path / "t/train/0.tar") as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}
    assert list(members) == [
        "s0000000.cls", "s0000000.png", "s0000001.cls", "s0000001.jpg",
        "s0000002.cls", "s0000002.webp", "s0000003.cls", "s0000003.bmp",
    ]  # fmt: skip
    assert list(members.values())[1::2] == images
    assert [label for _, label in read_shard(tmp_path / "t/train/0.tar", 3)] == [0, 1, 2, 0]
    assert read_lines(tmp_path / "t/classnames.txt") == NAMES


def test_equal_samples_give_equal_bytes(tmp_path):
    images = [encoded(picture) for picture in pixels(3)]
    for folder in ("a", "b"):
        write(tmp_path / folder, {"train": samples_of(images, [0, 1, 2])})
    assert sha256(tmp_path / "a") == sha256(tmp_path / "b")


def test_a_split_is_as_many_shards_as_its_count_asks_for(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_SIZE", 4)
    images = [encoded(picture) for picture in pixels(10)]
    write(tmp_path, {"train": samples_of(images, [0, 1] * 5)}, {"train": 3}, {"train": 10})
    paths = shard_paths(tmp_path / "t/train")
    read = [[np.asarray(image) for image, _ in read_shard(path, 2)] for path in paths]
    assert [len(part) for part in read] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate(read), pixels(10))


@pytest.mark.parametrize(
    ("count", "number"), [(None, 1), (1, 1), (5000, 1), (5001, 2), (262144, 53)]
)
def test_shards_hold_5000_samples(count, number):
    counts = {} if count is None else {"counts": {"train": count}}
    source = {"hub": "a/b", "files": {"train": ["*"], "test": ["*"]}, **counts}
    assert made_shards({"source": source}) == {"train": number, "test": 1}


@pytest.mark.parametrize(
    ("numbers", "count", "message"),
    [
        ([0, 1], 3, r"data set a/b, test: has 2 images, but the preset's `counts` say 3\."),
        ([0, 1, 2], 2, r"data set a/b, test: has 3 images, but the preset's `counts` say 2\."),
        ([], 0, r"data set a/b, test: holds no images"),
    ],
)
def test_a_wrong_count_leaves_nothing(tmp_path, numbers, count, message):
    images = [encoded(picture) for picture in pixels(3)]
    splits = {
        "train": samples_of(images, [0, 1, 2]),
        "test": samples_of(images[: len(numbers)], numbers),
    }
    with pytest.raises(MergeloomError, match=message):
        write(tmp_path, splits, counts={"test": count})
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_bytes_that_are_no_image_are_named(tmp_path):
    with pytest.raises(MergeloomError, match=r"row 1: is no image"):
        write(tmp_path, {"train": samples_of([encoded(pixels(1)[0]), b"<html>"], [0, 1])})


@pytest.mark.parametrize(
    "error", [Image.DecompressionBombError, struct.error, EOFError], ids=lambda e: e.__name__
)
def test_whatever_pillow_raises_on_an_image_the_sample_is_named(error, tmp_path, monkeypatch):
    def refuse(file):
        raise error("as large as a house")

    monkeypatch.setattr(shards.Image, "open", refuse)
    with pytest.raises(MergeloomError, match=r"row 0: is no image: as large as a house"):
        write(tmp_path, {"train": samples_of([b"x"], [0])})
    with pytest.raises(MergeloomError, match=r"row 0: the image does not decode: as large"):
        shards.decode_image(next(iter(samples_of([b"x"], [0]))))


def test_a_picture_too_large_to_be_meant_so_is_named(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    sample = next(iter(samples_of([encoded(pixels(1, size=(20, 20))[0])], [0])))
    with pytest.raises(MergeloomError, match=r"row 0: the image does not decode: .*400 pixels"):
        shards.decode_image(sample)


def test_a_split_for_validation_is_made_where_the_source_has_one(folder):
    assert made_shards({"source": {"folder": str(folder)}}) == {"train": 1, "test": 1}
    shutil.copytree(folder / "test", folder / "val")
    assert made_shards({"source": {"folder": str(folder)}}) == {"train": 1, "val": 1, "test": 1}
    globs = {split: ["*"] for split in ("test", "val", "train")}
    assert list(made_shards({"source": {"hub": "a/b", "files": globs}})) == ["train", "val", "test"]
    assert made_shards({"source": "shards"}) == {}


# Folders


@pytest.fixture
def folder(tmp_path):
    """train with three classes, test with two of them; a hidden file and a text beside."""
    root = tmp_path / "pets"
    for index, picture in enumerate(pixels(8)):
        split, name = ("train", "test")[index > 5], ("tree_frog", "cat", "dog")[index % 3]
        (root / split / name).mkdir(parents=True, exist_ok=True)
        (root / split / name / f"{9 - index}.PNG").write_bytes(encoded(picture))
    (root / "train/cat/.DS_Store").write_bytes(b"x")
    (root / "train/cat/notes.txt").write_text("x")
    return root


def test_a_folder_is_read_by_class_and_name(folder):
    task = ImageFolder(folder, ["dog", "tree frog", "cat"])
    samples = list(task.samples("train"))
    assert [sample.where.removeprefix(f"{folder}/") for sample in samples] == [
        "train/cat/5.PNG", "train/cat/8.PNG", "train/dog/4.PNG", "train/dog/7.PNG",
        "train/tree_frog/6.PNG", "train/tree_frog/9.PNG",
    ]  # fmt: skip
    assert [sample.label for sample in samples] == [2, 2, 0, 0, 1, 1]
    assert samples[0].image == (folder / "train/cat/5.PNG").read_bytes()
    assert {sample.label for sample in task.samples("test")} == {1, 2}


def test_folders_give_the_class_names_if_the_preset_does_not(folder):
    assert ImageFolder(folder, None).classnames == NAMES


def test_an_exact_name_goes_before_one_with_spaces(folder):
    task = ImageFolder(folder, ["tree frog", "dog", "cat", "tree_frog"])
    assert {sample.label for sample in task.samples("train")} == {1, 2, 3}


def test_a_folder_that_is_no_class_is_named(folder):
    with pytest.raises(
        MergeloomError, match=r"pets/train: 'tree_frog' are not among the 2 classes"
    ):
        ImageFolder(folder, ["cat", "dog"])
    (folder / "test/bird").mkdir()
    with pytest.raises(MergeloomError, match=r"pets/test: 'bird' are not among the 3 classes"):
        ImageFolder(folder, None)


def test_a_folder_without_a_split_or_images_is_named(folder):
    (folder / "train/dog/more").mkdir()
    with pytest.raises(MergeloomError, match=r"train/dog/more: is a folder within a class"):
        list(ImageFolder(folder, None).samples("train"))
    shutil.rmtree(folder / "train/cat")
    (folder / "train/cat").mkdir()
    with pytest.raises(MergeloomError, match=r"pets/train/cat: holds no image \(png, jpg,"):
        list(ImageFolder(folder, None).samples("train"))
    shutil.rmtree(folder / "test")
    with pytest.raises(MergeloomError, match=r"pets: has no folder test; expected train, test and"):
        ImageFolder(folder, None)
    with pytest.raises(MergeloomError, match=r"has no folder train and no folder test"):
        ImageFolder(Path("nowhere"), None)


def test_any_change_of_a_folder_changes_its_state_and_its_checksum(folder):
    seen = [(state_of(folder), sha256(folder / "train"))]
    image = folder / "train/cat/8.PNG"

    def changed():
        now = (state_of(folder), sha256(folder / "train"))
        assert all(now[i] not in [before[i] for before in seen] for i in range(2))
        seen.append(now)

    content = bytearray(image.read_bytes())
    content[-1] ^= 1
    image.write_bytes(content)  # of the same size
    os.utime(image, ns=(1, 1))
    changed()
    image.rename(image.with_name("7.PNG"))
    changed()
    (folder / "train/dog/4.PNG").unlink()
    changed()
    (folder / "train/cat/.hidden").write_text("x")
    (folder / "train/cat/.DS_Store").unlink()
    assert (state_of(folder), sha256(folder / "train")) == seen[-1]
